"""Parts of all suites: seeded draws, balanced options and positions, chance levels."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np

from layerwise.errors import UserError
from layerwise.tasks.items import Capability, Item, guessing_chance
from layerwise.tasks.task import MOST_FEWSHOT_SEEDS, GenerateSpec, Task, Template

T = TypeVar("T")

N_ITEMS = 200
_PLAIN = Template()
# After so many drafts in vain in a row there are no more different questions.
_MOST_MISSES = 5000


def generator(seed: int, name: str) -> np.random.Generator:
    """A generator of random numbers of its own for each suite and seed."""
    return np.random.default_rng([seed, *name.encode()])


@cache
def data(name: str) -> Any:
    """The content of ``data/<name>.json``."""
    text = files("layerwise.tasks").joinpath("data", f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text)


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

    def block(turn: int) -> list[Item]:
        draft = make(turn)
        # A draft that happens to have the same choice twice is drawn again.
        return [draft] if len(set(draft.choices)) == len(draft.choices) else []

    return balanced_drafts(block, count, taken, key, tries=_MOST_MISSES)


def balanced_drafts(
    make: Callable[[int], Sequence[Item]],
    count: int,
    taken: Collection[Item] = (),
    key: Callable[[Item], Hashable] = lambda item: (item.context, item.question),
    tries: int = 50,
) -> list[Item]:
    """``count`` drafts in blocks that turn one set of options over: each is right once."""
    # So no rule that goes by the options' texts alone is right more often than by chance, neither
    # in a whole suite nor in its first few blocks. After so many tries in vain the next kind of
    # question has its turn.
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
        turn += misses % tries == 0
        if misses == _MOST_MISSES:
            raise UserError(
                f"Only {len(drafts)} different questions were found, not {count}; ask for fewer "
                "items or for more difficult ones."
            )
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


def suite(
    rng: np.random.Generator,
    name: str,
    capability: Capability,
    description: str,
    drafts: Sequence[Item],
    examples: Sequence[Item] = (),
    redraw: Callable[[], Sequence[Item]] | None = None,
    *,
    generate: GenerateSpec,
    guess: float | None = None,
    template: Template = _PLAIN,
    ids: str = "",
) -> Task:
    """A suite's task, of drafts of its items and of few-shot examples."""
    # guess: accuracy by guessing where the answer is written; of the commonest answer if None.
    # redraw: makes drafts of further examples, which come last so that all else stays.
    # ids: what ids begin with, if not with the name. Items that have ids are settled already, where
    # what is drawn for the examples comes after that.
    items = tuple(drafts) if drafts[0].id else settle(rng, ids or name, drafts)
    begun = f"{ids or name}/fewshot"
    fewshot = settle(rng, begun, examples)
    numbers = range(1, MOST_FEWSHOT_SEEDS) if redraw else ()
    return Task(
        name=name,
        capability=capability,
        description=description,
        items=items,
        fewshot=fewshot,
        other_fewshot=tuple(settle(rng, f"{begun}-{n}", redraw()) for n in numbers if redraw),
        generate=generate,
        chance=guessing_chance(items, guess),
        template=template,
    )


def require(condition: bool, what: str) -> None:
    """Refuse a suite's parameter."""
    if not condition:
        raise UserError(f"{what}; choose another value.")


def require_range(low: int, value: int, high: int, things: str, there: str = "There are") -> None:
    """Refuse a number of things that is too low or too high."""
    require(low <= value <= high, f"{there} {low} to {high} {things}, not {value}")
