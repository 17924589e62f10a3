"""Several draws of few-shot examples: crossed with items, and both are samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, f, t, ttest_1samp, ttest_ind

from layerwise import ablate, emergence, load
from layerwise.errors import UserError
from layerwise.planning.plan import plan_run
from layerwise.presentation.wording import item_counts_text
from layerwise.stats.cells import Cell, cells
from layerwise.stats.effects import effects_table, intact_interval
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.stats.items.crossed import crossed_difference, crossed_means
from layerwise.stats.signals.signal import Blind, signal_p_values
from layerwise.tasks import load_task, task_names
from layerwise.tasks.task import MOST_FEWSHOT_SEEDS, Task, take, with_examples
from tests import synthetic
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.models.tiny import tiny_model

KEY = ["intervention", "task", "item", "protocol"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


def with_draws(n_items: int = 5, n_draws: int = 3) -> Task:
    """A task with examples of which there are several draws."""
    items = word_task(n_items + 2 * n_draws).items
    asked = items[:n_items]
    kept = [replace(one, question=f"Again: {one.question}") for one in items[n_items:]]
    draws = [tuple(kept[2 * i : 2 * i + 2]) for i in range(n_draws)]
    return replace(
        word_task(n_items), items=asked, fewshot=draws[0], other_fewshot=tuple(draws[1:])
    )


@pytest.mark.parametrize("name", task_names())
def test_other_draws_of_a_suite_are_as_many_other_examples_and_no_items(name):
    task = load_task(name)
    every = [task.fewshot, *task.other_fewshot]
    assert len(every) == MOST_FEWSHOT_SEEDS
    assert {len(draw) for draw in every} == {len(task.fewshot)}
    asked = {(item.context, item.question) for item in task.items}
    for draw in every:
        assert asked.isdisjoint((one.context, one.question) for one in draw)
    assert len({str([replace(one, id="") for one in draw]) for draw in every}) == len(every)
    assert load_task(name, limit=7).other_fewshot == task.other_fewshot
    assert {len(draw) for draw in load_task(name, fewshot=1).other_fewshot} == {1}


def test_only_the_examples_differ_between_draws():
    task = with_draws()
    other = with_examples(task, 2)
    assert with_examples(task, 0) is task
    assert other.fewshot == task.other_fewshot[1]
    assert other.items == task.items
    assert other.hash != task.hash
    assert replace(task, other_fewshot=()).hash == task.hash
    assert take(task, 3, 1).other_fewshot == tuple(draw[:1] for draw in task.other_fewshot)


@pytest.mark.long
def test_the_first_draw_is_what_it_is_without_others(model):
    given = {"layers": [0, 1], "protocols": ["continuation", "generate"], "progress": False}
    alone = ablate(model, with_draws(), **given)
    several = ablate(model, with_draws(), fewshot_seeds=3, **given)
    assert alone.records["examples"].isna().all()
    first = several.records.loc[several.records["examples"] == 0].assign(examples=None)
    pd.testing.assert_frame_equal(
        first.astype({"examples": "Int64"}).sort_values(KEY, ignore_index=True),
        alone.records.sort_values(KEY, ignore_index=True),
    )
    assert several.facts.tasks == alone.facts.tasks
    assert sorted(several.records["examples"].unique()) == [0, 1, 2]
    other = ablate(model, with_examples(with_draws(), 2), **given).records
    third = several.records.loc[several.records["examples"] == 2].assign(examples=None)
    pd.testing.assert_frame_equal(
        third.astype({"examples": "Int64"}).sort_values(KEY, ignore_index=True),
        other.sort_values(KEY, ignore_index=True),
    )


@pytest.mark.long
def test_a_run_of_several_draws_goes_on_and_is_read_again(model, tmp_path):
    given = {"layers": [1], "fewshot_seeds": 3, "progress": False, "protocols": "continuation"}
    whole = ablate(model, with_draws(40), out=tmp_path / "run", **given)
    again = ablate(model, with_draws(40), out=tmp_path / "run", **given)
    pd.testing.assert_frame_equal(whole.records, again.records)
    (read,) = load(tmp_path / "run")
    pd.testing.assert_frame_equal(read.effects(), whole.effects())
    other = replace(with_draws(40), other_fewshot=with_draws(40).other_fewshot[::-1])
    with pytest.raises(UserError):
        ablate(model, other, out=tmp_path / "run", **given)


def test_a_plan_counts_every_draw(model):
    given = {"memory_budget": 2**28, "untimed": True}
    planned = plan_run(model, with_draws(), "continuation", fewshot_seeds=3, **given).total
    work = ablate(
        model, with_draws(), "continuation", fewshot_seeds=3, progress=False,
        memory_budget=2**28,
    ).facts.work  # fmt: skip
    assert sum(entry["token_passes"] for entry in work) == planned.token_passes
    assert (
        planned.requests
        == 3 * plan_run(model, with_draws(), "continuation", **given).total.requests
    )


@pytest.mark.parametrize(
    ("task", "number", "told"),
    [
        (word_task(3, fewshot=()), 3, "has 0 draws"),
        (with_draws(), 4, "has 3 draw"),
        (with_draws(), 0, "expected 1 to 10"),
        (with_draws(), 11, "expected 1 to 10"),
    ],
)
def test_draws_that_are_not_there_are_refused(model, task, number, told):
    with pytest.raises(UserError, match=told):
        ablate(model, task, fewshot_seeds=number, progress=False)


@pytest.mark.long
def test_what_does_not_know_of_draws_leaves_them_out_or_refuses_them(model):
    result = ablate(model, with_draws(), fewshot_seeds=3, progress=False)
    assert result.ladder().empty
    with pytest.raises(UserError, match="several draws of few-shot examples"):
        list(cells(result.records))
    found = emergence([result])
    assert found.emergence.empty
    assert found.left_out["reason"].str.contains("several draws of few-shot examples").all()
    assert item_counts_text(result.effects()) == "5 over 3 draws of the examples"


# ---- statistics


def test_where_draws_do_not_differ_only_items_count():
    items = np.random.default_rng(0).normal(0.3, 1.0, (1, 30, 4))
    means = crossed_means(np.repeat(items, 3, axis=0), Clusters.singletons(30))
    expected = ttest_1samp(items[0], 0.0)
    assert means.p_values() == pytest.approx(expected.pvalue, rel=1e-6)
    bounds = expected.confidence_interval(0.95)
    assert means.mean - means.half_widths(0.025) == pytest.approx(bounds.low)


def test_where_items_do_not_differ_only_draws_count():
    draws = np.random.default_rng(0).normal(0.3, 1.0, (4, 1, 3))
    means = crossed_means(np.repeat(draws, 30, axis=1), Clusters.singletons(30))
    expected = ttest_1samp(draws[:, 0], 0.0)
    assert means.p_values() == pytest.approx(expected.pvalue, rel=1e-6)
    assert means.upper_p_values(0.1) == pytest.approx(
        ttest_1samp(draws[:, 0], 0.1, alternative="greater").pvalue, rel=1e-6
    )


def test_parts_of_the_error_are_those_of_a_two_way_analysis_of_variance():
    import statsmodels.api as sm
    from statsmodels.formula.api import ols

    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 12, 1)) + rng.normal(size=(4, 1, 1)) + rng.normal(size=(1, 12, 1))
    means = crossed_means(values, Clusters.singletons(12))
    long = pd.DataFrame(
        [(d, i, values[d, i, 0]) for d in range(4) for i in range(12)], columns=["d", "i", "y"]
    )
    table = sm.stats.anova_lm(ols("y ~ C(d) + C(i)", long).fit())
    for part, row in (("items", "C(i)"), ("draws", "C(d)"), ("shared", "Residual")):
        found = float(getattr(means, part)[0])
        assert found == pytest.approx(table.loc[row, "mean_sq"] / 48)
    half = float(means.half_widths(0.025)[0])
    items, draws, shared = (float(getattr(means, one)[0]) for one in ("items", "draws", "shared"))
    howe = (items - shared) * t.ppf(0.975, 11) ** 2 + draws * t.ppf(0.975, 3) ** 2
    assert half == pytest.approx(np.sqrt(max(howe, items * t.ppf(0.975, 11) ** 2)))


def test_clusters_are_what_their_means_are():
    rng = np.random.default_rng(2)
    of_cluster = rng.normal(size=(3, 20, 2))
    twice = crossed_means(
        np.repeat(of_cluster, 2, axis=1), Clusters.from_labels(np.repeat(range(20), 2).tolist())
    )
    once = crossed_means(of_cluster, Clusters.singletons(20))
    for part in ("mean", "items", "draws", "shared"):
        assert getattr(twice, part) == pytest.approx(getattr(once, part))
    assert twice.half_widths(0.01) == pytest.approx(once.half_widths(0.01))


def test_p_values_are_the_levels_at_which_bounds_exclude():
    means = crossed_means(
        np.random.default_rng(3).normal(0.5, 1, (5, 20, 50)), Clusters.singletons(20)
    )
    for level in (0.2, 0.05, 1e-3):
        outside = np.abs(means.mean) > means.half_widths(level / 2)
        assert ((means.p_values() < level) == outside).all()
    assert crossed_means(np.zeros((3, 5, 1)), Clusters.singletons(5)).p_values() == [1.0]
    assert crossed_means(np.ones((3, 5, 1)), Clusters.singletons(5)).p_values() == [0.0]


# Spread of items, of draws, and of what is neither's.
SPREADS = ((1, 0, 0), (1, 0, 1), (1, 0.15, 1), (1, 0.3, 1), (1, 1, 0), (1, 1, 1), (0.1, 1, 1))


@pytest.mark.parametrize(
    ("n", "n_draws"), [(40, 3), (100, 10), *in_long_runs((40, 2), (40, 5), (100, 2), (100, 5))]
)
def test_bounds_cover_the_mean_over_items_and_draws(n, n_draws):
    rng, n_sets = np.random.default_rng(n + n_draws), 400
    for of_items, of_draws, shared in SPREADS:
        values = rng.normal(0, of_items, (1, n, n_sets)) + rng.normal(
            0, of_draws, (n_draws, 1, n_sets)
        )
        values = values + rng.normal(0, shared, (n_draws, n, n_sets))
        means = crossed_means(values, Clusters.singletons(n))
        covered = (np.abs(means.mean) <= means.half_widths(0.025)).mean()
        assert 0.92 <= covered <= (0.995 if n_draws < 5 else 0.985)


def answers(rng, n, n_draws, n_sets, of_draws):
    """Right answers by draw, item and set, intact and changed, which costs nothing on average.

    In each draw it helps or harms, either as likely.
    """
    item = rng.normal(0, 1, (1, n, n_sets))
    shift = rng.normal(0, of_draws, (n_draws, 1, n_sets))
    level = item + rng.normal(0, 0.3, (n_draws, 1, n_sets)) + 1.0
    one, other = (
        rng.random((n_draws, n, n_sets)) < 1 / (1 + np.exp(-x)) for x in (level, level + shift)
    )
    turned = rng.random((n_draws, 1, n_sets)) < 0.5
    return np.where(turned, other, one), np.where(turned, one, other)


def crossed_cell(intact, correct, **more) -> Cell:
    """Answers of one intervention by draw and item as the cell of all draws."""
    n = intact.shape[1]
    nothing = np.full((n, 1), np.nan)
    table = pd.DataFrame({"intervention": ["skip:layer=0"]})
    each = tuple(
        Cell("t", "reasoning", "continuation", table, one, other[:, None], nothing, nothing,
             tuple(map(str, range(n))), Clusters.singletons(n),
             **{k: v[d] for k, v in more.items()})
        for d, (one, other) in enumerate(zip(intact, correct, strict=True))
    )  # fmt: skip
    return each[0]._replace(
        intact=intact.mean(0), correct=correct.mean(0)[:, None], of_examples=each
    )


@pytest.mark.parametrize(
    ("n", "n_draws"), [(40, 3), *in_long_runs((40, 10), (100, 3), (100, 5), (100, 10))]
)
def test_changes_that_cost_nothing_over_draws_are_seldom_significant(n, n_draws):
    for of_draws in (0.0, 0.5, 1.0):
        intact, correct = answers(np.random.default_rng(n_draws), n, n_draws, 400, of_draws)
        change = intact.astype(float) - correct
        means = crossed_means(change, Clusters.singletons(n))
        alone = paired_p_values(np.rint(change.sum(axis=0)).astype(int), Clusters.singletons(n))
        assert (np.maximum(alone, means.p_values()) < 0.05).mean() <= 0.07 + 0.02
        if of_draws == 1.0 and n_draws == 3:  # what happens if draws are taken for fixed
            assert (alone < 0.05).mean() > 0.2


@pytest.mark.long
@pytest.mark.parametrize("n_draws", [3, *in_long_runs((5,))])
def test_a_model_that_guesses_on_average_over_draws_has_signal_seldom(n_draws):
    """Blind where the draws do not matter, and where a draw makes it lucky or unlucky."""
    rng, n_sets, n = np.random.default_rng(n_draws), 150, 40
    for of_draws in (0.0, 0.15):
        found = 0
        for _ in range(n_sets):
            rate = np.clip(0.4 + of_draws * rng.choice([-1, 1], (n_draws, 1)), 0, 1)
            intact = rng.random((n_draws, n)) < rate
            blind = [Blind(right, np.full(n, 3)) for right in rng.binomial(3, 0.4, (n_draws, n))]
            cell = crossed_cell(intact, intact, blind=blind)
            found += signal_p_values([cell], lambda *_: 0.4)[0] < 0.025
        assert found / n_sets < 0.06
    cell = crossed_cell(rng.random((n_draws, n)) < 0.9, intact, blind=blind)
    assert signal_p_values([cell], lambda *_: 0.4)[0] < 0.025


def test_the_interval_of_the_accuracy_knows_of_draws():
    rng = np.random.default_rng(0)
    alike = crossed_cell(*[np.repeat(rng.random((1, 40)) < 0.7, 3, axis=0)] * 2)
    rates = np.array([[0.4], [0.7], [0.95]])
    apart = crossed_cell(*[rng.random((3, 40)) < rates] * 2)
    one, other = intact_interval(alike), intact_interval(apart)
    assert other.high - other.low > 1.5 * (one.high - one.low)
    assert one.low < one.estimate < one.high
    never = intact_interval(crossed_cell(*[np.ones((3, 40), dtype=bool)] * 2))
    assert never.estimate == never.high == 1.0
    assert 0.9 < never.low < 0.95


def records_by_draw(losses, intact=0.9, seed=0) -> pd.DataFrame:
    """Records of one skipped layer; by draw, what share of right answers it costs."""
    rng, parts = np.random.default_rng(seed), []
    for examples, loss in enumerate(losses):
        right = rng.random((60, 1)) < intact
        right = np.hstack([right, right & (rng.random((60, 1)) >= loss)])
        records = synthetic.cell_records(right, "t", "reasoning", "continuation")
        gold = np.where(records["kind"] == "skip", -1.0 - 3 * loss, -1.0)
        parts.append(records.assign(gold_logprob=gold, margin=gold, examples=examples))
    return pd.concat(parts, ignore_index=True)


def test_effects_are_the_mean_over_draws_and_as_wide_as_draws_differ():
    alike, apart = (
        effects_table(records_by_draw(losses), lambda *_: 0.25, 0).iloc[0]
        for losses in ((0.4,) * 3, (0.0, 0.4, 0.8))
    )
    assert alike["acc_diff"] == pytest.approx(apart["acc_diff"], abs=0.1)
    assert alike["n_examples"] == apart["n_examples"] == 3
    assert alike["p"] < 0.05
    assert apart["p"] > 0.05
    assert alike["significant"]
    assert not apart["significant"]
    for name in ("acc_diff", "share", "nats", "margin", "acc_diff_run"):
        wide, narrow = (row[f"{name}_high"] - row[f"{name}_low"] for row in (apart, alike))
        assert wide > 1.5 * narrow
    records = records_by_draw((0.0, 0.4, 0.8))
    by_draw = records.groupby(["examples", "kind"])["correct"].mean().unstack()
    assert apart["acc_diff"] == pytest.approx((by_draw["intact"] - by_draw["skip"]).mean())


def test_no_loss_is_said_only_if_it_holds_over_draws():
    sure, unsure = (
        effects_table(records_by_draw(losses, intact=1.0), lambda *_: 0.25, 0).iloc[0]
        for losses in ((0.0, 0.0, 0.0), (0.0, 0.0, 0.06))
    )
    assert sure["p_no_loss"] < 0.1
    assert sure["p_no_loss_nats"] < 0.05
    assert unsure["p_no_loss"] > sure["p_no_loss"]
    assert unsure["p_no_loss_nats"] > 0.05


@pytest.mark.parametrize("seed", range(2))
def test_without_an_error_of_items_it_is_welchs_test(seed: int):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 1, 3), rng.normal(0.5, 3, 4)
    found = crossed_difference(first, second, 0.0, 60)
    known = ttest_ind(second, first, equal_var=False)
    interval = known.confidence_interval()
    assert found.p == pytest.approx(known.pvalue)
    assert found.df == pytest.approx(known.df)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("error", [0.05, 0.4])
def test_with_both_errors_it_is_min_f_prime_but_no_surer_than_the_runs_alone(error: float):
    """Clark (1973): F' = F1 F2 / (F1 + F2), df = (F1 + F2)^2 / (F1^2 / df2 + F2^2 / df1)."""
    first, second = np.array([0.1, 0.2, 0.4]), np.array([0.6, 0.9, 0.7])
    found = crossed_difference(first, second, error, 41)
    welch = ttest_ind(second, first, equal_var=False)
    by_runs, by_items = welch.statistic**2, ((second.mean() - first.mean()) / error) ** 2
    squared = by_runs * by_items / (by_runs + by_items)
    df = (by_runs + by_items) ** 2 / (by_runs**2 / 40 + by_items**2 / welch.df)
    whole = np.hypot(found.error_units, found.error_items)
    assert (found.interval.estimate / whole) ** 2 == pytest.approx(squared)
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(max(welch.pvalue, f.sf(squared, 1, df)))
    alone = welch.confidence_interval()
    assert found.interval.low <= alone.low + 1e-12
    assert found.interval.high >= alone.high - 1e-12


def test_groups_that_do_not_vary_are_no_surer_than_their_order():
    same = crossed_difference(np.full(3, 0.25), np.full(3, 0.25), 0.0, 60)
    apart = crossed_difference(np.full(3, 0.25), np.full(3, 0.5), 0.0, 60)
    assert same.p == 1.0
    assert apart.p == pytest.approx(2 / 20)
    assert np.isnan([apart.interval.low, apart.interval.high, apart.df]).all()
    with_items = crossed_difference(np.full(3, 0.25), np.full(3, 0.5), 0.01, 60)
    assert with_items.p == pytest.approx(2 / 20)
    assert with_items.interval.low > 0


def test_intervals_cover_when_runs_and_items_both_vary():
    """Runs, items, and what a group finds hard in an item are drawn anew 400 times."""
    rng, inside, n_runs, n_items = np.random.default_rng(0), 0, 3, 40
    for _ in range(400):
        per_item = rng.normal(0, 0.5, (2, 1, n_items)) + rng.normal(0, 1, (1, 1, n_items))
        per_run = rng.normal(0, 0.1, (2, n_runs, 1))
        values = per_item + per_run + rng.normal(0, 0.3, (2, n_runs, n_items))
        groups = values.mean(axis=2)
        over_items = values.mean(axis=1)
        error = (over_items[1] - over_items[0]).std(ddof=1) / np.sqrt(n_items)
        found = crossed_difference(groups[0], groups[1], float(error), n_items)
        inside += found.interval.low <= 0 <= found.interval.high
    # at least nominal, within the error of the simulation
    assert inside >= binom.ppf(0.001, 400, 0.95)
    # and not so wide that nothing could ever be found
    assert inside < 400
