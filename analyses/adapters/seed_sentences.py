"""Sentences of the README on the trainings with further seeds, from the saved tables.

A test holds the README to these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import interval, join_words, number, p_value
from layerwise.stats.families.estimate import exact_difference_bounds
from layerwise.stats.signals.power import least_change

GAINS, DIFFERENCES = "further_gains", "further_differences"
SEED = "training_seed"
KEYS = ["task", "protocol"]
ALPHA = 0.05
# The suite that is compared, and corrected, by itself.
BY_ITSELF = "arithmetic"
Tables = Mapping[str, pd.DataFrame]


def further_learning(tables: Tables, case: str) -> Iterator[str]:
    """Gains of further trainings on the suites that were trained, the same items asked.

    Args:
        tables: the study's tables, with those of further seeds or without.
        case: the case.
    """
    for seed, each in _by_seed(tables, GAINS, case):
        told = [
            f"{_task_and_protocol(row)} {number(100 * row['acc_student'])} % before and "
            f"{number(100 * row['acc_distilled'])} % after, {_bounds(row, 'gain')} points, "
            f"{row['n_gained']} won and {row['n_lost']} lost ({p_value(row['p_holm'])})"
            f"{_share(row)}{_guessing_note(row)}"
            for row in records(each)
        ]
        yield f"Trained with seed {seed}, right of the same items: {'; '.join(told)}."


def agreement_of_trainings(tables: Tables, case: str) -> Iterator[str]:
    """Number of trainings in which each suite is better, and how far apart they end.

    Args:
        tables: the study's tables, with those of further seeds or without.
        case: the case.
    """
    further = dict(_by_seed(tables, GAINS, case))
    if not further:
        return
    each = [rows(tables["gains"], case=case), *further.values()]
    keyed = [one.set_index(KEYS) for one in each]
    better = pd.concat([one["improved"] for one in keyed], axis=1).sum(axis=1)
    apart = pd.concat([one["acc_distilled"] for one in keyed], axis=1)
    spread = 100 * float((apart.max(axis=1) - apart.min(axis=1)).max())
    lost = pd.concat([one["leads"] for one in keyed], axis=1).any(axis=1)
    told = [
        f"with {count} of {len(each)} seeds {_these(better[better == count])}"
        + ", of which no loss is established" * (not count and not lost[better == count].any())
        for count in sorted(set(better), reverse=True)
    ]
    yield (
        f"**Significantly better after training, and by more than guessing may account for: "
        f"{'; '.join(told)}. What trainings end at is at most {number(spread)} points apart.**"
    )


def further_side_effects(tables: Tables, case: str) -> Iterator[str]:
    """Changes of suites that were not trained.

    Args:
        tables: the study's tables, with those of further seeds or without.
        case: the case.
    """
    for seed, each in _by_seed(tables, DIFFERENCES, case):
        told = rows(each, family="accuracy")
        lost = told[(told["p_holm"] < ALPHA) & (told["difference"] < 0)]
        values = [
            f"{row['capability']} (`{row['tasks']}`) under `{row['protocol']}` "
            + interval(*(100 * each for each in with_width(row)))
            + f" ({p_value(row['p_holm'])})"
            for row in records(told)
        ]
        yield (
            f"Trained with seed {seed}, points won of suites without training (p after Holm's "
            f"correction): {join_words(values)}; a loss is established of {len(lost)} of "
            f"{len(told)}."
        )


def with_width(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """A difference and its interval; exact bounds where no item's answer changed."""
    low, high = float(row["low"]), float(row["high"])
    if low == high == 0:
        none = np.zeros(1)
        ends = exact_difference_bounds(none, none, np.full(1, row["n_items"]))
        low, high = (float(end[0]) for end in ends)
    return float(row["difference"]), low, high


def least_significant_loss(told: pd.DataFrame) -> str:
    """The least loss of a suite that could be significant, by what is corrected together."""
    said = []
    for alone in (False, True):
        part = told[(told["tasks"] == BY_ITSELF) == alone]
        if len(part):
            n, least = int(part["n_items"].min()), least_change(len(part))
            said.append(
                f"{least} of {n} items lost and none won ({number(100 * least / n)} points) of "
                + (f"`{BY_ITSELF}`" if alone else f"one of the {len(part)} others")
            )
    return f"The least losses that could be significant are {join_words(said)}"


def _by_seed(tables: Tables, name: str, case: str) -> Iterator[tuple[int, pd.DataFrame]]:
    table = tables.get(name)
    if table is None:
        return
    told = rows(table, case=case)
    for seed in sorted(set(told[SEED])):
        yield int(seed), rows(told, **{SEED: seed})


def _these(counts: pd.Series) -> str:
    return join_words([f"`{task}` under `{protocol}`" for task, protocol in counts.index])


def _task_and_protocol(row: Mapping[str, Any]) -> str:
    return f"`{row['task']}` under `{row['protocol']}`"


def _share(row: Mapping[str, Any]) -> str:
    if not row["leads"]:
        return ""
    return f", {_bounds(row, 'closed')} % of the loss"


def _guessing_note(row: Mapping[str, Any]) -> str:
    more = row["p_holm"] < ALPHA and row["gain"] > 0
    return ", which guessing may account for" if more and not row["improved"] else ""


def _bounds(row: Mapping[str, Any], name: str) -> str:
    return interval(*(100 * float(row[end]) for end in (name, f"{name}_low", f"{name}_high")))
