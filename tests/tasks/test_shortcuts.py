"""No suite gives its answers away to a guesser that never sees a question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.tasks import Task, blind_guesses, load_task, task_names
from layerwise.tasks.suites import MATCHED
from tests.cases import LONG

ITEMS = 2000 if LONG else 800
SEEDS = (0, 1000, 2000, 3000, 4000) if LONG else (0,)
AFTER = 500_000
"""Seeds of the items on which what was found is looked for again."""


def many(name: str, first: int) -> Task:
    """A suite's items over as many seeds as make 2,000 of them; fewer by day."""
    items, seed = [], first
    while len(items) < ITEMS:
        task = load_task(name, seed=seed)
        items += [replace(item, id=f"{seed}: {item.id}") for item in task.items]
        seed += 1
    return replace(task, items=tuple(items[:ITEMS]))


def winners(name: str, first: int) -> set[str]:
    """Guessers that beat one over the number of options at 5 % (Holm over the guessers)."""
    table = blind_guesses(many(name, first))
    return set(table.loc[table["p_holm"] < 0.05, "guesser"])


TOYS = [*task_names("organism"), *task_names("letters"), *task_names("wired")]
MATCHED_NAMES = {name for sets in MATCHED.values() for names in sets.values() for name in names}
VARIANTS = sorted(name for name in MATCHED_NAMES if ":" in name)


@pytest.mark.parametrize("name", [*task_names(), *TOYS, *VARIANTS])
@pytest.mark.parametrize("first", SEEDS)
def test_no_guesser_beats_one_over_the_number_of_options(name: str, first: int) -> None:
    # Of twenty suites without a shortcut one has a winner by luck; it does not win again.
    found = winners(name, first)
    assert not found or not found & winners(name, first + AFTER)


def test_what_gave_answers_away_would_be_found() -> None:
    """The sum-chain of before: a sum and three values around it, none of them right elsewhere."""
    task = many("sum-chain", 0)
    items = tuple(
        replace(item, choices=(item.answer, *(str(int(item.answer) + 10 * k) for k in (1, 2, 3))))
        for item in task.items
    )
    table = blind_guesses(replace(task, items=items)).set_index("guesser")
    assert table.loc["number", "accuracy"] == 1
    assert table.loc["number, nearest to a constant", "accuracy"] > 0.5
