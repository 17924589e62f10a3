"""Coherence suites: brackets to close, a list to repeat, short texts to be ended."""

from __future__ import annotations

from collections.abc import Sequence
from math import perm

import numpy as np

from layerwise.tasks.items import Item
from layerwise.tasks.task import GenerateSpec, Task, Template

from ._building import (
    N_ITEMS,
    data,
    distinct,
    draw,
    generator,
    halves,
    require,
    require_range,
    suite,
)

_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_THREADS = 3


def brackets(
    seed: int = 0,
    *,
    depth: int = 4,
    n_closed: int = 1,
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Brackets of four kinds, some of them closed already; close the open ones."""
    require(depth >= 1, f"At least one bracket must be open, not {depth}")
    rng = generator(seed, "brackets")

    def make(count: int, taken: Sequence[Item] = ()) -> list[Item]:
        return distinct(lambda _: _bracket_item(rng, depth, n_closed), count, taken)

    examples = make(n_fewshot)
    drafts = make(n_items, examples)
    return suite(
        rng,
        "brackets",
        "coherence",
        f"nested brackets of four kinds, {depth} of them open, to be closed",
        drafts,
        examples,
        lambda: make(n_fewshot, drafts),
        generate=GenerateSpec(("\n",), 2 * depth + 2, "symbols"),
        guess=len(_CLOSING) ** -depth,  # each of the closing brackets is one among four
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
    """A list of random words, and its repetition from where it breaks off."""
    require(
        0 < shown <= length - 4, f"At least 4 of {length} words must be left, not {length - shown}"
    )
    rng = generator(seed, "repetition")
    kept, free = halves(rng, data("words")["nouns"], length * n_fewshot)

    def make_examples(listed: Sequence[str]) -> list[Item]:
        starts = range(0, n_fewshot * length, length)
        return [_list_item(rng, list(listed[start : start + length]), shown) for start in starts]

    examples = make_examples(kept)
    drafts = distinct(lambda _: _list_item(rng, draw(rng, free, length), shown), n_items)
    return suite(
        rng,
        "repetition",
        "coherence",
        f"a list of {length} words, its repetition continued after {shown} of them",
        drafts,
        examples,
        lambda: make_examples(draw(rng, kept, len(kept))),
        generate=GenerateSpec(("\n",), 3 * (length - shown), "first_line"),
        guess=1 / perm(length - shown),  # the remaining words in a random order
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


def passage(seed: int = 0, *, n_between: int = 0, n_items: int = N_ITEMS) -> Task:
    """Short passages with three threads; the start determines how each one ends."""
    # Of four things in a circle each option takes three in a row, and the start tells which. The
    # gold one has at least 12 words, so that its early and late tokens can be told apart. Under
    # ``generate`` its first word counts, which the start determines; later ones could be put in
    # other ways.
    require_range(0, n_between, len(data("passages")["between"]), "sentences between")
    rng = generator(seed, "passage")
    frames = data("passages")["frames"]
    kinds = {"names": data("words")["names"], **data("passages")["words"]}
    split = {kind: halves(rng, known, _THREADS + 1) for kind, known in kinds.items()}
    shown, free = ({kind: parts[half] for kind, parts in split.items()} for half in (0, 1))

    def make_examples() -> list[Item]:
        return [_passage_item(rng, frame, shown, n_between) for frame in frames[:2]]

    examples = make_examples()
    drafts = distinct(
        lambda index: _passage_item(rng, frames[index % len(frames)], free, n_between), n_items
    )
    return suite(
        rng,
        "passage",
        "coherence",
        "short passages with three threads, whose rest follows from the start",
        drafts,
        examples,
        make_examples,
        generate=GenerateSpec((".", ",", "\n"), 4, "first_word"),
        guess=1 / _THREADS,  # one of the three words that the start joins to the threads
    )


def _passage_item(
    rng: np.random.Generator, frame: dict[str, str], kinds: dict[str, list[str]], n_between: int
) -> Item:
    """A passage of a kind with three threads, each a subject and what belongs to it."""
    # ``{x0}`` ... are subjects, ``{y0}`` ... what belongs to them, ``{who}`` is a person.
    people = draw(rng, kinds["names"], _THREADS + 1)
    subjects = (
        people[1:] if frame["subjects"] == "names" else draw(rng, kinds[frame["subjects"]], 3)
    )
    things = draw(rng, kinds[frame["things"]], _THREADS + 1)
    turned = [things[turn:] + things[:turn] for turn in range(len(things))]
    rests = [_fill(frame["rest"], people[0], subjects, rest) for rest in turned]
    first, _, last = frame["start"].rpartition(". ")
    start = " ".join([f"{first}.", *draw(rng, data("passages")["between"], n_between), last])
    return Item(
        id="",
        question=_fill(start, people[0], subjects, things),
        answer=rests[0],
        choices=tuple(rests),
        aliases=(things[0],),
        group=frame["name"],
    )


def _fill(text: str, who: str, subjects: Sequence[str], things: Sequence[str]) -> str:
    names = {f"x{index}": subject for index, subject in enumerate(subjects)}
    names |= {f"y{index}": thing for index, thing in enumerate(things)}
    return text.format(who=who, **names)
