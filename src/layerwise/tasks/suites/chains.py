"""Reasoning suites that join statements of the context: who is taller, what is two steps away.

Looking up one statement is retrieval: ``key_value`` and ``open_book``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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

_COMPARATIVES = ("taller", "older", "faster", "stronger", "younger", "richer")
_KINDS = ("names", "animals", "places")
_GENERATE = GenerateSpec((".", ",", "\n"), 4, "first_line")
_TEMPLATE = Template(answer_end=".", separator="\n", context_end=" ")


def order(seed: int = 0, *, n_people: int = 3, n_items: int = N_ITEMS, n_fewshot: int = 4) -> Task:
    """Each person is taller than the next one; which of the first and the last is taller?

    The sentences come in a random order and the two people in either order, so that where a
    name stands says nothing about the answer.

    Args:
        seed: decides names, comparisons and order.
        n_people: people in the row; more is harder.
        n_items: number of items.
        n_fewshot: number of few-shot examples, of names that no item has.
    """
    require(3 <= n_people <= 8, f"The row has 3 to 8 people, not {n_people}")
    rng = generator(seed, "order")
    shown, used = halves(rng, words("names"), n_people * n_fewshot)

    def make_examples(people: Sequence[str]) -> list[Item]:
        return [_order(rng, people[index::n_fewshot]) for index in range(n_fewshot)]

    items = settle(
        rng, "order", distinct(lambda _: _order(rng, draw(rng, used, n_people)), n_items)
    )
    fewshot = settle(rng, "order/fewshot", make_examples(shown))
    return Task(
        name="order",
        capability="reasoning",
        description=f"{n_people} people compared in a row, which of its two ends is the taller",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(
            rng, "order", lambda: make_examples(draw(rng, shown, len(shown)))
        ),
        generate=_GENERATE,
        # The question names the two people.
        chance=chance(items, 1 / 2),
        template=_TEMPLATE,
    )


def two_hop(
    seed: int = 0, *, n_chains: int = 4, n_items: int = N_ITEMS, n_fewshot: int = 2
) -> Task:
    """From a person to an animal, and from the animal to a place."""
    most = len(words("places")) // 2
    require(4 <= n_chains <= most, f"There are 4 to {most} chains, not {n_chains}")
    rng = generator(seed, "two-hop")
    kinds = [halves(rng, known, n_chains) for known in map(words, _KINDS)]
    shown, used = [kind[0] for kind in kinds], [kind[1] for kind in kinds]

    def make_examples() -> list[Item]:
        return distinct(lambda _: _two_hop(rng, shown, n_chains), n_fewshot)

    examples = make_examples()
    drafts = distinct(lambda _: _two_hop(rng, used, n_chains), n_items)
    items = settle(rng, "two-hop", drafts)
    fewshot = settle(rng, "two-hop/fewshot", examples)
    return Task(
        name="two-hop",
        capability="reasoning",
        description=f"from a person to an animal to a place, {n_chains} of each in the context",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, "two-hop", make_examples),
        generate=_GENERATE,
        # The context names as many places as there are chains.
        chance=chance(items, 1 / n_chains),
        template=_TEMPLATE,
    )


def _order(rng: np.random.Generator, people: Sequence[str]) -> Item:
    comparative = draw(rng, _COMPARATIVES, 1)[0]
    first, last = people[0], people[-1]
    swapped = [last, *people[1:-1], first]
    turn = draw(rng, range(len(people) - 1), len(people) - 1)
    named = " and ".join(draw(rng, (first, last), 2))
    question = f"Of {named}, the {comparative} one is"
    return Item(
        id="",
        question=question,
        answer=first,
        choices=(first, last),
        context=_compared(people, comparative, turn),
        corruption=Corruption(question, last, _compared(swapped, comparative, turn)),
        group=f"{len(people)} people",
    )


def _compared(people: Sequence[str], comparative: str, turn: Sequence[int]) -> str:
    sentences = [
        f"{taller} is {comparative} than {shorter}." for taller, shorter in pairwise(people)
    ]
    return " ".join(sentences[index] for index in turn)


def _two_hop(rng: np.random.Generator, kinds: Sequence[Sequence[str]], count: int) -> Item:
    people, animals, places = (draw(rng, known, count) for known in kinds)
    owned = [f"{person} has the {animal}." for person, animal in zip(people, animals, strict=True)]
    kept = [
        f"The {animal} is in the {place}." for animal, place in zip(animals, places, strict=True)
    ]
    context = " ".join([*draw(rng, owned, count), *draw(rng, kept, count)])
    questions = [f"The animal of {person} is in the" for person in people]
    return Item(
        id="",
        question=questions[0],
        answer=places[0],
        choices=tuple(places[:4]),
        context=context,
        corruption=Corruption(questions[1], places[1], context),
        group=f"{count} chains",
    )
