"""What training brought and cost, against counting and outside values, and where it brought none.

Records are made up; models are distilled in ``test_distillation``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from layerwise.analyses.distillation.names import DISTILLED, STUDENT, TEACHER
from layerwise.analyses.distillation.result import gains_table
from layerwise.errors import UserError
from tests.distilling import chance, records


def first(n: int, of: int = 40) -> np.ndarray:
    return np.arange(of) < n


KNOWN = {
    "half": {TEACHER: first(38), STUDENT: first(10), DISTILLED: first(24)},
    "lost": {TEACHER: first(36), STUDENT: first(34), DISTILLED: first(12)},
    "same": {TEACHER: first(20), STUDENT: first(20), DISTILLED: ~first(20)},
    "whole": {TEACHER: first(40), STUDENT: first(12), DISTILLED: first(40)},
}


def test_gains_are_those_of_counting():
    gains = gains_table(records(KNOWN), chance, 0).set_index("task")
    for task, of in KNOWN.items():
        row = gains.loc[task]
        before, after = of[STUDENT], of[DISTILLED]
        assert row["gain"] == pytest.approx(after.mean() - before.mean())
        assert row["lead"] == pytest.approx(of[TEACHER].mean() - before.mean())
        assert (row["n_gained"], row["n_lost"]) == (
            (after & ~before).sum(),
            (before & ~after).sum(),
        )
        assert row["nats"] == pytest.approx(2 * row["gain"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert gains.loc["half", "closed"] == pytest.approx(14 / 28)
    assert gains.loc["half", "closed_low"] < 0.5 < gains.loc["half", "closed_high"]
    assert gains.loc["whole", "closed"] == 1
    unseen = 1 - 0.025 ** (1 / 40)  # so many others may there be, none of 40 items being so
    assert gains.loc["whole", "closed_low"] <= 1 - unseen
    assert gains.loc["whole", "closed_high"] >= 1 + unseen
    assert gains["improved"].to_dict() == {"half": True, "lost": False, "same": False,
                                           "whole": True}  # fmt: skip
    assert gains["worse"].to_dict() == {"half": False, "lost": True, "same": False, "whole": False}
    assert gains["leads"].to_dict() == {"half": True, "lost": False, "same": False, "whole": True}
    assert gains["closed"].isna().to_dict() == {"half": False, "lost": True, "same": True,
                                                "whole": False}  # fmt: skip


def test_tests_are_mcnemars_and_holms():
    gains = gains_table(records(KNOWN), chance, 0)
    expected = [
        binomtest(int(row.n_gained), int(row.n_gained + row.n_lost)).pvalue
        if row.n_gained + row.n_lost
        else 1.0
        for row in gains.itertuples()
    ]
    np.testing.assert_allclose(gains["p"], expected)
    np.testing.assert_allclose(gains["p_holm"], multipletests(expected, method="holm")[1])


def test_items_that_ask_for_the_same_count_once():
    """Forty items of four facts each of which is learned or not are worth four."""
    facts = [f"fact {place // 10}" for place in range(40)]
    of = {TEACHER: first(40), STUDENT: first(0), DISTILLED: first(30)}
    (row,) = gains_table(records({"facts": of}, facts), chance, 0).to_dict("records")
    assert row["n_clusters"] == 4
    assert row["p"] == pytest.approx(2 * 0.5**3)
    assert not row["improved"]
    apart = gains_table(records({"facts": of}), chance, 0)
    assert apart["improved"].all()


def test_a_student_that_guesses_better_by_luck_has_learned_nothing():
    """From below guessing to guessing is a significant change and no ability."""
    of = {TEACHER: first(10), STUDENT: first(0), DISTILLED: first(10)}
    (row,) = gains_table(records({"luck": of}), chance, 0).to_dict("records")
    assert row["p_holm"] < 0.05
    assert not row["signal_distilled"]
    assert not row["improved"]
    assert not row["leads"]


def test_records_of_one_model_that_are_missing_are_told():
    table = records({"half": KNOWN["half"]})
    for lacking in (table.loc[table["host"] != TEACHER], table.iloc[:-1]):
        with pytest.raises(UserError, match="not of the same items in all three models"):
            gains_table(lacking, chance, 0)
    assert gains_table(table.iloc[:0], chance, 0).empty


def of_nothing(n_tasks: int, rng: np.random.Generator) -> pd.DataFrame:
    """Gains in tasks whose answers training flips as often one way as the other."""
    answers = {}
    for number in range(n_tasks):
        able = rng.random(40) < rng.uniform(0.3, 0.9)
        share = rng.uniform(0, 0.6)
        before, after = (
            np.where(rng.random(40) < share, rng.permutation(able), able) for _ in range(2)
        )
        answers[f"task {number}"] = {TEACHER: able, STUDENT: before, DISTILLED: after}
    return gains_table(records(answers), chance, 0)


def test_training_that_flips_answers_for_nothing_is_not_told_to_help_or_hurt():
    gains = of_nothing(24, np.random.default_rng(5))
    assert binomtest(int((gains["p"] < 0.05).sum()), 24, 0.05, alternative="greater").pvalue > 0.01
    assert not (gains["improved"] | gains["worse"]).any()


@pytest.mark.long
def test_runs_that_learn_nothing_are_told_to_help_or_hurt_as_rarely_as_stated():
    """1 of 300 runs of 8 tasks, where 15 are allowed."""
    rng = np.random.default_rng(6)
    runs = [of_nothing(8, rng) for _ in range(300)]
    wrong = sum(bool((gains["improved"] | gains["worse"]).any()) for gains in runs)
    assert wrong <= 15, wrong
