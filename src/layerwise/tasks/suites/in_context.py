"""Suites of statements in the context: one is looked up, or several are joined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from layerwise.errors import count_noun
from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.task import GenerateSpec, Task, Template

from ._building import (
    N_ITEMS,
    data,
    distinct,
    draw,
    generator,
    halves,
    require_range,
    settle,
    suite,
)

_CHAINS = Template(answer_end=".", separator="\n", context_end=" ")
_ONE_NAME = GenerateSpec((".", ",", "\n"), 4, "first_line")
# People in a ring of ``hops``, and the most hops: fewer than the way back round the ring.
_RING, _MOST_HOPS = 9, 4


def kv_words(
    seed: int = 0, *, n_pairs: int = 5, n_items: int = N_ITEMS, n_fewshot: int = 3
) -> Task:
    """Pairs of words, one looked up."""
    known = data("words")["nouns"]
    require_range(4, n_pairs, len(known) // (2 * n_fewshot + 2), "pairs")
    rng = generator(seed, "kv-words")
    shown, used = halves(rng, known, 2 * n_pairs * n_fewshot)

    def make_examples(words_of_all: Sequence[str]) -> list[Item]:
        starts = range(0, len(shown), 2 * n_pairs)
        return [_word_item(rng, words_of_all[start : start + 2 * n_pairs]) for start in starts]

    examples = make_examples(shown)
    drafts = distinct(lambda _: _word_item(rng, draw(rng, used, 2 * n_pairs)), n_items)
    return suite(
        rng,
        "kv-words",
        "retrieval",
        f"{n_pairs} pairs of words in the context, one looked up",
        drafts,
        examples,
        lambda: make_examples(draw(rng, shown, len(shown))),
        generate=GenerateSpec(("\n", ",", "."), 5, "first_line"),
        # Without the look-up, one of the values in the context is the best guess.
        guess=1 / n_pairs,
        ids=f"kv-words-{n_pairs}",
    )


def kv_ids(
    seed: int = 0,
    *,
    sizes: Sequence[int] = (4, 8, 12),
    digits: int = 4,
    n_items: int = N_ITEMS,
    n_fewshot: int = 2,
) -> Task:
    """Pairs of random hexadecimal identifiers, one looked up, over sizes and positions."""
    # A small sibling of the task of "Lost in the Middle" (Liu et al. 2023, arXiv:2307.03172).
    for size in (min(sizes), max(sizes)):
        require_range(4, size, 16, "pairs")
    require_range(3, digits, 16, "digits")
    rng = generator(seed, "kv-ids")
    used: set[str] = set()

    left: dict[int, list[int]] = {}

    def make(size: int) -> Item:
        # All places of a size have their turn before one comes again.
        if not left.get(size):
            left[size] = draw(rng, range(size), size)
        return _id_item(rng, size, left[size].pop(), digits, used)

    def make_examples() -> list[Item]:
        left.clear()
        built = [make(min(sizes)) for _ in range(n_fewshot)]
        left.clear()
        return built

    examples = make_examples()
    asked = [sizes[index % len(sizes)] for index in range(n_items)]
    drafts = [make(size) for size in asked]
    return suite(
        rng,
        "kv-ids",
        "retrieval",
        "random identifiers in pairs, one looked up, at several sizes and positions",
        drafts,
        examples,
        make_examples,
        generate=GenerateSpec(('"', "\n"), 2 * digits, "first_line"),
        guess=float(np.mean([1 / size for size in asked])),
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
        group=f"{size} pairs, {('first', 'middle', 'last')[3 * wanted // size]} third",
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


def order(seed: int = 0, *, n_people: int = 3, n_items: int = N_ITEMS, n_fewshot: int = 4) -> Task:
    """Each person is taller than the next one; which of the first and the last is taller?"""
    # Sentences and the two people come in random order: where a name stands says nothing.
    require_range(3, n_people, 8, "people", "The row has")
    rng = generator(seed, "order")
    shown, used = halves(rng, data("words")["names"], n_people * n_fewshot)

    def make_examples(people: Sequence[str]) -> list[Item]:
        return [_order(rng, people[index::n_fewshot]) for index in range(n_fewshot)]

    drafts = distinct(lambda _: _order(rng, draw(rng, used, n_people)), n_items)
    return suite(
        rng,
        "order",
        "reasoning",
        f"{n_people} people compared in a row, which of its two ends is the taller",
        settle(rng, "order", drafts),
        make_examples(shown),
        lambda: make_examples(draw(rng, shown, len(shown))),
        generate=_ONE_NAME,
        guess=1 / 2,  # the question names the two people
        template=_CHAINS,
    )


def two_hop(
    seed: int = 0, *, n_chains: int = 4, n_items: int = N_ITEMS, n_fewshot: int = 2
) -> Task:
    """From a person to an animal, and from the animal to a place."""
    require_range(4, n_chains, len(data("words")["places"]) // 2, "chains")
    rng = generator(seed, "two-hop")
    kinds = [halves(rng, data("words")[kind], n_chains) for kind in ("names", "animals", "places")]
    shown, used = [kind[0] for kind in kinds], [kind[1] for kind in kinds]

    def make_examples() -> list[Item]:
        return distinct(lambda _: _two_hop(rng, shown, n_chains), n_fewshot)

    examples = make_examples()
    drafts = distinct(lambda _: _two_hop(rng, used, n_chains), n_items)
    return suite(
        rng,
        "two-hop",
        "reasoning",
        f"from a person to an animal to a place, {n_chains} of each in the context",
        drafts,
        examples,
        make_examples,
        generate=_ONE_NAME,
        guess=1 / n_chains,  # the context names as many places as there are chains
        template=_CHAINS,
    )


def hops(seed: int = 0, *, hops: int = 2, n_items: int = N_ITEMS, n_fewshot: int = 3) -> Task:
    """Nine people throw a ball round a ring; who has it after so many throws?"""
    # Whatever the hops, a prompt has the same form and length: all links are stated, and nothing
    # but the number in the question differs. In a ring each name stands twice, as who throws and
    # as who catches, and the options are any four names: neither shows where a ring is entered, or
    # how far it is followed.
    require_range(1, hops, _MOST_HOPS, "hops")
    # Variants share no rings, so that their items are independent.
    rng = generator(seed, f"hops-{hops}")
    shown, used = halves(rng, data("words")["names"], _RING * n_fewshot)

    def make_examples(people: Sequence[str]) -> list[Item]:
        return [_ring(rng, people[index::n_fewshot], hops) for index in range(n_fewshot)]

    drafts = distinct(lambda _: _ring(rng, draw(rng, used, _RING), hops), n_items)
    return suite(
        rng,
        "hops",
        "reasoning",
        f"nine people who throw a ball round a ring, followed for {hops} throws",
        settle(rng, f"hops-{hops}", drafts),
        make_examples(shown),
        lambda: make_examples(draw(rng, shown, len(shown))),
        generate=_ONE_NAME,
        guess=1 / (_RING - 1),  # the context names as many people beside the one who begins
        template=_CHAINS,
        ids=f"hops-{hops}",
    )


def _ring(rng: np.random.Generator, people: Sequence[str], hops: int) -> Item:
    links = [f"{one} throws to {other}." for one, other in pairwise([*people, people[0]])]
    context = " ".join(draw(rng, links, len(links)))
    begins, other = draw(rng, range(len(people)), 2)
    after, after_other = (people[(start + hops) % len(people)] for start in (begins, other))
    beside = draw(rng, [name for name in people if name != after], 3)

    def question(start: int) -> str:
        return f"{people[start]} has the ball. Throw {hops} goes to"

    return Item(
        id="",
        question=question(begins),
        answer=after,
        choices=(after, *beside),
        context=context,
        corruption=Corruption(question(other), after_other, context),
        group=count_noun(hops, "hop"),
    )


def _order(rng: np.random.Generator, people: Sequence[str]) -> Item:
    known = ("taller", "older", "faster", "stronger", "younger", "richer")
    comparative = draw(rng, known, 1)[0]
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
        context=_comparisons(people, comparative, turn),
        corruption=Corruption(question, last, _comparisons(swapped, comparative, turn)),
        group=f"{len(people)} people",
    )


def _comparisons(people: Sequence[str], comparative: str, turn: Sequence[int]) -> str:
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
