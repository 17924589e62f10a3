"""The coherence suite of short texts whose rest follows from their start.

Bare structure is in ``structure``.
"""

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
    settle,
    words,
)
from layerwise.tasks.task import GenerateSpec, Task

_THREADS = 3


@dataclass(frozen=True)
class _Frame:
    """A kind of passage with three threads, each a subject and what belongs to it.

    Attributes:
        name: its group.
        start: up to where the rest begins; ``{x0}`` ... are subjects, ``{y0}`` ... what
            belongs to them, ``{who}`` is a person.
        rest: the rest, beginning with ``{y0}``.
        subjects: kind of the subjects' words.
        things: kind of the words that belong to them.
    """

    name: str
    start: str
    rest: str
    subjects: str
    things: str


def passage(seed: int = 0, *, n_items: int = N_ITEMS) -> Task:
    """Short passages with three threads; the start determines how each one ends.

    The options are the true rest and three of broken coherence: two have the threads mixed
    up, one has its words shuffled. The gold option has at least 12 words, so that its early
    and late tokens can be told apart. Under ``generate`` the answer is the first word of
    the rest, the one that the start determines; later words could be put in other ways.

    Args:
        seed: decides frames and words.
        n_items: number of items; the frames take turns.
    """
    rng = generator(seed, "passage")
    frames = [_Frame(**frame) for frame in data("passages")["frames"]]
    kinds = {"names": words("names"), **data("passages")["words"]}
    split = {kind: halves(rng, known, _THREADS + 1) for kind, known in kinds.items()}
    shown = {kind: parts[0] for kind, parts in split.items()}
    free = {kind: parts[1] for kind, parts in split.items()}
    examples = [_item(rng, frame, shown) for frame in frames[:2]]
    drafts = distinct(lambda index: _item(rng, frames[index % len(frames)], free), n_items)
    items = settle(rng, "passage", drafts)
    return Task(
        name="passage",
        capability="coherence",
        description="short passages with three threads, whose rest follows from the start",
        items=items,
        fewshot=settle(rng, "passage/fewshot", examples),
        generate=GenerateSpec((".", ",", "\n"), 4, "first_word"),
        # One of the three words that the start joins to the threads.
        chance=chance(items, 1 / _THREADS),
    )


def _item(rng: np.random.Generator, frame: _Frame, kinds: dict[str, list[str]]) -> Item:
    people = draw(rng, kinds["names"], _THREADS + 1)
    subjects = people[1:] if frame.subjects == "names" else draw(rng, kinds[frame.subjects], 3)
    things = draw(rng, kinds[frame.things], _THREADS)
    rest = _filled(frame.rest, people[0], subjects, things)
    mixed = [
        _filled(frame.rest, people[0], subjects, things[turn:] + things[:turn]) for turn in (1, 2)
    ]
    return Item(
        id="",
        question=_filled(frame.start, people[0], subjects, things),
        answer=rest,
        choices=(rest, *mixed, _shuffled(rng, rest, things)),
        aliases=(things[0],),
        group=frame.name,
    )


def _filled(text: str, who: str, subjects: Sequence[str], things: Sequence[str]) -> str:
    names = {f"x{index}": subject for index, subject in enumerate(subjects)}
    names |= {f"y{index}": thing for index, thing in enumerate(things)}
    return text.format(who=who, **names)


def _shuffled(rng: np.random.Generator, text: str, things: Sequence[str]) -> str:
    """The words in another order, not beginning with any of the things that one might expect."""
    mixed = draw(rng, text.split(), len(text.split()))
    first = next(word for word in mixed if word.strip(".,") not in things)
    mixed.remove(first)
    return " ".join([first, *mixed])
