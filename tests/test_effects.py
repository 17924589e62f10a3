from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest
from statsmodels.stats.multitest import multipletests

from layerwise import stats
from layerwise.errors import UserError
from layerwise.results import AblationResult
from layerwise.stats.families.estimate import exact_difference_bounds, exact_where_alike
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.share_bounds import share_scale
from tests import synthetic
from tests.cases import data_sets, most_errors
from tests.synthetic import cell_records, planted


@pytest.fixture
def ablation():
    return synthetic.small_ablation()


def test_signal_equals_the_exact_interval(ablation):
    table = ablation.signal().set_index(["task", "protocol"])
    groups = ablation.records.query("kind == 'intact'").groupby(["task", "protocol"])
    for key, row in table.iterrows():
        mine = groups.get_group(key)
        reference = binomtest(int(mine["correct"].sum()), len(mine)).proportion_ci()
        assert (row["low"], row["high"]) == pytest.approx((reference.low, reference.high))
        assert row["signal"] == (row["low"] > row["chance"])
    assert table["signal"].tolist() == [True, True, False]
    assert table["chance"].tolist() == [0.0, 0.25, 0.25]


def test_effects_equal_the_single_statistics(ablation):
    table = ablation.effects().query("task == 'keys' and protocol == 'letter'")
    wide = ablation.records.query("task == 'keys' and protocol == 'letter'").pivot(
        index="item", columns="intervention", values=["correct", "gold_logprob", "margin"]
    )
    intact = wide["correct"]["intact"].to_numpy(dtype=bool)
    for _, row in table.iterrows():
        changed = wide["correct"][row["intervention"]].to_numpy(dtype=bool)
        nats = wide["gold_logprob"]["intact"] - wide["gold_logprob"][row["intervention"]]
        margins = wide["margin"]["intact"] - wide["margin"][row["intervention"]]
        share = stats.share_lost(intact, changed, 0.25, seed=stats.generator(0, "keys"))
        diff = stats.paired_bootstrap(
            intact.astype(float) - changed, seed=stats.generator(0, "keys")
        )
        in_nats = stats.paired_bootstrap(
            nats.to_numpy(dtype=float), seed=stats.generator(0, "keys")
        )
        above, apart = intact - 0.25, Clusters.apart(len(intact))
        (low,), (high,) = share_scale(above, apart, 0.25).bounds(np.array([share.estimate]))
        unseen = [min(share.low, low), max(share.high, high)]
        found = row[["share_lost", "share_low", "share_high"]].tolist()
        assert found == pytest.approx([share.estimate, *unseen])
        (low,), (high,) = exact_where_alike(np.array([diff.estimate]), np.array([len(intact)]), 1.0)
        if changed.tolist() == intact.tolist():
            none = np.zeros(1, dtype=int)
            (low,), (high,) = exact_difference_bounds(none, none, np.array([len(intact)]))
        unseen = [min(diff.low, low), max(diff.high, high)]
        found = row[["acc_diff", "acc_diff_low", "acc_diff_high"]].tolist()
        assert found == pytest.approx([diff.estimate, *unseen])
        found = row[["nats", "nats_low", "nats_high"]].tolist()
        assert found == pytest.approx([in_nats.estimate, in_nats.low, in_nats.high])
        in_margins = stats.paired_bootstrap(
            margins.to_numpy(dtype=float), seed=stats.generator(0, "keys")
        )
        found = row[["margin", "margin_low", "margin_high"]].tolist()
        assert found == pytest.approx([in_margins.estimate, in_margins.low, in_margins.high])
        lost, gained = int((intact & ~changed).sum()), int((~intact & changed).sum())
        assert row["p"] == pytest.approx(stats.mcnemar_exact(lost, gained))
    assert table["p_holm"].tolist() == pytest.approx(
        multipletests(table["p"], method="holm")[1].tolist()
    )
    assert table.loc[table["significant"], "layer"].tolist() == [3]


def test_effects_are_null_where_nothing_can_be_said(ablation):
    table = ablation.effects()
    nothing = table.query("task == 'sums'")
    assert len(nothing) == 8
    assert nothing[["share_lost", "share_low", "share_high"]].isna().all(axis=None)
    assert not nothing["significant"].any()
    assert table.query("protocol == 'generate'")["nats"].isna().all()


def test_nothing_is_significant_of_a_model_that_only_guesses():
    """Also where a change does harm beyond all doubt: below chance there is nothing to lose."""
    right = np.zeros((100, 5), bool)
    right[:30] = True  # chance is 0.25
    right[:, 1 + 2] = False
    table = synthetic.ablation(cell_records(right, "keys", "retrieval")).effects()
    assert table.set_index("layer").loc[2, "p_holm"] < 1e-6
    assert not table["signal"].any()
    assert not table["significant"].any()


def test_holm_is_over_one_kind_and_site():
    rng = np.random.default_rng(1)
    cell = cell_records(planted(rng, 50, 4, critical=(1,)), "keys", "retrieval")
    zero = cell[cell["kind"] == "skip"].assign(kind="zero", site="attn_out")
    zero["intervention"] = zero["intervention"].str.replace("skip:", "zero:attn_out,")
    both = synthetic.ablation(cell, zero).effects()
    alone = synthetic.ablation(cell).effects()
    assert len(both) == 8
    assert both.query("kind == 'skip'")["p_holm"].tolist() == alone["p_holm"].tolist()


def test_effects_do_not_depend_on_the_order_of_records(ablation):
    shuffled = ablation.records.sample(frac=1, random_state=3)
    again = AblationResult(shuffled, ablation.facts)
    pd.testing.assert_frame_equal(again.effects(), ablation.effects())
    pd.testing.assert_frame_equal(again.signal(), ablation.signal())


def test_one_item_gives_estimates_and_no_bounds():
    table = synthetic.ablation(
        cell_records(np.array([[True, False]]), "keys", "retrieval", "generate")
    ).effects()
    row = table.iloc[0]
    assert (row["acc_diff"], row["share_lost"], row["p"]) == (1.0, 1.0, 1.0)
    assert table[["acc_diff_low", "share_high"]].isna().all(axis=None)
    assert not row["significant"]


def test_records_of_the_intact_model_alone_have_no_effects():
    found = synthetic.ablation(cell_records(np.ones((9, 2), bool), "keys", "retrieval"))
    alone = AblationResult(found.records.query("kind == 'intact'"), found.facts)
    assert len(alone.effects()) == 0
    assert len(alone.signal()) == 1


def test_incomplete_records_are_refused(ablation):
    for records in (ablation.records.iloc[:-1], pd.concat([ablation.records] * 2)):
        with pytest.raises(UserError, match="are incomplete or doubled: expected every item once"):
            AblationResult(records, ablation.facts).effects()
    without = ablation.records[ablation.records["kind"] != "intact"]
    with pytest.raises(UserError, match="lack the intact model"):
        AblationResult(without, ablation.facts).effects()


def test_unknown_chance_is_refused(ablation):
    with pytest.raises(UserError, match="do not mention task 'keys'"):
        AblationResult(ablation.records, synthetic.facts()).signal()
    bare = synthetic.task_facts("keys", "retrieval").model_copy(update={"chance": {}})
    with pytest.raises(UserError, match="no chance level under protocol 'generate'"):
        AblationResult(ablation.records, synthetic.facts(bare)).signal()


def test_effects_of_a_full_run_are_quick():
    rng = np.random.default_rng(0)
    cells = [
        cell_records(planted(rng, 200, 30, (4,), 0.8, 0.2), f"task{i}", "knowledge", protocol)
        for i in range(4)
        for protocol in ("letter", "continuation", "generate")
    ]
    result = synthetic.ablation(*cells)
    # processor time, so that a busy machine does not fail it; a loop over items took minutes
    start = time.process_time()
    assert len(result.effects()) == 360
    assert time.process_time() - start < 6


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_noise_is_called_significant_no_more_often_than_it_may(accuracy):
    rng = np.random.default_rng(11)
    n_sets = data_sets(200)
    cells = [
        cell_records(planted(rng, 60, 6, accuracy=accuracy, noise=0.5), f"t{i:03d}", "knowledge")
        for i in range(n_sets)
    ]
    table = synthetic.ablation(*cells).effects()
    # Signal is corrected over all tasks, which are four times as many in long runs.
    assert table["signal"].mean() > 0.7
    false_claims = table.groupby("task")["significant"].any().sum()
    assert false_claims <= most_errors(n_sets)


@pytest.mark.slow
def test_the_paired_interval_of_noise_covers_zero_as_often_as_it_says():
    rng = np.random.default_rng(5)
    cells = [
        cell_records(planted(rng, 100, 1, accuracy=0.6, noise=0.4), f"t{i:03d}", "knowledge")
        for i in range(data_sets(200))
    ]
    table = synthetic.ablation(*cells).effects()
    for low, high in (("acc_diff_low", "acc_diff_high"), ("nats_low", "nats_high")):
        missed = ((table[low] > 0) | (table[high] < 0)).sum()
        assert binom.ppf(0.01, len(table), 0.05) <= missed <= most_errors(len(table))
