"""Types of arguments that are tasks or results; plain ones are in ``ground.argument_types``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ParamSpec, TypeVar

from layerwise.errors import UserError
from layerwise.ground import arguments as _arguments
from layerwise.ground.argument_types import Names, one_of
from layerwise.ground.readers import Reads, entries, plain, refuse, task_name
from layerwise.runs.options import TEXTS
from layerwise.storage.base import Result
from layerwise.tasks import PROTOCOLS
from layerwise.tasks.registry import refuse_unusable_task
from layerwise.tasks.task import Task

_P = ParamSpec("_P")
_R = TypeVar("_R")


def read_task(name: str, value: Any) -> Any:
    """Read a task: its name, the path of its file, or the task itself."""
    read = plain(value)
    if isinstance(read, Task):
        return read
    return task_name(name, value, "a task's name, the path of a .jsonl file, or a Task")


def read_tasks(name: str, value: Any) -> tuple[Any, ...]:
    """Read one task or several."""
    single = plain(value)
    if isinstance(single, (str, os.PathLike, Task)):
        return (read_task(name, single),)
    expected = "a task's name, the path of a .jsonl file, a Task, or a list of these"
    return tuple(read_task(name, entry) for entry in entries(name, value, expected))


def read_results(name: str, value: Any) -> list[Any]:
    """Read one result or several."""
    if isinstance(value, Result):
        return [value]
    expected = "results, such as [layerwise.ablate(...)]; those of a profile are its .results"
    given = entries(name, value, expected)
    for one in given:
        if not isinstance(one, Result):
            raise refuse(name, one, expected)
    return given


Tasks = Annotated[
    str | Task | Sequence[str | Task], Reads(read_tasks, "TaskLike | Sequence[TaskLike]")
]
"""Names of tasks, paths of their files, or the tasks themselves."""
Protocols = Annotated[Names, one_of("protocol", PROTOCOLS)]
ResultList = Annotated[Sequence[Result], Reads(read_results, "Sequence[Result]")]
Results = Annotated[Result | Sequence[Result], Reads(read_results, "Result | Sequence[Result]")]


def check_arguments(
    *refusals: Callable[..., object],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """As ``ground.arguments.check_arguments``, for functions that take tasks."""
    return _arguments.check_arguments(_refuse_tasks, *refusals, texts=TEXTS)


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
    """A refusal of the protocol without prompts of its own, for an analysis of prompts."""

    def refuse_generate(protocols: Sequence[str]) -> None:
        if "generate" in protocols:
            raise UserError(
                f"{reads} of 'letter' or 'continuation'; 'generate' has the prompt of "
                "'continuation', so ask for that."
            )

    return refuse_generate
