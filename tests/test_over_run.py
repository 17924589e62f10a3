"""Bounds over a whole run: exact ones by enumeration, and how often the largest is missed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, false_discovery_control, multinomial
from statsmodels.stats.multitest import multipletests

from layerwise import stats
from layerwise.presentation.over_run import count_that_hold, family_text
from layerwise.stats.effects import effects_table
from layerwise.stats.families.estimate import (
    estimate,
    exact_difference_bounds,
    independent_counts,
    student,
)
from layerwise.stats.families.multiplicity import Sizes, correct_rows, correct_run_wide, count_tests
from layerwise.stats.signals.signal import above_chance_p_values, have_signal
from tests.cases import data_sets, in_long_runs, most_errors
from tests.synthetic import cell_records


def outcomes(n: int) -> np.ndarray:
    """All counts of lost and gained items, a row for each."""
    every = np.stack(np.meshgrid(np.arange(n + 1), np.arange(n + 1)), axis=-1).reshape(-1, 2)
    return every[every.sum(axis=1) <= n]


@pytest.mark.parametrize(("n", "n_tests"), [(1, 1), (24, 1), (24, 450), *in_long_runs((60, 450))])
def test_bounds_of_a_difference_never_cover_less_than_they_say(n, n_tests):
    """Over all outcomes, weighted by their exact probability: no simulation."""
    counts = outcomes(n)
    low, high = exact_difference_bounds(*counts.T, np.full(len(counts), n), n_tests=n_tests)
    assert (low <= (counts[:, 0] - counts[:, 1]) / n).all()
    assert (high >= (counts[:, 0] - counts[:, 1]) / n).all()
    for lost in np.arange(0, 1.01, 0.1):
        for gained in np.arange(0, 1.001 - lost, 0.1):
            cells = np.array([lost, gained, max(1 - lost - gained, 0.0)])
            full = np.column_stack([counts, n - counts.sum(axis=1)])
            weights = multinomial.pmf(full, n, cells / cells.sum())
            missed = (lost - gained < low - 1e-12) | (lost - gained > high + 1e-12)
            assert weights[missed].sum() <= 0.05 / n_tests + 1e-12


def test_bounds_where_nothing_changed_are_those_of_clopper_and_pearson():
    none, n = np.zeros(1, dtype=int), np.array([60])
    low, high = exact_difference_bounds(none, none, n)
    found = binomtest(0, 60).proportion_ci(1 - 2 * 0.05 / 8, method="exact")
    assert high[0] == pytest.approx(found.high)
    assert low[0] == -high[0]


def test_zero_is_excluded_where_mcnemar_excludes_it():
    """At a quarter of the level; the other bound alone would not, where items are also gained."""
    counts = outcomes(60)
    low, high = exact_difference_bounds(*counts.T, np.full(len(counts), 60))
    p = stats.mcnemar_p_values(*counts.T)
    assert ((low > 0) | (high < 0))[p < 0.05 / 4].all()


def test_a_run_is_corrected_in_its_two_families():
    """Of rows without signal nothing is told, but they count, and so do tests without a row."""
    p = np.array([0.001, 0.2, 0.01, 0.03, 0.004, 0.5])
    told = np.array([True, True, False, True, True, True])
    rate = np.array([False, False, False, True, True, True])
    found = correct_run_wide(p, told, rate)
    assert np.isnan(found[2])
    assert found[:2] == pytest.approx(multipletests([0.001, 0.2, 1.0], method="holm")[1][:2])
    assert found[3:] == pytest.approx(false_discovery_control([0.03, 0.004, 0.5]))
    more = correct_run_wide(p, told, rate, Sizes(4, 5))
    assert more[:2] == pytest.approx(multipletests([0.001, 0.2, 1, 1], method="holm")[1][:2])
    assert more[3:] == pytest.approx(false_discovery_control([0.03, 0.004, 0.5, 1, 1])[:3])
    assert correct_run_wide(p, np.zeros(6, dtype=bool), rate).tolist() == pytest.approx(
        [np.nan] * 6, nan_ok=True
    )


def test_tests_of_tasks_that_are_not_swept_are_counted_like_those_that_are():
    tasks = pd.DataFrame({"task": ["keys"] * 3 + ["sums"] * 4, "protocol": "letter"})
    heads = np.array([False, False, True, False, False, False, True])
    assert count_tests(tasks, heads) == Sizes(5, 2)
    assert count_tests(tasks, heads, n_asked=4) == Sizes(5 + 2 * 3, 2 + 2 * 1)
    column = count_tests(tasks, heads, n_asked=4).by_row(np.array([True] * 3 + [False] * 4), heads)
    assert column.tolist()[:3] == [11, 11, 4]
    assert column[3:].isna().all()


def test_tasks_without_signal_count_among_the_tests_of_a_run():
    """One of them was swept all the same, one was not."""
    rng = np.random.default_rng(0)
    able = cell_records(rng.random((60, 5)) < [0.9, 0.9, 0.2, 0.5, 0.9], "able", "knowledge")
    swept = cell_records(rng.random((60, 5)) < 0.25, "swept", "knowledge")
    unswept = cell_records(rng.random((60, 1)) < 0.25, "unswept", "knowledge")
    effects = effects_table(pd.concat([able, swept, unswept]), lambda task, protocol: 0.25, 0)
    told = effects.loc[effects["signal"]]
    assert told["task"].unique().tolist() == ["able"]
    corrected = multipletests([*told["p"], *[1.0] * 8], method="holm")[1]
    np.testing.assert_allclose(told["p_run"].to_numpy(dtype=float), corrected[:4])
    assert told["run_tests"].tolist() == [12] * 4
    assert effects.loc[~effects["signal"], ["p_run", "run_tests"]].isna().all(axis=None)
    alone = independent_counts(told.assign(n_independent=60))
    low, high = exact_difference_bounds(*alone, n_tests=12)
    np.testing.assert_allclose(told["acc_diff_run_low"].to_numpy(dtype=float), low)
    np.testing.assert_allclose(told["acc_diff_run_high"].to_numpy(dtype=float), high)
    assert family_text(told) == "over all 12 tests of the run (Holm)"


@pytest.mark.long
@pytest.mark.parametrize("accuracy", [0.30, 0.33, *in_long_runs((0.36,), (0.45,))])
@pytest.mark.parametrize("anew", [1.0, *in_long_runs((1 / 3,))])
def test_a_weak_model_that_needs_no_layer_is_rarely_said_to_need_one(accuracy, anew):
    """Its tasks with signal are those in which it was lucky; answers are drawn anew by all layers.

    27 pairs of task and protocol, 12 layers, 100 items, guessing is right in a quarter. Counted
    over tasks with signal alone, false losses are several times as frequent as stated.
    """
    rng, n = np.random.default_rng(3), data_sets(800)
    told = lucky = 0
    place = {"task": np.repeat(np.arange(27), 12), "protocol": "letter"}
    for _ in range(n):
        intact = rng.random((27, 100)) < accuracy
        p = above_chance_p_values(intact.sum(axis=1), np.full(27, 100), np.full(27, 0.25))
        signal = np.repeat(have_signal(p), 12)
        redrawn = rng.random((27, 12, 100)) < anew
        after = np.where(redrawn, rng.random((27, 12, 100)) < accuracy, intact[:, None])
        lost, gained = ((a & ~b).sum(axis=2).ravel() for a, b in
                        ((intact[:, None], after), (after, intact[:, None])))  # fmt: skip
        p, loses = stats.mcnemar_p_values(lost, gained), lost > gained
        swept = pd.DataFrame(place).loc[signal]
        p_run = correct_run_wide(p[signal], signal[signal], sizes=count_tests(swept, n_asked=27))
        told += bool(((p_run < 0.05) & loses[signal]).any())
        lucky += bool(((stats.holm(p[signal]) < 0.05) & loses[signal]).any())
    assert told <= most_errors(n)
    if accuracy <= 0.33 and anew == 1:
        assert lucky > 0.07 * n


def run_effects(rng: np.random.Generator, keep: np.ndarray, n: int = 40) -> pd.DataFrame:
    """Effects of a run, each cell of ``keep`` (tasks by layers) losing a share of its answers."""
    tables = []
    for i, shares in enumerate(keep):
        intact = rng.random(n) < 0.9
        kept = rng.random((n, len(shares))) < shares
        flipped = rng.random((n, len(shares))) < 0.05
        correct = np.column_stack([intact, (intact[:, None] & kept) ^ flipped])
        tables.append(cell_records(correct, f"task-{i}", "knowledge"))
    return effects_table(pd.concat(tables, ignore_index=True), lambda task, protocol: 0.1, 0)


@pytest.mark.long
def test_the_largest_of_a_run_is_covered_where_a_bootstrap_misses_it():
    """Many layers lose about the same: the largest looks larger than it is."""
    truth_kept = np.full((3, 20), 0.5)
    truth = 0.9 - (0.45 * 0.95 + 0.55 * 0.05)
    missed = pointwise = 0
    n = data_sets(90)
    for seed in range(n):
        effects = run_effects(np.random.default_rng(seed), truth_kept)
        top = effects.loc[effects["acc_diff"].idxmax()]
        missed += not top["acc_diff_run_low"] <= truth <= top["acc_diff_run_high"]
        pointwise += not top["acc_diff_low"] <= truth <= top["acc_diff_high"]
    assert missed <= most_errors(n)
    assert pointwise > n / 2


def test_means_reach_as_far_as_t_at_the_divided_level():
    from scipy.stats import t

    signal = np.array([True, True, False, True, True])
    rate = np.array([False, False, False, True, True])
    table = pd.DataFrame({
        "task": "keys", "protocol": "letter", "mean": 1.0, "error": 2.0, "p": 0.5,
        "n_clusters": [10, 40, 10, 12, 1], "signal": signal,
    })  # fmt: skip
    for n_asked, n_strict, n_rate in ((None, 3, 2), (3, 9, 6)):
        found = estimate(table, student("mean"), ["task"], by_rate=rate, n_asked=n_asked)
        reach = found["run_high"].to_numpy() - 1
        assert reach[:2] == pytest.approx(2 * t.ppf(1 - 0.025 / n_strict, [9, 39]))
        assert np.isnan(reach[2])
        assert reach[3] == pytest.approx(2 * t.ppf(1 - 0.025 / n_rate, 11))
        assert np.isnan(reach[4])
        assert (found["run_low"] + found["run_high"]).dropna().to_numpy() == pytest.approx(2.0)


def test_estimates_are_corrected_within_their_parts_and_claimed_where_there_is_signal():
    """Rows of a part are corrected together; without signal nothing is significant."""
    table = pd.DataFrame({
        "task": ["a"] * 3 + ["b"] * 3, "protocol": "letter", "site": ["x", "x", "y"] * 2,
        "p": [0.01, 0.04, 0.03, 0.001, 0.001, np.nan], "signal": [True] * 3 + [False] * 3,
        "mean": 1.0, "error": 0.1, "n_clusters": 9,
    })  # fmt: skip
    found = estimate(table, student("mean"), ["task", "site"])
    expected = [0.02, 0.04, 0.03, 0.002, 0.002, np.nan]
    assert found["p_table"].tolist() == pytest.approx(expected, nan_ok=True)
    assert found["significant"].tolist() == [True] * 3 + [False] * 3
    # five were tested, of which those without signal count and are not claimed
    assert found["run_tests"].tolist()[:3] == [5] * 3
    assert found["p_run"].tolist()[:3] == pytest.approx([0.05, 0.12, 0.12])
    assert found.loc[3:, ["p_run", "run_tests", "run_low", "run_high"]].isna().all(axis=None)


def test_rows_are_corrected_by_family_or_for_more_tests_than_there_are_rows():
    rows = [{"of": "a", "p": 0.01}, {"of": "b", "p": 0.03}, {"of": "a", "p": 0.02}]
    assert [row["p_holm"] for row in correct_rows(rows)] == pytest.approx([0.03, 0.04, 0.04])
    assert [row["p_holm"] for row in correct_rows(rows, by=["of"])] == pytest.approx(
        [0.02, 0.03, 0.02]
    )
    assert [row["q"] for row in correct_rows(rows, 10, to="q")] == pytest.approx([0.1, 0.24, 0.18])
    assert rows[0] == {"of": "a", "p": 0.01}
    untested = {"of": "a"}
    assert correct_rows([rows[0], untested]) == [rows[0] | {"p_holm": 0.01}, untested]
    assert correct_rows([]) == []


def test_a_run_without_effects_makes_a_claim_over_the_run_in_one_of_twenty():
    """Per table one in twenty tables may be wrong, so of many tables one mostly is."""
    rng, n = np.random.default_rng(1), data_sets(120)
    over, apart = 0, 0
    for _ in range(n):
        lost = rng.binomial(40, 0.3, size=(12, 20))
        gained = rng.binomial(40 - lost, 0.3 / 0.7)
        p = stats.mcnemar_p_values(lost, gained)
        over += (correct_run_wide(p.ravel(), np.full(p.size, True)) < 0.05).any()
        apart += (stats.holm(p) < 0.05).any()
    assert over <= most_errors(n)
    assert apart > over


def test_where_no_answer_changed_or_all_did_the_bounds_are_exact():
    rng = np.random.default_rng(0)
    intact = np.ones(40, dtype=bool)
    correct = np.column_stack([intact, intact, ~intact, rng.random(40) < 0.5])
    none = np.zeros(40, dtype=bool)
    table = cell_records(correct, "task", "knowledge", no_layers=none)
    effects = effects_table(table, lambda task, protocol: 0.1, 0)
    same, all_lost, half = effects.to_dict("records")
    exact = exact_difference_bounds(np.zeros(1, dtype=int), np.zeros(1, dtype=int), np.array([40]))
    assert (same["acc_diff_low"], same["acc_diff_high"]) == (exact[0][0], exact[1][0])
    assert -0.12 < same["share_low"] < -0.1 < 0.09 < same["share_high"] < 0.12
    assert all_lost["acc_diff_low"] < 0.9
    assert all_lost["acc_diff_high"] == 1.0
    assert 0.88 < all_lost["share_low"] < 0.92
    assert 1.08 < all_lost["share_high"] < 1.12
    assert 0 < half["acc_diff_low"] < half["acc_diff"] < half["acc_diff_high"] < 1


def run_table(p_run: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame({"layer": range(len(p_run)), "p_run": pd.array(p_run, dtype="Float64")})


def test_words_say_how_many_hold_and_over_how_many():
    every = run_table([0.01, 0.2, 0.03, None])
    assert family_text(every) == "over all 3 tests of the run (Holm)"
    assert count_that_hold(every[:3], every) == (
        "of 3 significant effects 2 hold over all 3 tests of the run (Holm)"
    )
    assert count_that_hold(every[:1], every).startswith("this one effect holds")
    assert count_that_hold(run_table([None]), run_table([None])) == ""
    counted = every.assign(run_tests=pd.array([8, 8, 8, None], dtype="Int64"))
    assert family_text(counted[1:]) == "over all 8 tests of the run (Holm)"


def test_the_largest_mean_of_many_is_covered():
    """Skewed losses in nats of 24 items, in 100 cells that all lose 1 nat on average."""
    rng, n, missed = np.random.default_rng(0), data_sets(300), 0
    for _ in range(n):
        values = rng.gamma(4.0, 0.25, size=(24, 100))
        means, errors = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(24)
        table = pd.DataFrame({"mean": means, "error": errors, "n_clusters": 24})
        low, high = student("mean")(table, 100)
        top = int(means.argmax())
        missed += not low[top] <= 1.0 <= high[top]
    assert missed <= most_errors(n)
