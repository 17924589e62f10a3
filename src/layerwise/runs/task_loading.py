"""Which tasks a model is asked: those named, in its language, with their first items."""

from __future__ import annotations

from collections.abc import Iterable

from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.instance.facts import language_of
from layerwise.models.instance.kinds import Model
from layerwise.tasks import Task, expand_task_names, load_task, task_names
from layerwise.tasks._own import check_own_task
from layerwise.tasks.passage_pairs import refuse_false_pairs
from layerwise.tasks.registry import TEXT
from layerwise.tasks.task import take

TaskLike = str | Task


def load_tasks(
    tasks: Iterable[TaskLike],
    *,
    seed: int,
    limit: int | None,
    fewshot: int | None,
    language: str = TEXT,
) -> tuple[Task, ...]:
    """Tasks by name (capabilities stand for their suites), and ready-made ones as they are."""
    loaded: list[Task] = []
    for task in tasks:
        if isinstance(task, Task):
            loaded.append(take(check_own_task(task), limit, fewshot))
        else:
            names = expand_task_names([task], language)
            loaded += [load_task(n, seed=seed, limit=limit, fewshot=fewshot) for n in names]
    unique = list({task.name: task for task in loaded}.values())
    if len({task.hash for task in loaded}) != len(unique):
        raise UserError("Two different tasks have the same name; rename one of them.")
    refuse_false_pairs(unique)
    return tuple(unique)


def refuse_no_chance(task: Task, protocols: Iterable[str]) -> None:
    """Refuse a task that does not say how often guessing is right, which all tests need."""
    for protocol in protocols:
        if protocol not in task.chance:
            raise UserError(
                f"Task {task.name!r} gives no chance level for protocol {protocol!r}: expected one "
                "for each protocol that it is asked under; add it, or leave the protocol out."
            )


def refuse_unknown_words(model: Model, tasks: Iterable[Task]) -> None:
    """Refuse to ask a model of a toy language in words that it does not have."""
    language = language_of(model)
    if language == TEXT:
        return
    known = original_tokenizer(model).get_vocab()
    for task in tasks:
        texts = [t for item in task.items for t in (item.context, item.question, item.answer)]
        unknown = [word for text in texts for word in (text or "").split() if word not in known]
        if unknown:
            raise UserError(
                f"Task {task.name!r} has words that the model does not know, such as "
                f"{unknown[0]!r}: it speaks a toy language only; expected "
                f"{', '.join(task_names(language))}, or 'all' for these."
            )
