from __future__ import annotations

import doctest
import time
from inspect import signature

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

import layerwise as lw
from layerwise import stats
from layerwise.errors import UserError
from layerwise.report import findings
from layerwise.results import AblationResult
from layerwise.stats.families.estimate import equal_value_bounds, exact_difference_bounds
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import (
    SmallestEffects,
    no_loss_of_nats_p_values,
    score_p_values,
)
from layerwise.stats.share_tests.share_bounds import share_scale
from layerwise.stats.signals import power
from tests import synthetic
from tests.analysis import distinct, with_preferred_answers, word_task
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model
from tests.synthetic import cell_records, planted_answers


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
    records = ablation.records.query("task == 'keys' and protocol == 'letter'")
    wide = records.pivot(
        index="item", columns="intervention", values=["correct", "gold_logprob", "margin"]
    )
    intact = wide["correct"]["intact"].to_numpy(dtype=bool)
    n = np.array([len(intact)])
    scale = share_scale(intact - 0.25, Clusters.singletons(len(intact)), 0.25)

    def bootstrapped(differences) -> list[float]:
        made = stats.paired_bootstrap(differences, seed=stats.generator(0, "keys"))
        return [made.estimate, made.low, made.high]

    def widened(interval, bounds) -> list[float]:
        (low,), (high,) = bounds
        return [interval[0], min(interval[1], low), max(interval[2], high)]

    for _, row in table.iterrows():
        changed = wide["correct"][row["intervention"]].to_numpy(dtype=bool)
        share = stats.share_lost(intact, changed, 0.25, seed=stats.generator(0, "keys"))
        apart = bootstrapped(intact.astype(float) - changed)
        none = np.zeros(1, dtype=int)
        alike = changed.tolist() == intact.tolist()
        unseen = (exact_difference_bounds(none, none, n) if alike
                  else equal_value_bounds(np.array(apart[:1]), n, 1.0))  # fmt: skip
        expected = {
            "share_lost share_low share_high": widened(
                [share.estimate, share.low, share.high], scale.bounds(np.array([share.estimate]))
            ),
            "acc_diff acc_diff_low acc_diff_high": widened(apart, unseen),
        }
        for name, column in (("nats", "gold_logprob"), ("margin", "margin")):
            lost = wide[column]["intact"] - wide[column][row["intervention"]]
            expected[f"{name} {name}_low {name}_high"] = bootstrapped(lost.to_numpy(dtype=float))
        for names, values in expected.items():
            assert row[names.split()].tolist() == pytest.approx(values)
        lost, gained = int((intact & ~changed).sum()), int((~intact & changed).sum())
        assert row["p"] == pytest.approx(stats.mcnemar_exact(lost, gained))
    corrected = multipletests(table["p"], method="holm")[1]
    assert table["p_holm"].tolist() == pytest.approx(corrected.tolist())
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
    cell = cell_records(planted_answers(rng, 50, 4, critical=(1,)), "keys", "retrieval")
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
        cell_records(
            planted_answers(rng, 200, 30, (4,), 0.8, 0.2), f"task{i}", "knowledge", protocol
        )
        for i in range(4)
        for protocol in ("letter", "continuation", "generate")
    ]
    result = synthetic.ablation(*cells)
    # processor time, so that a busy machine does not fail it; a loop over items took minutes
    start = time.process_time()
    assert len(result.effects()) == 360
    assert time.process_time() - start < 6


@pytest.mark.long(but=["0.5"])
@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_noise_is_called_significant_no_more_often_than_it_may(accuracy):
    rng = np.random.default_rng(11)
    n_sets = data_sets(200)
    cells = [
        cell_records(
            planted_answers(rng, 60, 6, accuracy=accuracy, noise=0.5), f"t{i:03d}", "knowledge"
        )
        for i in range(n_sets)
    ]
    table = synthetic.ablation(*cells).effects()
    # Signal is corrected over all tasks, which are four times as many in long runs.
    assert table["signal"].mean() > 0.7
    false_claims = table.groupby("task")["significant"].any().sum()
    assert false_claims <= most_errors(n_sets)


@pytest.mark.parametrize("n_tests", [1, 2, 8, 30, 60])
def test_so_many_changes_and_no_fewer_are_significant_alone_among_the_tests(n_tests):
    enough = power.least_change(n_tests)
    for changed, significant in ((enough, True), (enough - 1, False)):
        p = np.array([stats.mcnemar_exact(changed, 0), *[1.0] * (n_tests - 1)])
        assert (stats.holm(p)[0] < 0.05) == significant


@pytest.mark.parametrize(
    ("n", "chance", "n_tests"), [(60, 0.25, 1), (80, 0.25, 32), (24, 0.08, 60)]
)
def test_so_many_right_answers_and_no_fewer_are_above_guessing(n, chance, n_tests):
    enough = power.least_right(n, chance, n_tests)
    assert enough is not None
    for right, above in ((enough, True), (enough - 1, False)):
        p = binomtest(right, n, chance, alternative="greater").pvalue
        assert (p * n_tests < 0.05) == above


def test_of_too_few_items_none_are_enough_and_no_tests_are_refused():
    assert power.least_right(4, 0.5) is None
    for ask in (lambda: power.least_change(0), lambda: power.least_right(8, 0.5, 0)):
        with pytest.raises(UserError, match="at least one test, not 0"):
            ask()


def test_examples_hold():
    assert doctest.testmod(power).failed == 0


@pytest.fixture(scope="module")
def task():
    return with_preferred_answers(tiny_model("llama"), distinct(word_task(60)))


def test_defaults_are_the_same_everywhere():
    usual = SmallestEffects()
    for function in (lw.ablate, lw.profile, lw.interactions, lw.emergence, lw.compare):
        for name, value in vars(usual).items():
            parameter = signature(function).parameters.get(f"smallest_{name}")
            assert parameter is None or parameter.default == value
    assert usual.settings() == {}
    assert SmallestEffects.from_settings({}) == usual
    assert (
        SmallestEffects.from_settings({"smallest_loss": [0.05, 0.1]}).loss == 0.1
    )  # of joined runs the largest


def test_what_is_asked_for_is_kept_and_tested(task, tmp_path):
    asked = {"smallest_loss": 0.2, "smallest_nats": 0.5}
    result = lw.ablate(
        tiny_model("llama"), task, "continuation", out=tmp_path / "run", progress=False, **asked
    )
    again = lw.load(tmp_path / "run")[0]
    settings = again.facts.settings
    assert {name: settings[name] for name in asked} == asked
    assert SmallestEffects.from_settings(settings) == SmallestEffects(0.2, 0.5)
    effects = again.effects()
    counts = [effects[name].to_numpy(dtype=int) for name in ("n_lost", "n_gained", "n_items")]
    np.testing.assert_allclose(effects["p_no_loss"], score_p_values(*counts, 0.2))
    wide = result.records.pivot(index="item", columns="intervention", values="gold_logprob")
    nats = np.column_stack([wide["intact"] - wide[one] for one in effects["intervention"]])
    np.testing.assert_allclose(effects["p_no_loss_nats"], no_loss_of_nats_p_values(nats, 0.5))
    usual = lw.ablate(tiny_model("llama"), task, "continuation", progress=False)
    assert not set(asked) & set(usual.facts.settings)
    told = [f.full for f in findings([again]) if f.kind == "no loss"]
    assert told
    assert all("20 accuracy points and 0.5 nats, of which" in sentence for sentence in told)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("smallest_loss", 0.0, "The smallest loss of accuracy of interest is 0.0: expected"),
        ("smallest_loss", 1.5, "expected a number above 0 and below 1; leave it out"),
        ("smallest_nats", -1.0, "The smallest loss of log-probability of interest is -1.0"),
        ("smallest_nats", float("nan"), "'smallest_nats' is nan"),
    ],
)
def test_impossible_effects_are_refused(name, value, says):
    with pytest.raises(UserError, match=says):
        lw.ablate(
            tiny_model("llama"), word_task(5), "continuation", progress=False, **{name: value}
        )
