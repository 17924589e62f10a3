"""Checkpoints of one model as they are given, and the run of each that can be resumed.

Runs are joined in ``series``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.execute import execute
from layerwise.analyses.logit_lens.api import Lens
from layerwise.analyses.logit_lens.result import LensResult
from layerwise.errors import UserError, counted, shown
from layerwise.ground.path_readers import path
from layerwise.ground.readers import plain, refuse, whole
from layerwise.models.conversion.bridge import accepted
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.models.load import load_model
from layerwise.runs.setup import prepare
from layerwise.storage.base import Result

LENS = "lens"
_READ = {"letter": "letter", "continuation": "continuation", "generate": "continuation"}
Checkpoint = Model | str | Path | Callable[[], Model]
Checkpoints = (
    Mapping[int, Checkpoint] | Sequence[str | Path] | Iterable[tuple[int, Checkpoint]]
)  # fmt: skip
_EXPECTED = (
    "the folders of checkpoints, a mapping of steps to folders or models, or (step, model) pairs"
)
_STEP = whole(500)


def loaded(step: int, checkpoint: Any, how: Mapping[str, Any]) -> Model:
    """The model of a checkpoint: itself, what its function makes, or what its folder holds."""
    given = accepted(checkpoint)
    if not isinstance(given, Model) and callable(given):
        given = accepted(given())
        if not isinstance(given, Model):
            raise UserError(
                f"The function of the checkpoint of step {step} gave {shown(given)}: expected a "
                "loaded model; let it return one."
            )
    return given if isinstance(given, Model) else load_model(checkpoint, **how)


@exclusive
def measured(
    model: Model, tasks: Any, protocols: Any, also: Sequence[str], run: dict[str, Any]
) -> list[Result]:
    """Skip every layer of a checkpoint where it beats blind; read its lens if requested."""
    setup = prepare(model, tasks, protocols, **run)
    layers = tuple(range(model.cfg.n_layers))
    skipped = AblationSpec.of(model, "skip", None, layers)
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


def read_checkpoints(name: str, value: Any) -> Mapping[int, Any] | Iterable[tuple[int, Any]]:
    """Read checkpoints by step; of a generator, pairs that are read as they come."""
    if isinstance(value, Mapping):
        return _in_order([_pair(name, one) for one in value.items()])
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise refuse(name, value, _EXPECTED)
    if isinstance(value, Sequence):
        return _in_order([_entry(name, one) for one in value])
    return (_entry(name, one) for one in value)


def read_series(name: str, value: Any) -> Mapping[int, str | Path]:
    """Read the folders of runs by step, as of checkpoints."""
    folders = dict(one_by_one(read_checkpoints(name, value)))
    return _in_order([(step, path(name, folder)) for step, folder in folders.items()])


def one_by_one(
    checkpoints: Mapping[int, Any] | Iterable[tuple[int, Any]],
) -> Iterator[tuple[int, Any]]:
    """Checkpoints as they come, none of them twice."""
    seen: set[int] = set()
    pairs: Any = checkpoints.items() if isinstance(checkpoints, Mapping) else checkpoints
    for step, checkpoint in pairs:
        _refuse_twice(step, seen)
        seen.add(step)
        yield step, checkpoint


def _in_order(pairs: list[tuple[int, Any]]) -> dict[int, Any]:
    if len(pairs) < 2:
        raise UserError(
            f"A series of {counted(len(pairs), 'checkpoint')} is none: expected two or more steps "
            "of one model's training; give more, or use `layerwise profile` for one model."
        )
    return dict(one_by_one(sorted(pairs, key=lambda pair: pair[0])))


def _refuse_twice(step: int, seen: set[int]) -> None:
    if step in seen:
        raise UserError(
            f"Two checkpoints are of step {step}: expected one of each step; leave one out, or "
            "say its step, as in STEP=FOLDER."
        )


def _entry(name: str, value: Any) -> tuple[int, Any]:
    if isinstance(value, (str, os.PathLike)):
        return _named(name, os.fspath(value))
    return _pair(name, value)


def _pair(name: str, value: Any) -> tuple[int, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise refuse(name, value, _EXPECTED)
    step, checkpoint = value
    number = _STEP(f"{name}: a step", plain(step))
    if number < 0:
        raise UserError(f"A checkpoint is of step {number}: expected 0 or more.")
    if isinstance(checkpoint, (str, os.PathLike)):
        return number, path(name, checkpoint)
    if not isinstance(checkpoint, Model) and not callable(checkpoint):
        raise refuse(f"{name}[{number}]", checkpoint, "a folder, a loaded model, or a function")
    return number, checkpoint


def _named(name: str, text: str) -> tuple[int, str | Path]:
    """A folder whose name ends with its step, or ``STEP=FOLDER``."""
    step, equals, folder = text.partition("=")
    if equals and step.strip().isdecimal():
        return int(step), path(name, folder)
    # Of the name as it is given: what a link leads to may be called otherwise.
    digits = re.search(r"(\d+)$", os.path.basename(os.path.abspath(text)))
    if digits is None:
        raise UserError(
            f"Cannot tell of which step {shown(text)} is: expected a folder whose name ends with "
            "its step, such as checkpoint-500, or STEP=FOLDER."
        )
    return int(digits[1]), path(name, text)
