"""Logs of lm-evaluation-harness, compared item by item."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from scipy.stats import binomtest

import layerwise as lw
from tests.commands import run


def write(path, values, metric="acc", **more):
    rows = [
        {
            "doc_id": number, "doc": {}, "target": "B", "filter": "none", "metrics": [metric],
            "doc_hash": f"d{number}", "prompt_hash": "p", "target_hash": "t",
            "filtered_resps": [["A" if value else "C"]], metric: value, **more,
        }
        for number, value in enumerate(values)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_the_test_is_mcnemars_by_hand(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0] * 20 + [0.0] * 10 + [0.0] * 4 + [1.0] * 1)
    second = write(tmp_path / "b.jsonl", [1.0] * 20 + [1.0] * 10 + [0.0] * 4 + [0.0] * 1)
    found = lw.compare_logs(first, second)
    assert found.p == pytest.approx(binomtest(1, 11).pvalue)
    assert (found.first, found.second) == (21 / 35, 30 / 35)
    assert found.difference.estimate == pytest.approx(9 / 35)
    assert found.difference.low < 9 / 35 < found.difference.high
    assert found.changed["doc_id"].tolist() == [*range(20, 30), 34]
    assert "better on 10 items and worse on 1" in str(found)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ([["-9.5", "False"], ["-2.5", "True"], ["-3", "False"]], "1"),
        ([[-9.5, False], [-12.5, False]], "0"),
        (["Paris"], "Paris"),
        ([["Paris", "Rome"]], "['Paris', 'Rome']"),
        ("", ""),
    ],
)
def test_of_options_the_most_likely_is_named(tmp_path, given, answer):
    first = write(tmp_path / "a.jsonl", [1.0], filtered_resps=given)
    second = write(tmp_path / "b.jsonl", [0.0], filtered_resps=["C"])
    assert lw.compare_logs(first, second).changed["first_answer"].tolist() == [answer]


def test_items_are_paired_by_what_was_asked_not_by_place(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0, 1.0])
    lines = write(tmp_path / "b.jsonl", [1.0, 0.0, 1.0]).read_text("utf-8").splitlines()
    other = tmp_path / "c.jsonl"
    other.write_text("\n".join([lines[2], lines[0]]), "utf-8")
    found = lw.compare_logs(first, other)
    assert found.difference.estimate == 0
    assert found.alone == (1, 0)
    assert "1 and 0 items are in one log alone" in str(found)


def test_what_is_no_share_of_right_answers_is_compared_too(tmp_path):
    first = write(tmp_path / "a.jsonl", [0.1, 0.2, 0.3, 0.4], "f1")
    second = write(tmp_path / "b.jsonl", [0.5, 0.6, 0.7, 0.8], "f1", prompt_hash="q")
    found = lw.compare_logs(first, second)
    assert found.metric == "f1"
    assert found.p == pytest.approx(2 / 16)
    assert found.other_prompts == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has items without"),
        ("{", "cannot be read"),
        ('{"doc_id": 1}', "expected a file samples_TASK_DATE.jsonl"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, text, message):
    good = write(tmp_path / "a.jsonl", [1.0])
    (tmp_path / "b.jsonl").write_text(text, "utf-8")
    with pytest.raises(lw.UserError, match=message):
        lw.compare_logs(good, tmp_path / "b.jsonl")


def test_logs_of_other_tasks_and_unknown_metrics_are_refused(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0])
    second = write(tmp_path / "b.jsonl", [1.0, 0.0], target_hash="other")
    with pytest.raises(lw.UserError, match="share no item"):
        lw.compare_logs(first, second)
    with pytest.raises(lw.UserError, match="Did you mean 'acc'"):
        lw.compare_logs(first, first, "ac")
    bare = write(tmp_path / "c.jsonl", [1.0, 0.0], "perplexity")
    with pytest.raises(lw.UserError, match="share no accuracy"):
        lw.compare_logs(bare, bare)


def test_the_command_compares_logs_without_a_model(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0])
    assert "p = 1" in run("compare", first, first).out
    code = (
        "import sys, layerwise as lw\n"
        f"lw.compare_logs({str(first)!r}, {str(first)!r})\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
