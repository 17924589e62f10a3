"""What all suites are built with: seeded draws, balanced gold positions, chance levels.

What is asked is told by the suites themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np

from layerwise.errors import UserError
from layerwise.tasks.items import Item

T = TypeVar("T")

N_ITEMS = 200


def generator(seed: int, name: str) -> np.random.Generator:
    """A generator of random numbers of its own for each suite and seed."""
    return np.random.default_rng([seed, *name.encode()])


def data(name: str) -> Any:
    """The content of ``data/<name>.json``; read once."""
    return json.loads(_data_text(name))


def words(kind: str) -> tuple[str, ...]:
    """One of the project's word lists: ``nouns``, ``names``, ``animals`` or ``places``."""
    return tuple(data("words")[kind])


def draw(rng: np.random.Generator, values: Sequence[T], count: int) -> list[T]:
    """``count`` different ones of ``values``, in random order."""
    return [values[int(index)] for index in rng.permutation(len(values))[:count]]


def halves(rng: np.random.Generator, values: Sequence[T], first: int) -> tuple[list[T], list[T]]:
    """A random split of ``values``: ``first`` of them (for few-shot examples), and the rest."""
    mixed = draw(rng, values, len(values))
    return mixed[:first], mixed[first:]


def distinct(
    make: Callable[[int], Item],
    count: int,
    taken: Collection[Item] = (),
    key: Callable[[Item], Hashable] = lambda item: (item.context, item.question),
) -> list[Item]:
    """``count`` drafts of which no two, and none of ``taken``, are the same question.

    A draft that happens to have the same choice twice is drawn again.

    Args:
        make: draws a draft; gets the number of drafts so far.
        count: how many.
        taken: drafts that must not come again.
        key: what makes two drafts the same question.

    Raises:
        UserError: the suite's parameters do not allow so many different questions.
    """
    seen = {key(item) for item in taken}
    drafts: list[Item] = []
    for _ in range(1000 * count):
        if len(drafts) == count:
            return drafts
        draft = make(len(drafts))
        if key(draft) not in seen and len(set(draft.choices)) == len(draft.choices):
            seen.add(key(draft))
            drafts.append(draft)
    raise UserError(
        f"Only {len(drafts)} different questions were found, not {count}; ask for fewer items or "
        "for more difficult ones."
    )


def settle(rng: np.random.Generator, name: str, drafts: Sequence[Item]) -> tuple[Item, ...]:
    """Give drafts their ids and put the gold option at each position equally often.

    Args:
        rng: decides which item gets which position.
        name: what ids begin with.
        drafts: items whose first choice is the gold one.
    """
    turns = rng.permutation(len(drafts))
    return tuple(
        replace(draft, id=f"{name}/{index:04d}", choices=_placed(draft.choices, int(turn)))
        for index, (draft, turn) in enumerate(zip(drafts, turns, strict=True))
    )


def chance(items: Sequence[Item], generate: float) -> Mapping[str, float]:
    """Chance levels: one over the number of options, and what is given for ``generate``."""
    options = sum(1 / len(item.choices) for item in items) / len(items)
    return {"letter": options, "continuation": options, "generate": generate}


def commonest_answer(items: Sequence[Item]) -> float:
    """Accuracy of always giving the commonest answer of an item's group.

    The best that a guesser can do who sees what kind of question it is and knows how often
    each answer is right, but not what is asked.
    """
    groups: dict[str | None, Counter[str]] = {}
    for item in items:
        groups.setdefault(item.group, Counter())[item.answer.casefold()] += 1
    return sum(max(counts.values()) for counts in groups.values()) / len(items)


def require(condition: bool, what: str) -> None:
    """Refuse a suite's parameter.

    Raises:
        UserError: the condition does not hold.
    """
    if not condition:
        raise UserError(f"{what}; choose another value.")


def _placed(choices: tuple[str, ...], turn: int) -> tuple[str, ...]:
    gold, *others = choices
    position = turn % len(choices)
    return (*others[:position], gold, *others[position:])


@cache
def _data_text(name: str) -> str:
    return files("layerwise.tasks").joinpath("data", f"{name}.json").read_text(encoding="utf-8")
