"""Arguments that are models, tasks, results or lenses; plain ones are in ``ground.arguments``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from layerwise.errors import UserError, shown
from layerwise.ground import arguments as _arguments
from layerwise.ground.readers import (
    Reader,
    entries,
    model_name,
    path,
    plain,
    refuse,
    some_of,
    task_name,
)
from layerwise.runs.options import TEXTS
from layerwise.storage.base import Result
from layerwise.storage.places import refuse_unusable_folder
from layerwise.tasks import PROTOCOLS
from layerwise.tasks.registry import refuse_unusable_task
from layerwise.tasks.task import Task

_P = ParamSpec("_P")
_R = TypeVar("_R")


def task(name: str, value: Any) -> Any:
    """Read a task: its name, the path of its file, or the task itself."""
    read = plain(value)
    if isinstance(read, Task):
        return read
    return task_name(name, value, "a task's name, the path of a .jsonl file, or a Task")


def tasks(name: str, value: Any) -> tuple[Any, ...]:
    """Read one task or several."""
    single = plain(value)
    if isinstance(single, (str, os.PathLike, Task)):
        return (task(name, single),)
    expected = "a task's name, the path of a .jsonl file, a Task, or a list of these"
    return tuple(task(name, entry) for entry in entries(name, value, expected))


def results(name: str, value: Any) -> list[Any]:
    """Read one result or several."""
    if isinstance(value, Result):
        return [value]
    expected = "results, such as [layerwise.ablate(...)]; those of a profile are its .results"
    given = list(entries(name, value, expected))
    for one in given:
        if not isinstance(one, Result):
            raise refuse(name, one, expected)
    return given


def model(name: str, value: Any) -> Any:
    """Read a loaded model; of a ``TransformerBridge`` it is the decoder that it wraps."""
    from layerwise.models.conversion.bridge import accepted
    from layerwise.models.instance.kinds import Model

    value = accepted(value)
    if not isinstance(value, Model):
        named = isinstance(value, (str, os.PathLike)) or value is None
        given = shown(value) if named else f"of type {type(value).__name__}"
        raise UserError(
            f"Argument {name!r} is {given}; expected a loaded model: load it first, with "
            "layerwise.load_model(...)."
        )
    return value


def model_or_name(name: str, value: Any) -> Any:
    """Read a loaded model, or the name of one."""
    if isinstance(value, (str, os.PathLike)):
        return model_name(name, value)
    return model(name, value)


def lens(name: str, value: Any) -> Any:
    """Read a tuned lens, or the path of one."""
    from layerwise.analyses.shared.translators import TunedLens

    return value if isinstance(value, TunedLens) else path(name, value)


def executor(name: str, value: Any) -> Any:
    """Read what makes pieces, and refuse a cluster that does not answer."""
    from layerwise.runs.executors import Executor
    from layerwise.runs.ray_executor import RayExecutor

    if not isinstance(value, Executor):
        raise refuse(name, value, "a RayExecutor, such as RayExecutor(actors=2)")
    if isinstance(value, RayExecutor):
        value.refuse_unreachable()
    return value


def out(name: str, value: Any) -> Any:
    """Read the path of a folder to write to, and refuse one that cannot be written."""
    place = path(name, value)
    refuse_unusable_folder(Path(place))
    return place


READERS: Mapping[str, Reader] = {
    **_arguments.READERS,
    "out": out,
    "protocols": some_of("protocol", PROTOCOLS, none=True),
}
"""How arguments of some names are read, whatever their type."""
READERS_OF_TYPES: Mapping[str, Reader] = {
    **_arguments.READERS_OF_TYPES,
    "Executor": executor,
    "Model": model,
    "str | os.PathLike[str] | Model": model_or_name,
    "Result | Sequence[Result]": results,
    "Sequence[Result]": results,
    "TaskLike | Sequence[TaskLike]": tasks,
    "TunedLens | str | Path": lens,
}
"""How all others are read, by their types."""


def check_arguments(
    *ahead: Callable[..., object], **others: Reader
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """As ``_arguments.check_arguments``, also for models, tasks, results and lenses."""
    named = {**READERS, **others}
    return _arguments.checked((_refuse_tasks, *ahead), named, READERS_OF_TYPES, TEXTS)


def _refuse_tasks(
    tasks: Sequence[Any] | None = None,
    seed: int = 0,
    limit: int | None = None,
    fewshot: int | None = None,
) -> None:
    for one in tasks or ():
        if isinstance(one, str):
            refuse_unusable_task(one, seed=seed, limit=limit, fewshot=fewshot)


def refuse_generate_of(reads: str) -> Callable[[Sequence[str]], None]:
    """What refuses the protocol that has no prompts of its own, for an analysis of prompts."""

    def refuse_generate(protocols: Sequence[str]) -> None:
        if "generate" in protocols:
            raise UserError(
                f"{reads} of 'letter' or 'continuation'; 'generate' has the prompt of "
                "'continuation', so ask for that."
            )

    return refuse_generate
