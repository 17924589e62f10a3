"""Tasks of lm-evaluation-harness by name: ``lm-eval:arc_easy``, ``lm-eval:./mine.yaml``, a group.

Where a task is found is in ``finding``, whether its code may run in ``trust``, what becomes of its
documents in ``items``. The harness itself is imported when one is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from layerwise.errors import UserError
from layerwise.tasks._source_names import SourceName, read_source_name
from layerwise.tasks.items import CAPABILITIES
from layerwise.tasks.task import Task

from . import trust
from .finding import members
from .items import HarnessJudge, as_task
from .loading import load_theirs

PREFIX = "lm-eval"
_ARGUMENTS = ("filter", "metric", "capability", "trust")


def matches(name: str) -> bool:
    """True if a task's name is one of the harness."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Make a task of one of the harness, with its prompts, its options and its verdicts."""
    source = _parse_name(name)
    task = as_task(load_theirs(source, name), source.arguments, name, seed, fewshot)
    if isinstance(task.judge, HarnessJudge):
        task = replace(
            task, judge=replace(task.judge, loaded_by=(_load_judge, (name, seed, fewshot)))
        )
    return task


def _load_judge(name: str, seed: int, fewshot: int | None) -> Any:
    """The judge of a task that is loaded in another process."""
    return load(name, seed, fewshot).judge


def from_lm_eval(
    task: Any, *, seed: int = 0, fewshot: int | None = None, capability: str = "knowledge"
) -> Task:
    """Make a task of an lm-evaluation-harness task object.

    Args:
        task: a task as ``lm_eval.tasks.TaskManager().load(...)["tasks"]`` has it.
        seed: added to the seed of few-shot examples that the harness has by default, 1234.
        fewshot: number of examples; None for the task's own.
        capability: what its items ask for.

    Returns:
        A task whose scores under the protocol of its output type are the harness's.

    Raises:
        UserError: a task whose items cannot be right or wrong, or with options that stand in
            several prompts.

    Example:
        >>> from lm_eval.tasks import TaskManager  # doctest: +SKIP
        >>> theirs = TaskManager().load("arc_easy")["tasks"]["arc_easy"]  # doctest: +SKIP
        >>> layerwise.ablate(model, from_lm_eval(theirs), "continuation")  # doctest: +SKIP
    """
    name = f"{PREFIX}:{task.task_name}"
    return as_task(task, {"capability": capability}, name, seed, fewshot)


def expand(name: str) -> list[str]:
    """The tasks that a group or a tag stands for; a task stands for itself."""
    return members(_parse_name(name), name)


def is_trusted(name: str) -> bool:
    """True if a name lets its task run code."""
    return trust.is_trusted(_parse_name(name))


def refuse_unknown(name: str) -> None:
    """Refuse a task that is not there or may not run, without its data."""
    source = _parse_name(name)
    for one in expand(name):
        trust.trusted_config(_parse_name(one) if one != name else source, one)


def _parse_name(name: str) -> SourceName:
    source = read_source_name(name, _ARGUMENTS)
    capability, trust = source.arguments.get("capability"), source.arguments.get("trust")
    if capability not in (None, *CAPABILITIES):
        raise UserError(
            f"Capability {capability!r} of task {name!r} is unknown; expected one of "
            f"{', '.join(CAPABILITIES)}."
        )
    if trust not in (None, "yes"):
        raise UserError(f"Task {name!r} has trust={trust}; expected trust=yes, or leave it out.")
    return source
