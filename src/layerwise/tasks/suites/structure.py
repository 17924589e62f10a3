"""Coherence suites of bare structure: brackets to close, a list to repeat."""

from __future__ import annotations

from collections.abc import Sequence
from math import perm

import numpy as np

from layerwise.tasks.items import Item
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

_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def brackets(
    seed: int = 0,
    *,
    depth: int = 4,
    n_closed: int = 1,
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Brackets of four kinds, some of them closed already; close the open ones.

    Args:
        seed: decides the brackets.
        depth: how many are open at the end; more is harder.
        n_closed: how many pairs are closed already.
        n_items: number of items.
        n_fewshot: number of few-shot examples.
    """
    require(depth >= 1, f"At least one bracket must be open, not {depth}")
    rng = generator(seed, "brackets")
    examples = distinct(lambda _: _bracket_item(rng, depth, n_closed), n_fewshot)
    drafts = distinct(lambda _: _bracket_item(rng, depth, n_closed), n_items, examples)
    items = settle(rng, "brackets", drafts)
    fewshot = settle(rng, "brackets/fewshot", examples)
    return Task(
        name="brackets",
        capability="coherence",
        description=f"nested brackets of four kinds, {depth} of them open, to be closed",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(
            rng,
            "brackets",
            lambda: distinct(lambda _: _bracket_item(rng, depth, n_closed), n_fewshot, drafts),
        ),
        generate=GenerateSpec(("\n",), 2 * depth + 2, "symbols"),
        # Each of the closing brackets is a guess among four.
        chance=chance(items, len(_CLOSING) ** -depth),
        template=Template(separator="\n"),
    )


def repetition(
    seed: int = 0,
    *,
    length: int = 12,
    shown: int = 4,
    n_items: int = N_ITEMS,
    n_fewshot: int = 2,
) -> Task:
    """A list of random words, and its repetition from where it breaks off.

    Args:
        seed: decides the words.
        length: words in the list; more is harder.
        shown: words of the repetition that are given; fewer is harder.
        n_items: number of items.
        n_fewshot: number of few-shot examples, of words that no item has.
    """
    require(
        0 < shown <= length - 4, f"At least 4 of {length} words must be left, not {length - shown}"
    )
    rng = generator(seed, "repetition")
    kept, free = halves(rng, words("nouns"), length * n_fewshot)

    def make_examples(listed: Sequence[str]) -> list[Item]:
        starts = range(0, n_fewshot * length, length)
        return [_list_item(rng, list(listed[start : start + length]), shown) for start in starts]

    examples = make_examples(kept)
    drafts = distinct(lambda _: _list_item(rng, draw(rng, free, length), shown), n_items)
    items = settle(rng, "repetition", drafts)
    fewshot = settle(rng, "repetition/fewshot", examples)
    return Task(
        name="repetition",
        capability="coherence",
        description=f"a list of {length} words, its repetition continued after {shown} of them",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(
            rng, "repetition", lambda: make_examples(draw(rng, kept, len(kept)))
        ),
        generate=GenerateSpec(("\n",), 3 * (length - shown), "first_line"),
        # The remaining words in a random order.
        chance=chance(items, 1 / perm(length - shown)),
    )


def _bracket_item(rng: np.random.Generator, depth: int, n_closed: int) -> Item:
    kinds = list(_CLOSING)
    moves = draw(rng, ["open"] * depth + ["pair"] * n_closed, depth + n_closed)
    text: list[str] = []
    stack: list[str] = []
    for move in moves:
        kind = kinds[int(rng.integers(4))]
        text.append(kind)
        if move == "open":
            stack.append(kind)
        else:
            text.append(_CLOSING[kind])
    gold = [_CLOSING[kind] for kind in reversed(stack)]
    wrong = [
        [other, *draw(rng, gold[1:], depth - 1)] for other in _CLOSING.values() if other != gold[0]
    ]
    return Item(
        id="",
        question=" ".join(text),
        answer=" ".join(gold),
        choices=tuple(" ".join(row) for row in (gold, *wrong)),
        group=f"{depth} open",
    )


def _list_item(rng: np.random.Generator, row: list[str], shown: int) -> Item:
    rest = row[shown:]
    # The four options are one circle of words, cut at four places; the right one is as likely
    # to be cut at any of them.
    n = len(rest)
    lengths = draw(rng, [n // 4 + (part < n % 4) for part in range(4)], 4)
    cuts = [sum(lengths[:count]) for count in (1, 2, 3)]
    wrong = [rest[cut:] + rest[:cut] for cut in cuts]
    return Item(
        id="",
        question=" ".join(row[:shown]),
        answer=" ".join(rest),
        choices=tuple(" ".join(option) for option in (rest, *wrong)),
        context=" ".join(row),
        group=f"{len(row)} words",
    )
