"""The retrieval suite of facts that only the context can tell: false or made-up ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from layerwise.tasks.suites._facts_data import Fact, all_facts, different, fewshot_pool
from layerwise.tasks.task import GenerateSpec, Task, Template

_RELATIONS = ("capital", "opposite", "past", "color", "currency")
_FEWSHOT_RELATIONS = _RELATIONS[:2]
_MOST = 6
_MADE_UP = (
    ("The mayor of {place} is", "names"),
    ("The symbol of {place} is the", "nouns"),
    ("The password of {place} is", "nouns"),
)
_ONSETS = ("Bal", "Dro", "Fen", "Gor", "Kel", "Lum", "Mor", "Nav", "Pel", "Quor", "Tav", "Zor")
_ENDINGS = ("adia", "bury", "don", "ester", "folk", "gard", "holm", "ia", "mar", "vania")


def open_book(seed: int = 0, *, n_statements: int = 4, n_items: int = N_ITEMS) -> Task:
    """Facts in the context that contradict the world, or that the world does not have.

    Half of the items state false facts of one relation about real things and have the true
    answer among the choices, which the context states of something else (group
    ``contradicts``); half are about made-up places (group ``absent``). The context states every
    option, and all are of one kind.
    """
    require(4 <= n_statements <= _MOST, f"There are 4 to {_MOST} statements, not {n_statements}")
    rng = generator(seed, "open-book")
    known = all_facts()
    pool = fewshot_pool(rng, known, _FEWSHOT_RELATIONS, n_statements)
    kept = [fact for group in pool for fact in group]
    free = [[f for f in known if f.relation == name and f not in kept] for name in _RELATIONS]
    shown, used = _made_up_words(rng)

    def make_examples() -> list[Item]:
        false = [_contradicting(rng, group, n_statements) for group in pool]
        return [*false, _made_up(rng, shown, n_statements)]

    examples = make_examples()

    def make(index: int) -> Item:
        if index % 2:
            return _made_up(rng, used, n_statements)
        return _contradicting(rng, draw(rng, free, 1)[0], n_statements)

    items = settle(rng, "open-book", distinct(make, n_items, key=lambda item: item.question))
    fewshot = settle(rng, "open-book/fewshot", examples)
    return Task(
        name="open-book",
        capability="retrieval",
        description="facts in the context that are false or made up, one looked up",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, "open-book", make_examples),
        generate=GenerateSpec((".", ",", "\n"), 8, "first_line"),
        # Without the look-up, one of the answers in the context is the best guess.
        chance=chance(items, 1 / n_statements),
        template=Template(answer_end=".", separator="\n", context_end=" "),
    )


def _contradicting(rng: np.random.Generator, facts: Sequence[Fact], count: int) -> Item:
    """False facts, each with the next one's answer; the first is asked."""
    chosen = different(rng, facts, count)
    answers = [fact.answer for fact in chosen]
    item = _item(rng, [fact.question for fact in chosen], [*answers[1:], answers[0]], "contradicts")
    return replace(item, cluster=chosen[0].name)


def _made_up(rng: np.random.Generator, vocabulary: Mapping[str, Sequence[str]], count: int) -> Item:
    """What no model can know, about places that do not exist."""
    cloze, kind = draw(rng, _MADE_UP, 1)[0]
    places = draw(rng, vocabulary["places"], count)
    answers = draw(rng, vocabulary[kind], count)
    return _item(rng, [cloze.format(place=place) for place in places], answers, "absent")


def _item(
    rng: np.random.Generator, questions: Sequence[str], answers: Sequence[str], group: str
) -> Item:
    """Ask the first question; the last answer, which is true of it or as false, is an option."""
    # The corruption swaps the answers to the first question and to the third one, both of which
    # stay as false as they were.
    n = len(questions)
    order = draw(rng, range(n), n)
    stated = [f"{question} {answer}." for question, answer in zip(questions, answers, strict=True)]
    swapped = [f"{questions[0]} {answers[2]}.", stated[1], f"{questions[2]} {answers[0]}."]
    changed = [*swapped, *stated[3:]]
    wrong = [answers[-1], *draw(rng, answers[1:-1], n - 2)][:3]
    return Item(
        id="",
        question=questions[0],
        answer=answers[0],
        choices=(answers[0], *wrong),
        context=" ".join(stated[index] for index in order),
        corruption=Corruption(
            questions[0], answers[2], " ".join(changed[index] for index in order)
        ),
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
    split = {kind: halves(rng, values, _MOST) for kind, values in known.items()}
    return (
        {kind: parts[0] for kind, parts in split.items()},
        {kind: parts[1] for kind, parts in split.items()},
    )
