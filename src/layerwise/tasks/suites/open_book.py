"""The retrieval suite of facts that only the context can tell: false or made-up ones.

True facts in a context are in ``facts``; pairs of keys and values in ``key_value``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    distinct,
    draw,
    generator,
    halves,
    settle,
    words,
)
from layerwise.tasks.suites._facts_data import Fact, all_facts, fewshot_pool, others
from layerwise.tasks.task import GenerateSpec, Task, Template

_STATED = 3
_RELATIONS = ("capital", "opposite", "past", "color", "currency")
_FEWSHOT_RELATIONS = _RELATIONS[:_STATED]
_MADE_UP = (
    ("The mayor of {place} is", "names"),
    ("The symbol of {place} is the", "nouns"),
    ("The password of {place} is", "nouns"),
)
_ONSETS = ("Bal", "Dro", "Fen", "Gor", "Kel", "Lum", "Mor", "Nav", "Pel", "Quor", "Tav", "Zor")
_ENDINGS = ("adia", "bury", "don", "ester", "folk", "gard", "holm", "ia", "mar", "vania")


def open_book(seed: int = 0, *, n_items: int = N_ITEMS) -> Task:
    """Facts in the context that contradict the world, or that the world does not have.

    Half of the items state false facts about real things and have the true answer among the
    choices (group ``contradicts``); half are about made-up places (group ``absent``).

    Args:
        seed: decides the facts and what is asked.
        n_items: number of items.
    """
    rng = generator(seed, "open-book")
    known = all_facts()
    pool = fewshot_pool(rng, known, _FEWSHOT_RELATIONS, _STATED + 1)
    kept = [fact for group in pool for fact in group]
    free = {name: [f for f in known if f.relation == name and f not in kept] for name in _RELATIONS}
    shown, asked = _made_up_words(rng)
    examples = [
        _contradicting(rng, dict(zip(_FEWSHOT_RELATIONS, pool, strict=True)), relation)
        for relation in _FEWSHOT_RELATIONS[:2]
    ]
    examples.append(_made_up(rng, shown))

    def make(index: int) -> Item:
        if index % 2:
            return _made_up(rng, asked)
        return _contradicting(rng, free, draw(rng, _RELATIONS, 1)[0])

    items = settle(rng, "open-book", distinct(make, n_items, key=lambda item: item.question))
    return Task(
        name="open-book",
        capability="retrieval",
        description="facts in the context that are false or made up, one looked up",
        items=items,
        fewshot=settle(rng, "open-book/fewshot", examples),
        generate=GenerateSpec((".", ",", "\n"), 8, "first_line"),
        # Without the look-up, one of the answers in the context is the best guess.
        chance=chance(items, 1 / _STATED),
        template=Template(answer_end=".", separator="\n", context_end=" "),
    )


def _contradicting(
    rng: np.random.Generator, facts: Mapping[str, Sequence[Fact]], relation: str
) -> Item:
    """False facts, each with another fact's answer; the one of ``relation`` is asked."""
    rest = draw(rng, [name for name in facts if name != relation], _STATED - 1)
    stated = [draw(rng, facts[name], 1)[0] for name in (relation, *rest)]
    false = [others(rng, fact, facts[fact.relation], 2) for fact in stated]
    pairs = [(fact.question, wrong[0].answer) for fact, wrong in zip(stated, false, strict=True)]
    return _item(rng, pairs, stated[0].answer, false[0][1].answer, "contradicts")


def _made_up(rng: np.random.Generator, vocabulary: Mapping[str, Sequence[str]]) -> Item:
    """What no model can know, about places that do not exist."""
    clozes = draw(rng, _MADE_UP, _STATED)
    places = draw(rng, vocabulary["places"], _STATED)
    kinds = {kind: draw(rng, vocabulary[kind], 5) for kind in ("names", "nouns")}
    pairs = [
        (cloze.format(place=place), kinds[kind].pop())
        for (cloze, kind), place in zip(clozes, places, strict=True)
    ]
    asked = kinds[clozes[0][1]]
    return _item(rng, pairs, asked[0], asked[1], "absent")


def _item(
    rng: np.random.Generator,
    pairs: Sequence[tuple[str, str]],
    foreign: str,
    corrupted: str,
    group: str,
) -> Item:
    """Ask for the first pair; ``foreign`` is an option that the context does not have."""
    question, answer = pairs[0]
    order = draw(rng, range(len(pairs)), len(pairs))
    sentences = [f"{cloze} {stated}." for cloze, stated in pairs]
    changed = [f"{question} {corrupted}.", *sentences[1:]]
    return Item(
        id="",
        question=question,
        answer=answer,
        choices=(answer, *(stated for _, stated in pairs[1:]), foreign),
        context=" ".join(sentences[index] for index in order),
        corruption=Corruption(question, corrupted, " ".join(changed[index] for index in order)),
        group=group,
    )


def _made_up_words(
    rng: np.random.Generator,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Places, names and nouns of the few-shot example, and those of the items."""
    places = [onset + ending for onset in _ONSETS for ending in _ENDINGS]
    # Fruit is both: an orange may be a password, and orange a color.
    answers = {fact.answer for fact in all_facts()}
    nouns = [noun for noun in words("nouns") if noun not in answers]
    known = {"places": places, "names": words("names"), "nouns": nouns}
    split = {kind: halves(rng, values, 5) for kind, values in known.items()}
    return (
        {kind: parts[0] for kind, parts in split.items()},
        {kind: parts[1] for kind, parts in split.items()},
    )
