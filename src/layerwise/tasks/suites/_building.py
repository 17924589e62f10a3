"""What all suites are built with: seeded draws, balanced options and positions, chance levels."""

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
from layerwise.tasks.task import MOST_FEWSHOT_SEEDS

T = TypeVar("T")

N_ITEMS = 200
_MOST_MISSES = 5000
"""After so many drafts in vain in a row there are no more different questions."""
_TRIES = 50
"""After so many blocks in vain the next kind of question has its turn."""


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
    """``count`` drafts of which no two, and none of ``taken``, are the same question."""
    # A draft that happens to have the same choice twice is drawn again.
    seen = {key(item) for item in taken}
    drafts: list[Item] = []
    misses = 0
    while len(drafts) < count and misses < _MOST_MISSES:
        draft = make(len(drafts))
        misses += 1
        if key(draft) not in seen and len(set(draft.choices)) == len(draft.choices):
            seen.add(key(draft))
            drafts.append(draft)
            misses = 0
    if len(drafts) == count:
        return drafts
    raise _too_few(len(drafts), count)


def turned_over(
    make: Callable[[int], Sequence[Item]],
    count: int,
    taken: Collection[Item] = (),
    key: Callable[[Item], Hashable] = lambda item: (item.context, item.question),
) -> list[Item]:
    """``count`` drafts in blocks that turn one set of options over: each is right once."""
    # So no rule that goes by the options' texts alone is right more often than by chance, neither
    # in a whole suite nor in its first few blocks.
    seen = {key(item) for item in taken}
    drafts: list[Item] = []
    turn = misses = 0
    while len(drafts) < count:
        block = make(turn)
        keys = {key(item) for item in block}
        if block and len(keys) == len(block) and seen.isdisjoint(keys):
            seen |= keys
            drafts += block
            turn, misses = turn + 1, 0
            continue
        misses += 1
        turn += misses % _TRIES == 0
        if misses == _MOST_MISSES:
            raise _too_few(len(drafts), count)
    return drafts[:count]


def spread(rng: np.random.Generator, kinds: Sequence[Sequence[T]]) -> list[T]:
    """All values of several kinds, mixed so that each kind has its share of every beginning."""
    placed = [
        ((index + float(rng.random())) / len(values), number, index)
        for number, values in enumerate(kinds)
        for index in range(len(values))
    ]
    return [kinds[number][index] for _, number, index in sorted(placed)]


def settle(rng: np.random.Generator, name: str, drafts: Sequence[Item]) -> tuple[Item, ...]:
    """Give drafts their ids, and their options a random order with balanced gold positions."""
    # In every beginning of the items, of those with equally many options, no two positions differ
    # by more than one in how often the gold option stands there.
    left: dict[int, list[int]] = {}
    items = []
    for index, draft in enumerate(drafts):
        gold, *wrong = draft.choices
        n = len(draft.choices)
        if not left.get(n):
            left[n] = draw(rng, range(n), n)
        place, mixed = left[n].pop(), draw(rng, wrong, n - 1)
        choices = (*mixed[:place], gold, *mixed[place:])
        items.append(replace(draft, id=f"{name}/{index:04d}", choices=choices))
    return tuple(items)


def other_draws(
    rng: np.random.Generator, name: str, make: Callable[[], Sequence[Item]]
) -> tuple[tuple[Item, ...], ...]:
    """Further draws of a suite's few-shot examples; called last, so that nothing else changes."""
    return tuple(
        settle(rng, f"{name}/fewshot-{number}", make()) for number in range(1, MOST_FEWSHOT_SEEDS)
    )


def chance(items: Sequence[Item], generate: float) -> Mapping[str, float]:
    """Chance levels: one over the number of options, and what is given for ``generate``."""
    options = sum(1 / len(item.choices) for item in items) / len(items)
    return {"letter": options, "continuation": options, "generate": generate}


def commonest_answer(items: Sequence[Item]) -> float:
    """Accuracy of always giving the commonest answer of an item's group."""
    # The best that a guesser can do who sees what kind of question it is and knows how often each
    # answer is right, but not what is asked.
    groups: dict[str | None, Counter[str]] = {}
    for item in items:
        groups.setdefault(item.group, Counter())[item.answer.casefold()] += 1
    return sum(max(counts.values()) for counts in groups.values()) / len(items)


def require(condition: bool, what: str) -> None:
    """Refuse a suite's parameter."""
    if not condition:
        raise UserError(f"{what}; choose another value.")


def _too_few(n: int, wanted: int) -> UserError:
    return UserError(
        f"Only {n} different questions were found, not {wanted}; ask for fewer items or "
        "for more difficult ones."
    )


@cache
def _data_text(name: str) -> str:
    return files("layerwise.tasks").joinpath("data", f"{name}.json").read_text(encoding="utf-8")
