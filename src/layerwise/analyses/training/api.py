"""Checkpoints of one model, profiled and joined: ``profile_training`` and ``compare_series``.

Each checkpoint's run is a saved result of its own; the series is computed from these runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.comparison.compared import RunFacts
from layerwise.analyses.loading import load_results
from layerwise.errors import UserError
from layerwise.ground.options import of_kind
from layerwise.ground.readers import some_of
from layerwise.runs.options import CheckpointOptions, RunOptions, SeriesOptions
from layerwise.runs.setup import TaskLike
from layerwise.stats.share_tests.equivalence import Interest, refuse_uninteresting
from layerwise.storage.base import Result

from .job import (
    LENS,
    Checkpoints,
    loaded,
    measured,
    one_by_one,
    read_checkpoints,
    read_series,
)
from .joined import FOLDER, SeriesFacts
from .result import TrainingSeries
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
    **options: Unpack[SeriesOptions],
) -> TrainingSeries:
    """Measure when each capability appears in training, in which layers, and their moves.

    Every checkpoint is asked the same items, intact and with each layer skipped in turn, and the
    runs are joined as ``compare_series`` does.

    Args:
        checkpoints: folders in hub format whose names end with their step (``checkpoint-500``),
            or a mapping of steps to folders, models, or functions that load one; or pairs of
            step and any of these, one by one, so that only one model is in memory.
        also: ``lens`` to read every layer through the logit lens, too.
        out: folder for the tables and ``training.html``, with a folder ``step-N`` for the run of
            each checkpoint; an interrupted series goes on there.

    Returns:
        The tables of ``docs/training.md``, written to ``out`` with figures and a page if given.

    Raises:
        UserError: for anything unknown, out of range or contradictory; if checkpoints are not of
            one model, or two have the same weights or step.
    """
    refuse_uninteresting(smallest_loss, smallest_depth=smallest_depth)
    refuse_gain(smallest_gain)
    out, seed = options["out"], options["seed"]
    _refuse_page(out)
    interest = Interest(smallest_loss, depth=smallest_depth)
    how, run = of_kind(CheckpointOptions, options), of_kind(RunOptions, options)
    results: dict[int, list[Result]] = {}
    given: Any = checkpoints  # read by now
    for step, checkpoint in one_by_one(given):
        run["out"] = None if out is None else Path(out) / f"step-{step}"
        results[step] = measured(loaded(step, checkpoint, how), tasks, protocols, tuple(also), run)
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
    run_facts = tuple(RunFacts(name=run.name, group=None, facts=run.facts) for run in series.runs)
    facts = SeriesFacts(
        seed=seed, smallest_gain=smallest_gain, smallest_loss=interest.loss,
        smallest_depth=interest.depth, steps=series.steps, runs=run_facts,
    )  # fmt: skip
    return TrainingSeries(*series_tables(series, seed, smallest_gain, interest), facts)
