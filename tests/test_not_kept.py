"""Files that were left out of a folder on purpose: told as such, and never passed over silently."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import layerwise as lw
from layerwise.errors import DamagedResultsError
from layerwise.storage.file_list import NOT_KEPT_FILE
from tests import commands, synthetic
from tests.analysis import word_task
from tests.models.tiny import tiny_model

ANALYSES = Path(__file__).parents[1] / "analyses"
LISTS = [*ANALYSES.glob("*/results/**/run.json"), *ANALYSES.glob("*/results/comparison.json")]
REQUESTS = "requests.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run whose requests are not there, and which says so."""
    lw.ablate(tiny_model("llama"), word_task(4), "letter", out=tmp_path, progress=False)
    (tmp_path / REQUESTS).unlink()
    (tmp_path / NOT_KEPT_FILE).write_text(f"{REQUESTS}\n")
    return tmp_path


def test_what_is_not_kept_is_named_and_is_no_problem(folder: Path):
    found = lw.verify(folder)
    assert found.ok
    assert found.files[REQUESTS] == "not kept"
    assert NOT_KEPT_FILE not in found.files
    n = sum(state == "ok" for state in found.files.values())
    assert found.sentence == (
        f"{folder} is as it was written: {n} files have their SHA-256; left out on purpose, as "
        f"not_kept.txt says, and not checked: {REQUESTS}."
    )
    said = commands.done("verify", folder)
    assert f"{REQUESTS}: not kept\n" in said
    assert said.endswith(f"and not checked: {REQUESTS}.\n")


def test_it_is_read_without_a_warning(folder: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (read,) = lw.load_results(folder)
    assert len(read.records)


def test_what_is_gone_and_not_named_is_missing(folder: Path):
    (folder / NOT_KEPT_FILE).unlink()
    assert lw.verify(folder).problems == (f"{REQUESTS} is missing",)
    (folder / NOT_KEPT_FILE).write_text(f"{REQUESTS}\n")
    (folder / "signal.parquet").unlink()
    assert lw.verify(folder).problems == ("signal.parquet is missing",)


def test_what_is_there_is_checked_whatever_is_said_of_it(folder: Path):
    (folder / REQUESTS).write_text("something else")
    found = lw.verify(folder)
    assert found.files[REQUESTS] == "changed"
    assert found.problems == (f"{REQUESTS} is changed",)


def test_a_name_that_the_list_does_not_have_is_a_problem(folder: Path):
    (folder / NOT_KEPT_FILE).write_text(f"{REQUESTS}\nnotes.txt\n")
    assert lw.verify(folder).problems == (
        "not_kept.txt names notes.txt, which run.json does not list",
    )


def test_measurements_that_are_not_kept_can_be_verified_and_not_read(tmp_path: Path):
    synthetic.small_ablation().save(tmp_path)
    (tmp_path / "records.parquet").unlink()
    (tmp_path / NOT_KEPT_FILE).write_text("records.parquet\n")
    assert lw.verify(tmp_path).ok
    with pytest.raises(DamagedResultsError, match=r"not kept here, as not_kept\.txt says"):
        lw.load_results(tmp_path)


def test_the_same_run_writes_them_again(folder: Path):
    lw.ablate(tiny_model("llama"), word_task(4), "letter", out=folder, progress=False)
    assert lw.verify(folder).files[REQUESTS] == "ok"


@pytest.mark.parametrize("own", LISTS, ids=lambda path: str(path.parent.relative_to(ANALYSES)))
def test_saved_studies_are_as_they_were_written(own: Path):
    found = lw.verify(own.parent)
    assert found.ok, found.sentence
