"""Types of arguments that are tasks or results; plain ones are in ``ground.argument_types``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ParamSpec, TypeVar

from layerwise.errors import UserError
from layerwise.ground import arguments as _arguments
from layerwise.ground.argument_types import ExpectedWords, Names, known_name_validator, several
from layerwise.ground.readers import Reads, plain, task_name
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


_AnyTask = Annotated[str | Task, Reads(read_task, "TaskLike")]
Tasks = Annotated[
    _AnyTask | Sequence[_AnyTask],
    several(str, os.PathLike, Task),
    ExpectedWords("a task's name, the path of a .jsonl file, a Task, or a list of these"),
]
"""Names of tasks, paths of their files, or the tasks themselves."""
Protocols = Annotated[Names, known_name_validator("protocol", PROTOCOLS)]
_RESULTS = ExpectedWords("results", "[layerwise.ablate(...)]; those of a profile are its .results")
ResultList = Annotated[Sequence[Result], several(Result), _RESULTS]
Results = Annotated[Result | Sequence[Result], several(Result), _RESULTS]


def check_arguments(
    *refusals: Callable[..., object],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function that takes tasks (``ground.arguments.check_arguments``)."""
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


def generate_refusal(reads: str) -> Callable[[Sequence[str]], None]:
    """A refusal of the protocol without prompts of its own, for an analysis of prompts."""

    def refuse_generate(protocols: Sequence[str]) -> None:
        if "generate" in protocols:
            raise UserError(
                f"{reads} of 'letter' or 'continuation'; 'generate' has the prompt of "
                "'continuation', so ask for that."
            )

    return refuse_generate
