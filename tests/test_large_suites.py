"""Suites of many items: plans count some pieces, and requests are not kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerwise as lw
from layerwise.analyses.ablation import job as module
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.errors import UserError
from layerwise.runs import records
from layerwise.runs.records import write_requests
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.atomic_files import temporary_path, write_atomically
from layerwise.tasks import TaskRequest
from tests.analysis import word_task
from tests.models.tiny import tiny_model

N_ITEMS = 24


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(tiny_model("llama"), [word_task(N_ITEMS)], "continuation")


def skip_ablation(setup: Setup, kind: str = "skip") -> Ablation:
    return Ablation(setup, (AblationSpec.for_model(setup.model, kind, None, (0, 1)),))


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", 1)


def test_of_many_pieces_some_are_counted_and_stand_for_the_others(
    setup: Setup, one_at_a_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = skip_ablation(setup)
    monkeypatch.setattr(module, "MOST_COUNTED", N_ITEMS)
    every = job.expected_cost(setup.tasks[0], "continuation")
    assert len(job.counted) == N_ITEMS
    monkeypatch.setattr(module, "MOST_COUNTED", 5)
    some = skip_ablation(setup)
    cost = some.expected_cost(setup.tasks[0], "continuation")
    assert len(some.counted) == 5
    assert cost.requests == every.requests == N_ITEMS * 3 * 4  # three other questions for each
    assert cost.token_passes == pytest.approx(every.token_passes, rel=0.1)
    assert some.amount() == cost.amount
    assert len(some.counted) == 5


def test_of_long_prompts_fewer_pieces_are_counted(setup, monkeypatch):
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", 5)
    every = skip_ablation(setup).expected_cost(setup.tasks[0], "continuation")
    monkeypatch.setattr(module, "MOST_CHARACTERS", 1)
    some = skip_ablation(setup)
    cost = some.expected_cost(setup.tasks[0], "continuation")
    assert len(some.counted) == 1
    # The last piece has four items, and is a share of what was counted.
    assert cost.requests == every.requests == N_ITEMS * 3 * 4
    assert cost.interventions == every.interventions
    assert cost.token_passes == pytest.approx(every.token_passes, rel=0.1)


@pytest.mark.long
def test_a_run_is_the_same_however_many_of_its_pieces_were_counted(
    setup: Setup, one_at_a_time: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(out: Path) -> lw.AblationResult:
        return lw.ablate(
            setup.model, list(setup.tasks), "continuation", layers=[0], out=out, progress=False
        )

    whole = run(tmp_path / "whole")
    monkeypatch.setattr(module, "MOST_COUNTED", 2)
    assert run(tmp_path / "some").records.equals(whole.records)
    written = [(tmp_path / name / "requests.jsonl").read_bytes() for name in ("whole", "some")]
    assert written[0] == written[1]


def test_only_means_and_noise_read_all_prompts_of_a_task(setup: Setup) -> None:
    def prompts() -> list[tuple[int, ...]]:
        raise AssertionError("all prompts were encoded")

    for kind in ("skip", "zero", "resample"):
        assert AblationSpec.for_model(setup.model, kind, None, (0,)).interventions(setup, prompts)
    for kind in ("mean", "noise"):
        with pytest.raises(AssertionError, match="all prompts were encoded"):
            AblationSpec.for_model(setup.model, kind, None, (0,)).interventions(setup, prompts)


def test_questions_of_a_run_in_memory_are_made_when_they_are_read(setup, monkeypatch):
    made: list[Any] = []
    monkeypatch.setattr(records, "text_line", lambda request: made.append(request) or {})
    found = lw.ablate(
        setup.model, list(setup.tasks), "continuation", layers=[0], progress=False, limit=3
    )
    assert made == []
    monkeypatch.undo()
    assert found.questions is not None
    assert len(found.questions()) == len(found.questions()) == 3


def test_requests_are_written_as_they_are_made(setup: Setup, tmp_path: Path) -> None:
    task = setup.tasks[0]
    (one, *_) = setup.requests(task, task.items[0], "continuation")
    sizes: list[int] = []

    def requests() -> Iterator[TaskRequest]:
        for _ in range(200):
            yield one
            sizes.append(temporary_path(tmp_path / "requests.jsonl").stat().st_size)

    write_requests(requests(), tmp_path)
    assert 0 < sizes[-1] < (tmp_path / "requests.jsonl").stat().st_size
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 200


def test_a_file_that_cannot_be_made_whole_is_not_there(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"begun"
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_atomically(tmp_path / "file", parts())
    assert list(tmp_path.iterdir()) == []
