"""The coherence suite of short texts whose rest follows from their start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.tasks.items import Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    data,
    distinct,
    draw,
    generator,
    halves,
    other_draws,
    require,
    settle,
    words,
)
from layerwise.tasks.task import GenerateSpec, Task

_THREADS = 3
_BETWEEN = (
    "It is a fine day.",
    "The sky is blue.",
    "There is a lot to do.",
    "The streets are quiet.",
    "It is still early.",
    "Nobody is in a hurry.",
)


@dataclass(frozen=True)
class _Frame:
    """A kind of passage with three threads, each a subject and what belongs to it."""

    name: str  # its group
    # Up to where the rest begins; ``{x0}`` ... are subjects, ``{y0}`` ... what belongs to them,
    # ``{who}`` is a person.
    start: str
    rest: str  # the rest, beginning with ``{y0}``
    subjects: str  # kind of the subjects' words
    things: str  # kind of the words that belong to them


def passage(seed: int = 0, *, n_between: int = 0, n_items: int = N_ITEMS) -> Task:
    """Short passages with three threads; the start determines how each one ends.

    The options are the true rest and three of broken coherence, all of the same form: of four
    things in a circle each one takes three in a row, beginning with another one, and the start
    tells which three it is about. The gold option has at least 12 words, so that its early
    and late tokens can be told apart. Under ``generate`` the answer is the first word of
    the rest, the one that the start determines; later words could be put in other ways.

    Args:
        seed: decides frames and words.
        n_between: sentences between what is told and what follows from it, from 0 to 6; more is
            harder.
        n_items: number of items; the frames take turns.
    """
    require(
        0 <= n_between <= len(_BETWEEN),
        f"There are 0 to {len(_BETWEEN)} sentences between, not {n_between}",
    )
    rng = generator(seed, "passage")
    frames = [_Frame(**frame) for frame in data("passages")["frames"]]
    kinds = {"names": words("names"), **data("passages")["words"]}
    split = {kind: halves(rng, known, _THREADS + 1) for kind, known in kinds.items()}
    shown = {kind: parts[0] for kind, parts in split.items()}
    free = {kind: parts[1] for kind, parts in split.items()}

    def make_examples() -> list[Item]:
        return [_item(rng, frame, shown, n_between) for frame in frames[:2]]

    examples = make_examples()
    drafts = distinct(
        lambda index: _item(rng, frames[index % len(frames)], free, n_between), n_items
    )
    items = settle(rng, "passage", drafts)
    fewshot = settle(rng, "passage/fewshot", examples)
    return Task(
        name="passage",
        capability="coherence",
        description="short passages with three threads, whose rest follows from the start",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, "passage", make_examples),
        generate=GenerateSpec((".", ",", "\n"), 4, "first_word"),
        # One of the three words that the start joins to the threads.
        chance=chance(items, 1 / _THREADS),
    )


def _item(
    rng: np.random.Generator, frame: _Frame, kinds: dict[str, list[str]], n_between: int
) -> Item:
    people = draw(rng, kinds["names"], _THREADS + 1)
    subjects = people[1:] if frame.subjects == "names" else draw(rng, kinds[frame.subjects], 3)
    things = draw(rng, kinds[frame.things], _THREADS + 1)
    turned = [things[turn:] + things[:turn] for turn in range(len(things))]
    rests = [_filled(frame.rest, people[0], subjects, rest) for rest in turned]
    first, _, last = frame.start.rpartition(". ")
    start = " ".join([f"{first}.", *draw(rng, _BETWEEN, n_between), last])
    return Item(
        id="",
        question=_filled(start, people[0], subjects, things),
        answer=rests[0],
        choices=tuple(rests),
        aliases=(things[0],),
        group=frame.name,
    )


def _filled(text: str, who: str, subjects: Sequence[str], things: Sequence[str]) -> str:
    names = {f"x{index}": subject for index, subject in enumerate(subjects)}
    names |= {f"y{index}": thing for index, thing in enumerate(things)}
    return text.format(who=who, **names)
