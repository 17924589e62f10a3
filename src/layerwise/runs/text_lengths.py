"""How long a model's texts are on a task: tried on a few items, then remembered for estimates.

No result depends on it; how long a text may be is the task's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError

from layerwise.models import LoadedFacts
from layerwise.models.cache import key_of, read_record, write_record
from layerwise.sweep import Generate, Generated, Sweep
from layerwise.sweep.cost import UNKNOWN_LENGTHS, TextLengths
from layerwise.sweep.requests import Request
from layerwise.tasks import Task

# Items of a task that are tried.
TRIED = 4
# Texts that may be no longer than this many tokens cost too little to be tried.
SHORT = 8
_KIND = "lengths"


def worth_trying(task: Task) -> bool:
    """Whether it matters to an estimate how long the texts of a task are."""
    return task.generate.max_tokens > SHORT


def expected_lengths(model: LoadedFacts, task: Task, chat: bool) -> TextLengths:
    """What is remembered; otherwise half of what is allowed."""
    return remembered_lengths(model, task, chat) or UNKNOWN_LENGTHS


def remembered_lengths(model: LoadedFacts, task: Task, chat: bool) -> TextLengths | None:
    """What was found for a model and a task, whatever the number of its items; None if nothing."""
    try:
        record = read_record(_KIND, _key(model, task, chat))
        return TypeAdapter(TextLengths).validate_python(record)
    except (ValidationError, ValueError):
        return None


def remember_lengths(model: LoadedFacts, task: Task, chat: bool, lengths: TextLengths) -> None:
    """Keep what was found."""
    write_record(_KIND, _key(model, task, chat), asdict(lengths))


def lengths_in(swept: Sweep, requests: Sequence[Request]) -> TextLengths:
    """Mean lengths of the texts of a sweep whose first intervention is the intact model."""
    intact, *changed = (
        [text.tokens for text in texts if isinstance(text, Generated)] for texts in swept.outcomes
    )
    most = sum(request.max_tokens for request in requests if isinstance(request, Generate))
    together = [(text, intact[i]) for texts in changed for i, text in enumerate(texts)]
    written = sum(len(text) for text, _ in together)
    return TextLengths(
        sum(map(len, intact)) / most,
        written / most / len(changed),
        sum(_agreed(*pair) for pair in together) / max(1, written),
    )


def _agreed(text: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b),
        min(len(text), len(other)),
    )


def _key(model: LoadedFacts, task: Task, chat: bool) -> str:
    shape = (model.n_layers, model.d_model, model.d_vocab, model.dtype)
    few = [example.id for example in task.fewshot]
    return key_of([model.name, *map(str, (*shape, task.generate, chat)), task.name, *few])
