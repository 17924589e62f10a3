"""Rates at which a model that goes by what options give away has signal, by its controls.

Where no other question can be asked, the guesser is the only control without the question. Its
earlier rule was fitted on other quarters of the task, as it still is beside other questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerwise.stats.inference import exact_interval
from layerwise.stats.signals.signal import Blind, GuesserResult, MethodAnswers, signals
from layerwise.tasks import GenerateSpec, Item, Task
from layerwise.tasks.blind import guesser_answers
from layerwise.tasks.blind.control import all_guessers
from layerwise.tasks.blind.cross_fitting import best_overall
from layerwise.tasks.blind.options import task_options

N_TASKS, N_MODELS, CHANCE, N_QUESTIONS = 20, 20, 0.25, 3
SIZES, SHARES, KNOWN = (40, 200), (0.4, 0.6, 0.8), (0.6, 0.8)
SYLLABLES = [a + b + c for a in "bdgkp" for b in "aeiou" for c in "lmnrst"]
AS_OFTEN, BY_RULE, KNOWS = "as often right as the rule", "goes by the rule", "knows the answer"
Options = list[str]
Pick = Callable[[Options], int]


class Cue(NamedTuple):
    """Options of made-up items, and the one that the answer often is; None if nothing tells."""

    name: str
    options: Callable[[np.random.Generator], Options]
    pick: Pick | None


def numbers(rng: np.random.Generator) -> Options:
    """Four numbers below 60."""
    return [str(number) for number in rng.choice(60, 4, replace=False)]


def words(rng: np.random.Generator) -> Options:
    """Four texts of one to three words."""
    return [" ".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(4)]


def names(rng: np.random.Generator) -> Options:
    """Four of 40 names."""
    return [f"k{number}" for number in rng.choice(40, 4, replace=False)]


CUES = (
    Cue("the number nearest to 15", numbers,
        lambda row: int(np.argmin([abs(int(text) - 15) for text in row]))),
    Cue("the longest, of several the first", words,
        lambda row: int(np.argmax([len(text) for text in row]))),
    Cue("the third", words, lambda row: 2),
    Cue("the first in an order of 40 names", names,
        lambda row: int(np.argmin([int(text[1:]) * 7 % 40 for text in row]))),
    Cue("nothing", words, None),
)  # fmt: skip


def made_up_task(rng: np.random.Generator, cue: Cue, n: int, share: float) -> Task:
    """A task whose right option is the cue's in a share of the items, else any other."""
    items = []
    for number in range(n):
        row = cue.options(rng)
        gold = int(rng.integers(len(row)))
        if cue.pick is not None:
            told = cue.pick(row)
            others = [place for place in range(len(row)) if place != told]
            gold = told if rng.random() < share else int(rng.choice(others))
        items.append(Item(id=f"t/{number}", question=f"q{number}", answer=row[gold],
                          choices=tuple(row)))  # fmt: skip
    chance: dict[str, float] = {"letter": CHANCE, "continuation": CHANCE}
    return Task("t", "knowledge", "made up", tuple(items), (),
                GenerateSpec(("\n",), 4, "first_line"), chance)  # fmt: skip


def guesser_results(task: Task) -> dict[str, GuesserResult]:
    """The guesser alone, as it was, and beside other questions."""
    options = task_options(task)
    earlier = best_overall(options, (), all_guessers(options, None, context=False))
    found = {"earlier": GuesserResult(_blind(earlier.right), "earlier", True)}
    for name, alone in (("alone", True), ("beside", False)):
        answers = guesser_answers(task, "continuation", alone=alone)
        if answers is None:
            raise ValueError("Expected options to guess from; found none; give each item some.")
        right = np.array([answers.right[item.id] for item in task.items])
        found[name] = GuesserResult(_blind(right), answers.rule, answers.is_control)
    return found


def _blind(right: np.ndarray) -> Blind:
    return Blind(right.astype(int), np.ones(len(right), dtype=int))


def passes(right: np.ndarray, guessed: GuesserResult, blind: Blind | None = None) -> bool:
    """True if a model that answers so has signal."""
    cell = MethodAnswers("t", "continuation", right, blind, guessed=guessed)
    return signals([cell], lambda task, protocol: CHANCE)["t", "continuation"]


def models(
    rng: np.random.Generator, task: Task, cue: Cue, rate: float
) -> dict[str, Sequence[np.ndarray]]:
    """Right answers of models of each kind."""
    drawn = rng.random((N_MODELS, len(task.items))) < rate
    if cue.pick is None:
        return {KNOWS: list(drawn)}
    told = [item.choices[cue.pick(list(item.choices))] == item.answer for item in task.items]
    return {AS_OFTEN: list(drawn), BY_RULE: [np.array(told)]}


def signal_rates(n_tasks: int = N_TASKS, seed: int = 0) -> pd.DataFrame:
    """Share of models with signal, by cue, how often it is right, items and kind of model."""
    rows = []
    for number, cue in enumerate(CUES):
        for rate in SHARES if cue.pick else KNOWN:
            for n in SIZES:
                rng = np.random.default_rng([seed, number, n, round(100 * rate)])
                counts: dict[str, dict[str, int]] = {}
                for _ in range(n_tasks):
                    task = made_up_task(rng, cue, n, rate)
                    guessed = guesser_results(task)
                    for kind, answers in models(rng, task, cue, rate).items():
                        count = counts.setdefault(
                            kind, dict.fromkeys(("models", "earlier", "alone", "beside"), 0)
                        )
                        for right in answers:
                            other = CHANCE if kind == KNOWS else rate
                            asked = np.full(n, N_QUESTIONS)
                            blind = Blind(rng.binomial(asked, other), asked)
                            count["models"] += 1
                            count["earlier"] += passes(right, guessed["earlier"])
                            count["alone"] += passes(right, guessed["alone"])
                            count["beside"] += passes(right, guessed["beside"], blind)
                for kind, count in counts.items():
                    interval = exact_interval(count["alone"], count["models"])
                    rows.append({"cue": cue.name, "right": rate, "items": n, "model": kind,
                                 **count, "rate": interval.estimate, "low": interval.low,
                                 "high": interval.high})  # fmt: skip
    return pd.DataFrame(rows)
