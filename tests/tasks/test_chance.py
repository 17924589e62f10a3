"""Stated chance levels, and that no guesser without the question beats one over the options."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from layerwise.tasks import Item, Task, guesser_accuracies, load_task, task_names
from layerwise.tasks.suites import MATCHED
from tests.cases import LONG, few_by_day

Guess = Callable[[np.random.Generator, Item], str]
ROUNDS = 200


def random_guess(find: Callable[[Item], list[str]]) -> Guess:
    return lambda rng, item: str(rng.choice(find(item)))


def in_sentences(item: Item) -> list[str]:
    return [sentence.split()[-1] for sentence in (item.context or "").strip(".").split(".")]


# What a guesser can know without the answer: which texts of the prompt have its form.
GUESSERS: dict[str, Guess] = {
    "kv-words": random_guess(lambda item: re.findall(r" is (\w+)", item.context or "")),
    "kv-ids": random_guess(lambda item: re.findall(r': "(\w+)"', item.context or "")),
    "open-book": random_guess(in_sentences),
    "facts-open-book": random_guess(in_sentences),
    "order": random_guess(lambda item: re.findall(r"[A-Z]\w+", item.question)[1:]),
    "hops": random_guess(
        lambda item: [
            name
            for name in re.findall(r"to (\w+)\.", item.context or "")
            if not item.question.startswith(name)
        ]
    ),
    "two-hop": random_guess(lambda item: re.findall(r"is in the (\w+)", item.context or "")),
}


@pytest.mark.long(but=["kv-ids", "order"])
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


ITEMS = 2000 if LONG else 400
SEEDS = (0, 1000, 2000, 3000, 4000) if LONG else (0,)
AFTER = 500_000
"""Seeds of the items on which what was found is looked for again."""


def suite_of_many_seeds(name: str, first: int) -> Task:
    """A suite's items over as many seeds as make 2,000 of them; fewer by day."""
    items, seed = [], first
    while len(items) < ITEMS:
        task = load_task(name, seed=seed)
        items += [replace(item, id=f"{seed}: {item.id}") for item in task.items]
        seed += 1
    return replace(task, items=tuple(items[:ITEMS]))


def winners(name: str, first: int) -> set[str]:
    """Guessers that beat one over the number of options at 5 % (Holm over the guessers)."""
    table = guesser_accuracies(suite_of_many_seeds(name, first))
    return set(table.loc[table["p_holm"] < 0.05, "guesser"])


TOYS = [*task_names("organism"), *task_names("letters"), *task_names("wired")]
MATCHED_NAMES = {name for sets in MATCHED.values() for names in sets.values() for name in names}
HOPS = [f"hops:hops={n}" for n in (1, 3, 4)]
VARIANTS = sorted(name for name in (*MATCHED_NAMES, *HOPS) if ":" in name)


@pytest.mark.parametrize(
    "name", few_by_day([*task_names(), *TOYS, *VARIANTS], *task_names(), *TOYS[:2])
)
@pytest.mark.parametrize("first", SEEDS)
def test_no_guesser_beats_one_over_the_number_of_options(name: str, first: int) -> None:
    # Of twenty suites without a shortcut one has a winner by luck; it does not win again.
    found = winners(name, first)
    assert not found or not found & winners(name, first + AFTER)
