"""Stated chance levels against guessers that were let loose on the suites."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from layerwise.tasks import Item, load_task, task_names

Guess = Callable[[np.random.Generator, Item], str]
ROUNDS = 200


def one_of(find: Callable[[Item], list[str]]) -> Guess:
    return lambda rng, item: str(rng.choice(find(item)))


def in_sentences(item: Item) -> list[str]:
    return [sentence.split()[-1] for sentence in (item.context or "").strip(".").split(".")]


# What a guesser can know without the answer: which texts of the prompt have its form.
GUESSERS: dict[str, Guess] = {
    "kv-words": one_of(lambda item: re.findall(r" is (\w+)", item.context or "")),
    "kv-ids": one_of(lambda item: re.findall(r': "(\w+)"', item.context or "")),
    "open-book": one_of(in_sentences),
    "facts-open-book": one_of(in_sentences),
    "order": one_of(lambda item: re.findall(r"[A-Z]\w+", item.question)[1:]),
    "two-hop": one_of(lambda item: re.findall(r"is in the (\w+)", item.context or "")),
}


@pytest.mark.parametrize("name", GUESSERS)
def test_guessing_from_the_context_reaches_the_stated_chance(name: str) -> None:
    task = load_task(name)
    rng = np.random.default_rng(0)
    hits = [GUESSERS[name](rng, item) == item.answer for item in task.items for _ in range(ROUNDS)]
    assert np.mean(hits) == pytest.approx(task.chance["generate"], abs=0.01)


def test_guessing_among_the_threads_of_a_passage() -> None:
    task = load_task("passage")
    rng = np.random.default_rng(0)
    hits = []
    for item in task.items:
        # The things that the start tells of are three of the four that the options begin with.
        begun = [choice.split()[0].strip(".") for choice in item.choices]
        told = [
            one for one in begun if one in item.question.replace(",", "").replace(".", "").split()
        ]
        assert len(told) == 3
        hits += [str(rng.choice(told)) == item.aliases[0] for _ in range(ROUNDS)]
    assert np.mean(hits) == pytest.approx(task.chance["generate"], abs=0.01)


@pytest.mark.parametrize("name", ["facts", "arithmetic", "sum-chain", "word-problems"])
def test_the_commonest_answer_of_each_kind_reaches_the_stated_chance(name: str) -> None:
    task = load_task(name)
    best = {}
    for group in {item.group for item in task.items}:
        answers = [item.answer for item in task.items if item.group == group]
        best[group] = max(answers, key=answers.count)
    hits = [best[item.group] == item.answer for item in task.items]
    assert np.mean(hits) == pytest.approx(task.chance["generate"])


@pytest.mark.parametrize("name", task_names())
def test_always_the_same_letter_reaches_the_stated_chance(name: str) -> None:
    task = load_task(name)
    for letter in range(len(task.items[0].choices)):
        hits = [item.choices[letter] == item.answer for item in task.items]
        assert np.mean(hits) == pytest.approx(task.chance["letter"], abs=1 / len(hits))
    assert task.chance["continuation"] == task.chance["letter"]
