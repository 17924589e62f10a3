"""Checkpoints of one model, profiled and joined: ``profile_training`` and ``compare_series``.

Each checkpoint's run is a saved result of its own; the series is computed from these runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.comparison.compared import RunFacts
from layerwise.analyses.loading import load_results
from layerwise.errors import UserError
from layerwise.ground.readers import some_of
from layerwise.runs.executors import Executor
from layerwise.runs.setup import TaskLike
from layerwise.stats.share_tests.equivalence import Interest, refuse_uninteresting
from layerwise.storage.base import Result

from .job import (
    LENS,
    Asked,
    Checkpoints,
    loaded,
    measured,
    one_by_one,
    read_checkpoints,
    read_series,
)
from .joined import SeriesFacts
from .result import FOLDER, TrainingSeries
from .series import checkpoints_of_one_model, joined_series
from .tables import series_tables

Folders = Mapping[int, str | Path] | Sequence[str | Path]


def refuse_gain(smallest_gain: float = 0.2) -> None:
    """Refuse a smallest gain that is no share."""
    if not 0 < smallest_gain < 1:
        raise UserError(
            f"The smallest gain is {smallest_gain}; expected an accuracy above the floor, more "
            "than 0 and less than 1, such as 0.2 for 20 points."
        )


def _refuse_page(out: str | Path | None) -> None:
    if out is not None:
        FOLDER.refuse_unusable(Path(out))


@check_arguments(
    refuse_uninteresting,
    refuse_gain,
    _refuse_page,
    checkpoints=read_checkpoints,
    also=some_of("addition to a checkpoint's run", (LENS,), none=True),
)
def profile_training(
    checkpoints: Checkpoints,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation", "generate"),
    *,
    also: str | Sequence[str] = (),
    smallest_gain: float = 0.2,
    smallest_loss: float = 0.05,
    smallest_depth: float = 1.0,
    limit: int | None = 100,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    offload: str | None = None,
    backend: str = "auto",
    out: str | Path | None = None,
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> TrainingSeries:
    """Measure when each capability appears in training, in which layers, and their moves.

    Every checkpoint is asked the same items, intact and with each layer skipped in turn, and the
    runs are joined as ``compare_series`` does.

    Args:
        checkpoints: folders in hub format whose names end with their step (``checkpoint-500``),
            or a mapping of steps to folders, models, or functions that load one; or pairs of
            step and any of these, one by one, so that only one model is in memory.
        tasks: task names, capabilities, JSONL files, or ``Task`` values.
        protocols: ``letter``, ``continuation``, ``generate``.
        also: ``lens`` to read every layer through the logit lens, too.
        smallest_gain: accuracy above the floor, 0 to 1, at which a capability counts as present.
        smallest_loss: smallest loss of accuracy of interest, 0 to 1. Layers that cost less are not
            reported.
        smallest_depth: smallest move of interest, in layers. Smaller ones are not reported.
        limit: take the first so many items of each task; None for all.
        seed: decides the items of built-in suites and all bootstraps.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of checkpoints that are folders.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, of checkpoints that are folders.
        offload: ``disk`` leaves the weights of layers on disk, as in ``load_model``, of
            checkpoints that are folders.
        backend: what runs them, as in ``load_model``, of checkpoints that are folders.
        out: folder for the tables and ``training.html``, with a folder ``step-N`` for the run of
            each checkpoint; an interrupted series goes on there.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        executor: makes the pieces: a ``RayExecutor`` for workers on other machines; this process
            if None.
        progress: show a progress bar on a terminal.

    Returns:
        The tables of ``docs/training.md``, written to ``out`` with figures and a page if given.

    Raises:
        UserError: for anything unknown, out of range or contradictory; if checkpoints are not of
            one model, or two have the same weights or step.
    """
    refuse_uninteresting(smallest_loss, smallest_depth=smallest_depth)
    refuse_gain(smallest_gain)
    _refuse_page(out)
    interest = Interest(smallest_loss, depth=smallest_depth)
    asked = Asked(
        tasks, protocols, tuple(also), limit, seed, fewshot, chat, memory_budget, progress, executor
    )
    how = {"dtype": dtype, "device": device, "offload": offload, "backend": backend}
    results: dict[int, list[Result]] = {}
    given: Any = checkpoints  # read by now
    for step, checkpoint in one_by_one(given):
        folder = None if out is None else Path(out) / f"step-{step}"
        results[step] = measured(loaded(step, checkpoint, how), asked, folder)
        checkpoints_of_one_model(results)  # not after hours of all the others
    series = _series(results, seed, smallest_gain, interest)
    if out is not None:
        series.save(out)
    return series


@check_arguments(refuse_uninteresting, refuse_gain, runs=read_series)
def compare_series(
    runs: Folders,
    *,
    seed: int = 0,
    smallest_gain: float = 0.2,
    smallest_loss: float = 0.05,
    smallest_depth: float = 1.0,
) -> TrainingSeries:
    """Join saved runs of one model's checkpoints: onsets, layers by step, and their moves.

    Args:
        runs: folders whose names end with their step (``step-500``), or a mapping of steps to
            folders; each with an ablation of single layers.
        seed: decides the bootstraps.
        smallest_gain: accuracy above the floor, 0 to 1, at which a capability counts as present.
        smallest_loss: smallest loss of accuracy of interest, 0 to 1. Layers that cost less are not
            reported.
        smallest_depth: smallest move of interest, in layers. Smaller ones are not reported.

    Returns:
        The tables of ``docs/training.md``; ``save`` writes them with figures and a page.

    Raises:
        UserError: if a folder cannot be read, or its name does not end with a step; if the runs
            are not of checkpoints of one model, or were asked other items or protocols.
    """
    refuse_uninteresting(smallest_loss, smallest_depth=smallest_depth)
    refuse_gain(smallest_gain)
    by_step: Any = runs  # read by now
    results = {step: load_results(folder) for step, folder in by_step.items()}
    return _series(results, seed, smallest_gain, Interest(smallest_loss, depth=smallest_depth))


def _series(
    results: Mapping[int, Sequence[Result]], seed: int, smallest_gain: float, interest: Interest
) -> TrainingSeries:
    series = joined_series(results)
    told = tuple(RunFacts(name=run.name, group=None, facts=run.facts) for run in series.runs)
    facts = SeriesFacts(
        seed=seed, smallest_gain=smallest_gain, smallest_loss=interest.loss,
        smallest_depth=interest.depth, steps=series.steps, runs=told,
    )  # fmt: skip
    return TrainingSeries(*series_tables(series, seed, smallest_gain, interest), facts)
