"""Files that a host of repositories reads: a workflow, hooks and forms for issues."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_plain_words import MOST_WORDS, n_words, sentences

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def test_the_workflow_does_what_is_done_here():
    (job,) = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_hooks_are_of_the_locked_ruff_and_check_what_make_lint_checks():
    (hooks,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    locked = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert locked
    assert hooks["rev"] == f"v{locked[1]}"
    assert [hook["id"] for hook in hooks["hooks"]] == ["ruff-check", "ruff-format"]


def test_there_are_three_forms():
    assert [form.stem for form in FORMS] == ["error", "question", "wrong_number"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_the_host_takes_in_short_sentences(path):
    form = read(path)
    assert set(form) == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} == {"textarea"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field["validations"]["required"] for field in fields)
    texts = [form["description"]]
    for field in form["body"]:
        given = field["attributes"]
        assert set(given) <= {"label", "description", "render", "value"}
        texts += [given.get("description", ""), given.get("value", "")]
    long = [one for text in texts for one in sentences(text) if n_words(one) > MOST_WORDS]
    assert long == []
