"""A task of two items that tests can work out by hand."""

from __future__ import annotations

from typing import Any

from layerwise.tasks import Corruption, GenerateSpec, Item, Task, Template

FRANCE = Item(
    id="small/0000",
    question="The capital of France is",
    answer="Paris",
    choices=("Rome", "Paris", "Madrid"),
    corruption=Corruption("The capital of Spain is", "Madrid"),
)
BEN = Item(
    id="small/0001",
    question="The tallest is",
    answer="Anna",
    choices=("Anna", "Ben"),
    context="Anna is taller than Ben.",
    aliases=("Anna A.",),
)
SHOWN = Item(
    id="small/fewshot/0000",
    question="The capital of Spain is",
    answer="Madrid",
    choices=("Rome", "Paris", "Madrid"),
)


def small_task(**changes: Any) -> Task:
    """The task, with some of its fields changed."""
    fields: dict[str, Any] = {
        "name": "small",
        "capability": "knowledge",
        "description": "two questions",
        "items": (FRANCE, BEN),
        "fewshot": (SHOWN,),
        "generate": GenerateSpec((".", "\n"), 4, "first_line"),
        "chance": {"letter": 5 / 12, "continuation": 5 / 12, "generate": 0.5},
        "template": Template(answer_end=".", separator="\n", context_end=" "),
    }
    return Task(**{**fields, **changes})
