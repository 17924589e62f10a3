"""What several tasks ask for together: drawn together wherever their means are joined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t, ttest_1samp

from layerwise import stats
from layerwise.analyses.comparison.quantities import Prepared
from layerwise.analyses.comparison.runs import SavedRun
from layerwise.analyses.comparison.tables import estimate_rows, pair_rows
from layerwise.analyses.emergence.api import evidence_of
from layerwise.analyses.emergence.protocol_interaction import interaction_rows
from layerwise.analyses.emergence.summaries import capability_summaries
from layerwise.analyses.removal.tables import curves_table
from layerwise.stats.depth.item_curves import settled_by_item
from layerwise.stats.depth.layer_curves import MethodCurve, Sampling, drawn_together
from layerwise.stats.effects import cells, layer_skips
from layerwise.stats.inference import expanded_level
from layerwise.stats.items.clusters import (
    Clusters,
    draws_of_tasks,
    paired_p_values,
    sample_and_joint_resamples,
    sample_and_resamples,
)
from layerwise.storage.parquet import frame
from tests.cases import data_sets, most_errors
from tests.comparing import model, row
from tests.synthetic import ablation, cell_records
from tests.test_removal_floor import rows_of

N, KEPT = 40, 0.4
TASKS = ("facts", "facts-open-book")


def test_tasks_draw_what_they_share_together_and_the_rest_by_itself():
    one, other = Clusters.of(["a", "a", "b", None]), Clusters.of(["c", "b", None])
    first, second = sample_and_joint_resamples([one, other], 500, 0)
    assert (first[0] == 1).all()
    assert (second[0] == 1).all()
    assert (first[:, one.row_of_label["b"]] == second[:, other.row_of_label["b"]]).all()
    # five clusters in all: a, b, c, and an item of each task
    total = first.sum(axis=1) + second.sum(axis=1) - first[:, one.row_of_label["b"]]
    assert (total == 5).all()


def test_facts_asked_in_two_tasks_are_missed_no_more_often_than_stated():
    """Of 40 facts each asked in two tasks; drawn apart, intervals miss in one of seven."""
    n, missed = data_sets(120), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        kept, parts = rng.random(N) < KEPT, []
        for task in TASKS:
            mine = np.where(rng.random(N) < 0.9, kept, rng.random(N) < KEPT)
            always, never = np.ones(N, dtype=bool), np.zeros(N, dtype=bool)
            for split in ("selection", "held out"):
                answers = {"intact": always, "no layers": never, "1": mine}
                named = rows_of(answers, split, task)
                parts += [one | {"cluster": f"fact {int(one['item'][-3:])}"} for one in named]
        table = curves_table(frame("removal", parts), lambda task, protocol: 0.25, 0)
        first = pd.Series(table.iloc[0])
        assert first["n_tasks"] == 2
        missed += not first["share_low"] <= 1 - KEPT <= first["share_high"]
    assert missed <= most_errors(n)


def asked_twice(
    rng: np.random.Generator, protocol: str, lost: float, layers: tuple[int, ...]
) -> list[pd.DataFrame]:
    """40 facts that two tasks ask for; of the answers in one all but a tenth are the other's."""

    def answers() -> np.ndarray:
        right = np.ones((N, 7), dtype=bool)
        for layer in layers:
            right[:, layer + 1] = rng.random(N) >= lost
        return right

    common, parts = answers(), []
    for task in TASKS:
        right = np.where((rng.random(N) < 0.9)[:, None], common, answers())
        table = cell_records(right, task, "knowledge", protocol, no_layers=np.zeros(N, bool))
        parts.append(table.assign(cluster="fact " + table["item"].str[-4:]))
    return parts


def test_shares_by_protocol_and_their_difference_miss_no_more_often_than_stated():
    """Drawn apart, both miss in one of seven."""
    n, difference, share = data_sets(150), 0, 0
    groups = {"early": [0, 1], "late": [2, 3, 4, 5]}
    chance = {(task, name): 0.0 for task in TASKS for name in ("continuation", "generate")}
    for seed in range(n):
        rng = np.random.default_rng(seed)
        parts = [t for p in ("continuation", "generate") for t in asked_twice(rng, p, 0.5, (1,))]
        found = interaction_rows(pd.concat(parts), chance, groups, Sampling(0, 500, 6))[0]
        difference += not found["low"] <= 0 <= found["high"]
        share += not found["share_first_low"] <= 0.25 <= found["share_first_high"]
    assert difference <= most_errors(n)
    assert share <= most_errors(n)


def two_runs(seed: int, n_resamples: int) -> list[Prepared]:
    """Two models that need the same layers, asked for the same facts by two tasks."""
    rng, runs = np.random.default_rng(seed), []
    for name in ("one", "two"):
        result = ablation(*asked_twice(rng, "letter", 0.2, (1, 3, 4)), model=model(name, 6))
        run = SavedRun(name, None, result.facts, (result,))
        of_skips = {(cell.task, cell.protocol): cell for cell in cells(layer_skips(result.records))}
        runs.append(Prepared(run, Sampling(0, n_resamples, 6), (), (), of_skips))
    return runs


def test_thirds_of_two_models_alike_miss_no_more_often_than_stated():
    """Drawn apart, intervals of the difference miss in one of six."""
    n, missed = data_sets(120), 0
    for seed in range(n):
        pairs = pair_rows(two_runs(seed, 300), [])
        third = row(pd.DataFrame(pairs), measure="early third")
        missed += not third["low"] <= 0 <= third["high"]
    assert missed <= most_errors(n)


def test_thirds_in_which_nothing_is_lost_are_not_known_exactly():
    """What 40 facts leave open of a share that is 0 in all resamples, and of a difference of 0."""
    runs = []
    for name in ("one", "two"):
        parts = []
        for task in TASKS:
            right = np.ones((N, 7), dtype=bool)
            right[:, 1] = False
            table = cell_records(right, task, "knowledge", "letter", no_layers=np.zeros(N, bool))
            parts.append(table.assign(cluster="fact " + table["item"].str[-4:]))
        result = ablation(*parts, model=model(name, 6))
        of_skips = {(cell.task, cell.protocol): cell for cell in cells(layer_skips(result.records))}
        run = SavedRun(name, None, result.facts, (result,))
        runs.append(Prepared(run, Sampling(0, 100, 6), (), (), of_skips))
    (late,) = (one for one in estimate_rows(runs[:1]) if one["measure"] == "late third")
    assert late["estimate"] == 0
    assert -0.12 < late["low"] < -0.08 < 0.08 < late["high"] < 0.12
    apart = row(pd.DataFrame(pair_rows(runs, [])), measure="late third")
    assert apart["difference"] == 0
    assert apart["low"] == pytest.approx(late["low"] - late["high"])
    assert apart["high"] == pytest.approx(late["high"] - late["low"])


def test_percentiles_are_expanded_to_the_quantiles_of_t():
    """So that a mean of few items has the interval of a t-test."""
    tail = norm.sf(np.sqrt(20 / 19) * t.isf(0.025, 19))
    assert (1 - expanded_level(20)) / 2 == pytest.approx(tail)
    assert (1 - expanded_level(10_000)) / 2 == pytest.approx(0.025, abs=1e-4)
    values = np.random.default_rng(0).normal(size=15)
    drawn = values[stats.resample_indices(15, 400_000, 1)].mean(axis=1)[:, None]
    low, high = stats.percentile_bounds(drawn, expanded_level(15))
    usual = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((usual.low, usual.high), abs=0.06)


def test_critical_sets_and_ranks_are_of_facts_drawn_together():
    """Every resample by hand: the tests, and the shares lost, of the facts that were drawn."""
    run, n_resamples = two_runs(0, 40)[0], 40
    told = evidence_of(run.run.results, run.sampling)
    group = sorted((e for e in told if isinstance(e, MethodCurve)), key=lambda e: e.task)
    found = drawn_together(group, run.sampling)
    drawn = stats.resample_indices(N, n_resamples, stats.generator(0, *TASKS))
    sizes = next(iter(capability_summaries(group, run.sampling))).draws
    for i, facts in enumerate(drawn, start=1):
        critical = []
        for evidence in found:
            cell = run.cells[evidence.task, "letter"]
            net = cell.intact[facts].astype(int)[:, None] - cell.correct[facts]
            sure = stats.holm(paired_p_values(net, Clusters.apart(N))) < 0.05
            critical.append(sure & (net.sum(axis=0) > 0))
            shares = net.sum(axis=0) / cell.intact[facts].sum()
            assert evidence.rows[i] == pytest.approx(shares)
        assert sizes[i] == np.any(critical, axis=0).sum()


def test_depths_where_answers_settle_are_of_facts_drawn_together():
    layers, right = np.arange(6.0), np.array([1, 1, 0, 1, 1, 1], dtype=bool)
    sampling, clusters = Sampling(3, 60, 8), Clusters.of(list("abcdef"))
    values = np.ones((6, 9)).cumsum(axis=1)
    group = [
        MethodCurve(
            "logit lens", "knowledge", "letter", task, tuple("123456"), clusters, values,
            lambda means: means, lambda *given: None, values.mean(axis=0)[None],
            settled=np.zeros(61), settling=np.column_stack([right * mine, right]),
            settled_curves=settled_by_item(mine, right, 8, clusters),
        )
        for task, mine in zip(TASKS, (layers, layers[::-1]), strict=True)
    ]  # fmt: skip
    found = np.mean([e.settled for e in drawn_together(group, sampling)], axis=0)
    # the two tasks' depths of a fact add up to 5, whichever facts are drawn
    assert found == pytest.approx(2.5)


def test_tasks_that_share_nothing_are_drawn_as_each_by_itself():
    one, other = Clusters.of(["a", "a", "b"]), Clusters.of(["c", None])
    drawn = draws_of_tasks(["first", "second"], [one, other], 20, 5)
    for task, clusters, counts in zip(["first", "second"], [one, other], drawn, strict=True):
        alone = sample_and_resamples(clusters.n, 20, stats.generator(5, task))
        assert np.array_equal(counts, stats.resample_counts(alone))
