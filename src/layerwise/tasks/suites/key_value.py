"""Retrieval suites that look up a key among pairs in the context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    distinct,
    draw,
    generator,
    halves,
    other_draws,
    require,
    settle,
    words,
)
from layerwise.tasks.task import GenerateSpec, Task, Template

_THIRDS = ("first", "middle", "last")


def kv_words(
    seed: int = 0, *, n_pairs: int = 5, n_items: int = N_ITEMS, n_fewshot: int = 3
) -> Task:
    """Pairs of words, one looked up."""
    known = words("nouns")
    most = len(known) // (2 * n_fewshot + 2)
    require(4 <= n_pairs <= most, f"There are 4 to {most} pairs, not {n_pairs}")
    rng = generator(seed, "kv-words")
    shown, used = halves(rng, known, 2 * n_pairs * n_fewshot)
    name = f"kv-words-{n_pairs}"

    def make_examples(words_of_all: Sequence[str]) -> list[Item]:
        starts = range(0, len(shown), 2 * n_pairs)
        return [_word_item(rng, words_of_all[start : start + 2 * n_pairs]) for start in starts]

    examples = make_examples(shown)
    drafts = distinct(lambda _: _word_item(rng, draw(rng, used, 2 * n_pairs)), n_items)
    items = settle(rng, name, drafts)
    fewshot = settle(rng, f"{name}/fewshot", examples)
    return Task(
        name="kv-words",
        capability="retrieval",
        description=f"{n_pairs} pairs of words in the context, one looked up",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, name, lambda: make_examples(draw(rng, shown, len(shown)))),
        generate=GenerateSpec(("\n", ",", "."), 5, "first_line"),
        # Without the look-up, one of the values in the context is the best guess.
        chance=chance(items, 1 / n_pairs),
    )


def kv_ids(
    seed: int = 0,
    *,
    sizes: Sequence[int] = (4, 8, 12),
    digits: int = 4,
    n_items: int = N_ITEMS,
    n_fewshot: int = 2,
) -> Task:
    """Pairs of random hexadecimal identifiers, one looked up, over sizes and positions.

    A small sibling of the key-value task of "Lost in the Middle" (Liu et al. 2023,
    arXiv:2307.03172, section 3). Every place is asked equally often; an item's group is its size
    and the third of the context in which its key stands.
    """
    require(4 <= min(sizes) <= max(sizes) <= 16, f"Sizes must be from 4 to 16, not {sizes}")
    require(digits >= 3, f"Identifiers need at least 3 digits, not {digits}")
    rng = generator(seed, "kv-ids")
    used: set[str] = set()

    left: dict[int, list[int]] = {}

    def make(size: int) -> Item:
        # All places of a size have their turn before one comes again.
        if not left.get(size):
            left[size] = draw(rng, range(size), size)
        return _id_item(rng, size, left[size].pop(), digits, used)

    def make_examples() -> list[Item]:
        built = [make(min(sizes)) for _ in range(n_fewshot)]
        left.clear()
        return built

    examples = make_examples()
    drafts = [make(sizes[index % len(sizes)]) for index in range(n_items)]
    items = settle(rng, "kv-ids", drafts)
    fewshot = settle(rng, "kv-ids/fewshot", examples)
    left.clear()
    return Task(
        name="kv-ids",
        capability="retrieval",
        description="random identifiers in pairs, one looked up, at several sizes and positions",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, "kv-ids", make_examples),
        generate=GenerateSpec(('"', "\n"), 2 * digits, "first_line"),
        chance=chance(items, float(np.mean([1 / _size(item) for item in items]))),
        template=Template(delimiter="", answer_end='"'),
    )


def _word_item(rng: np.random.Generator, chosen: Sequence[str]) -> Item:
    half = len(chosen) // 2
    keys, values = chosen[:half], chosen[half:]
    order = [int(index) for index in rng.permutation(half)]
    wanted, other = order[:2]
    # The mark keeps a space before the first key and the asked one, so that a key is the same
    # tokens wherever it stands.
    stated = [f"{key} is {value}" for key, value in zip(keys, values, strict=True)]
    context = f"> {', '.join(stated)}"
    return Item(
        id="",
        question=f"> {keys[wanted]} is",
        answer=values[wanted],
        choices=tuple(values[index] for index in order[:4]),
        context=context,
        corruption=Corruption(f"> {keys[other]} is", values[other], context),
        group=f"{half} pairs",
    )


def _id_item(rng: np.random.Generator, size: int, wanted: int, digits: int, used: set[str]) -> Item:
    keys = _identifiers(rng, size, digits, used)
    values = _identifiers(rng, size, digits, used)
    others = draw(rng, [index for index in range(size) if index != wanted], 3)
    context = ", ".join(f'"{key}": "{value}"' for key, value in zip(keys, values, strict=True))
    return Item(
        id="",
        question=f'"{keys[wanted]}": "',
        answer=values[wanted],
        choices=tuple(values[index] for index in (wanted, *others)),
        context=context,
        corruption=Corruption(f'"{keys[others[0]]}": "', values[others[0]], context),
        group=f"{size} pairs, {_THIRDS[3 * wanted // size]} third",
    )


def _identifiers(rng: np.random.Generator, count: int, digits: int, used: set[str]) -> list[str]:
    """New identifiers that differ in their first digit, so that it alone tells them apart."""
    made = []
    for first in draw(rng, "0123456789abcdef", count):
        rest = first
        while rest == first or rest in used:
            rest = first + "".join(draw(rng, "0123456789abcdef", digits - 1))
        used.add(rest)
        made.append(rest)
    return made


def _size(item: Item) -> int:
    return int((item.group or "").split()[0])
