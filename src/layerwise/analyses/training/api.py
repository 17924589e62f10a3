"""Checkpoints of one model, profiled and joined; each one's run is a saved result of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Unpack

from layerwise.analyses import loading
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.comparison.runs import RunFacts
from layerwise.analyses.execute import execute
from layerwise.analyses.logit_lens.api import Lens
from layerwise.analyses.logit_lens.result import LensResult
from layerwise.errors import UserError, short_repr
from layerwise.ground.argument_types import Names, Seed, known_name_validator
from layerwise.ground.arguments import Argument, select_options
from layerwise.ground.readers import Reads, path, refuse
from layerwise.models.conversion.in_memory import hook_in_memory
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.models.load import load_model
from layerwise.runs.options import CheckpointOptions, RunOptions, SeriesOptions
from layerwise.runs.setup import prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects
from layerwise.storage.base import Result

from .report import TrainingSeries
from .tables import (
    FOLDER,
    SeriesFacts,
    checkpoints_of_one_model,
    joined_series,
    refuse_single,
    series_tables,
)

LENS = "lens"
_READ = {"letter": "letter", "continuation": "continuation", "generate": "continuation"}
Checkpoint = Model | str | Path | Callable[[], Model]
Checkpoints = (
    Mapping[int, Checkpoint] | Sequence[str | Path] | Iterable[tuple[int, Checkpoint]]
)  # fmt: skip
_EXPECTED = (
    "the folders of checkpoints, a mapping of steps to folders or models, or (step, model) pairs"
)


def load_checkpoint(step: int, checkpoint: Any, how: Mapping[str, Any]) -> Model:
    """The model of a checkpoint: itself, what its function makes, or what its folder holds."""
    given = hook_in_memory(checkpoint)
    if not isinstance(given, Model) and callable(given):
        given = hook_in_memory(given())
        if not isinstance(given, Model):
            raise UserError(
                f"The function of the checkpoint of step {step} gave {short_repr(given)}: "
                f"expected a "
                "loaded model; let it return one."
            )
    return given if isinstance(given, Model) else load_model(checkpoint, **how)


@exclusive
def measure_checkpoint(
    model: Model, tasks: Any, protocols: Any, also: Sequence[str], run: dict[str, Any]
) -> list[Result]:
    """Skip every layer of a checkpoint where it beats blind; read its lens if requested."""
    setup = prepare(model, tasks, protocols, **run)
    skipped = AblationSpec.for_model(model, "skip", None, tuple(range(model.cfg.n_layers)))
    jobs: list[Any] = [Ablation(setup, (skipped,), only_with_signal=True)]
    if LENS in also:
        read = tuple(dict.fromkeys(_READ[protocol] for protocol in setup.protocols))
        jobs.append(Lens(replace(setup, protocols=read), strict=False))
    more = {"also": list(also)} if also else {}
    settings = setup.settings(analysis="profile training", **jobs[0].settings(), **more)
    return execute(
        lambda parts, progress: [job.run(parts, settings, progress) for job in jobs],
        (AblationResult, LensResult), run["out"], settings, setup.refuse_changed, run["progress"],
        jobs[0].write_requests,
    )  # fmt: skip


def read_checkpoints(name: str, value: Any) -> Iterable[tuple[int, Any]]:
    """Read (step, checkpoint) pairs, sorted; of a generator they are read as they come."""
    entries = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(entries, (str, bytes, os.PathLike)) or not isinstance(entries, Iterable):
        raise refuse(name, value, _EXPECTED)
    pairs = (_pair(name, entry) for entry in entries)
    if not isinstance(entries, Sequence):
        return pairs
    in_order = sorted(pairs, key=lambda pair: pair[0])
    refuse_single(len(in_order))
    return list(distinct_checkpoints(in_order))


def read_series(name: str, value: Any) -> Mapping[int, str | Path]:
    """Read the folders of runs by step, as of checkpoints."""
    pairs = distinct_checkpoints(read_checkpoints(name, value))
    return {step: path(name, folder) for step, folder in pairs}


def distinct_checkpoints(checkpoints: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Checkpoints as they come, none of them twice."""
    seen: set[int] = set()
    for step, checkpoint in checkpoints:
        if step in seen:
            raise UserError(
                f"Two checkpoints are of step {step}: expected one of each step; leave one out, or "
                "say its step, as in STEP=FOLDER."
            )
        seen.add(step)
        yield step, checkpoint


def _pair(name: str, value: Any) -> tuple[int, Any]:
    if isinstance(value, (str, os.PathLike)):
        return _parse_checkpoint(name, os.fspath(value))
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise refuse(name, value, _EXPECTED)
    step, checkpoint = value
    number = Argument(f"{name}: a step", int, 500).read(step)
    if number < 0:
        raise UserError(f"A checkpoint is of step {number}: expected 0 or more.")
    if isinstance(checkpoint, (str, os.PathLike)):
        return number, path(name, checkpoint)
    if not isinstance(checkpoint, Model) and not callable(checkpoint):
        raise refuse(f"{name}[{number}]", checkpoint, "a folder, a loaded model, or a function")
    return number, checkpoint


def _parse_checkpoint(name: str, text: str) -> tuple[int, str | Path]:
    """A folder whose name ends with its step, or ``STEP=FOLDER``."""
    step, equals, folder = text.partition("=")
    if equals and step.strip().isdecimal():
        return int(step), path(name, folder)
    # Of the name as it is given: what a link leads to may be called otherwise.
    digits = re.search(r"(\d+)$", os.path.basename(os.path.abspath(text)))
    if digits is None:
        raise UserError(
            f"Cannot tell of which step {short_repr(text)} is: expected a folder whose "
            f"name ends with "
            "its step, such as checkpoint-500, or STEP=FOLDER."
        )
    return int(digits[1]), path(name, text)


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
    check_smallest_effects,
    refuse_gain,
    _refuse_page,
)
def profile_training(
    checkpoints: Annotated[Checkpoints, Reads(read_checkpoints, "Checkpoints")],
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    also: Annotated[Names, known_name_validator("addition to a checkpoint's run", (LENS,))] = (),
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
    check_smallest_effects(smallest_loss, smallest_depth=smallest_depth)
    refuse_gain(smallest_gain)
    out, seed = options["out"], options["seed"]
    _refuse_page(out)
    interest = SmallestEffects(smallest_loss, depth=smallest_depth)
    how, run = select_options(CheckpointOptions, options), select_options(RunOptions, options)
    results: dict[int, list[Result]] = {}
    given: Any = checkpoints  # read by now
    for step, checkpoint in distinct_checkpoints(given):
        run["out"] = None if out is None else Path(out) / f"step-{step}"
        results[step] = measure_checkpoint(
            load_checkpoint(step, checkpoint, how), tasks, protocols, tuple(also), run
        )
        checkpoints_of_one_model(results)  # not after hours of all the others
    series = _series(results, seed, smallest_gain, interest)
    if out is not None:
        series.save(out)
    return series


@check_arguments(check_smallest_effects, refuse_gain)
def compare_series(
    runs: Annotated[Folders, Reads(read_series, "Folders")],
    *,
    seed: Seed = 0,
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
    check_smallest_effects(smallest_loss, smallest_depth=smallest_depth)
    refuse_gain(smallest_gain)
    by_step: Any = runs  # read by now
    results = {step: loading.load(folder) for step, folder in by_step.items()}
    return _series(
        results, seed, smallest_gain, SmallestEffects(smallest_loss, depth=smallest_depth)
    )


def _series(
    results: Mapping[int, Sequence[Result]],
    seed: int,
    smallest_gain: float,
    interest: SmallestEffects,
) -> TrainingSeries:
    series = joined_series(results)
    run_facts = tuple(RunFacts(name=run.name, group=None, facts=run.facts) for run in series.runs)
    facts = SeriesFacts(
        seed=seed, smallest_gain=smallest_gain, smallest_loss=interest.loss,
        smallest_depth=interest.depth, steps=series.steps, runs=run_facts,
    )  # fmt: skip
    return TrainingSeries(**series_tables(series, seed, smallest_gain, interest), facts=facts)
