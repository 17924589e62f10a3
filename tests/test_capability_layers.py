"""Which layers a capability needs, needs more than another does, and can spare."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_ind

from layerwise import stats
from layerwise.analyses.ablation.claims import claims
from layerwise.presentation.claim import GAINED
from layerwise.presentation.rows import rows
from layerwise.stats.capability_layers import (
    GAIN,
    NEEDED,
    NEEDED_MORE,
    SPARE,
    Pool,
    estimates_table,
    layer_estimates,
    task_gains,
)
from layerwise.stats.cells import Cell
from layerwise.stats.depth.item_curves import beyond_background
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.signal import signals
from layerwise.storage.parquet import conform
from layerwise.storage.run_tables import RunTables

from . import synthetic
from .cases import data_sets, most_errors
from .synthetic import cell_records


def pool(name, loss, *, labels=None, n_choices=1, floor=0.0) -> Pool:
    """A capability whose intact model is right throughout."""
    loss = np.asarray(loss, dtype=float)
    n, n_layers = loss.shape
    clusters = Clusters.apart(n) if labels is None else Clusters.of(labels)
    return Pool(
        name, (f"{name} task",), ("letter",), np.arange(n_layers), loss,
        np.rint(loss).astype(int), np.ones(n), np.full(n, floor), np.full(n, "letter"), clusters,
        n_choices,
    )  # fmt: skip


def rows_of(pools, what, n_capabilities=None, smallest=0.05) -> pd.DataFrame:
    table = layer_estimates(pools, n_capabilities or len(pools), smallest)
    return table.loc[table["what"] == what].reset_index(drop=True)


def losses(rng, n, *rates) -> np.ndarray:
    return (rng.random((n, len(rates))) < rates).astype(float)


def test_need_of_single_answers_is_mcnemars_exact_test():
    loss = np.zeros((20, 2))
    loss[:9, 0], loss[9, 0] = 1, -1
    found = rows_of([pool("a", loss)], NEEDED)
    assert found["p"].tolist() == [stats.mcnemar_exact(9, 1), 1.0]
    assert found["estimate"].tolist() == [0.4, 0.0]


def test_need_over_protocols_equals_all_flips_of_items():
    rng = np.random.default_rng(0)
    answers = rng.integers(-1, 2, size=(16, 3)).astype(float)
    items = [f"item {i % 8}" for i in range(16)]
    found = rows_of([pool("a", answers, labels=items)], NEEDED)
    sums = answers[:8] + answers[8:]
    flips = np.array(list(product((-1, 1), repeat=8))) @ sums
    expected = (np.abs(flips) >= np.abs(sums.sum(axis=0))).mean(axis=0)
    np.testing.assert_allclose(found["p"], expected, atol=1e-12)


def test_a_choice_of_tasks_with_signal_is_paid_for():
    loss = losses(np.random.default_rng(1), 30, 0.4, 0.1)
    alone, chosen = (rows_of([pool("a", loss, n_choices=n)], NEEDED) for n in (1, 15))
    np.testing.assert_allclose(chosen["p"], np.minimum(15 * alone["p"], 1))
    assert (chosen["low"] <= alone["low"]).all()


def test_capabilities_without_signal_count_in_every_family():
    rng = np.random.default_rng(2)
    both = [pool(name, losses(rng, 30, 0.5, 0.1, 0.0)) for name in "ab"]
    assert set(rows_of(both, NEEDED, 4)["n_tests"]) == {12}
    assert set(rows_of(both, NEEDED_MORE, 4)["n_tests"]) == {18}


def test_contrast_is_welchs_test_of_raw_losses_and_of_those_beyond_the_background():
    rng = np.random.default_rng(3)
    one, other = losses(rng, 40, 0.1, 0.6, 0.1, 0.1), losses(rng, 60, 0.1, 0.2, 0.2, 0.1)
    found = rows_of([pool("a", one), pool("b", other)], NEEDED_MORE).set_index("layer")
    a, b = (beyond_background(each) for each in (one, other))
    whole = ttest_ind(one[:, 1], other[:, 1], equal_var=False).pvalue
    beyond = ttest_ind(a[:, 1], b[:, 1], equal_var=False).pvalue
    assert found.loc[1, "p"] == pytest.approx(max(whole, beyond), rel=1e-9)
    assert (found.loc[1, "capability"], found.loc[1, "other"]) == ("a", "b")
    assert found.loc[1, "estimate"] == pytest.approx(one[:, 1].mean() - other[:, 1].mean())


def test_more_fragile_everywhere_is_not_needed_more_anywhere():
    rng = np.random.default_rng(4)
    one = losses(rng, 400, 0.05, 0.05, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05)
    other = losses(rng, 400, 0.3, 0.3, 0.3, 0.6, 0.3, 0.3, 0.3, 0.3)
    assert not rows_of([pool("a", one), pool("b", other)], NEEDED_MORE)["established"].any()


def test_items_of_both_that_lose_at_opposite_ends_are_no_independent_samples():
    rng = np.random.default_rng(5)
    one = losses(rng, 40, 0.5, 0.1)
    other = np.maximum(0.0, 1 - one - losses(rng, 40, 0.4, 0.1))
    labels = [f"fact {i}" for i in range(40)]
    apart = rows_of([pool("a", one), pool("b", other)], NEEDED_MORE)
    shared = rows_of([pool("a", one, labels=labels), pool("b", other, labels=labels)], NEEDED_MORE)
    assert (shared["p"] >= apart["p"] - 1e-12).all()
    assert (shared["p"] > apart["p"]).any()


def test_losses_that_all_items_share_are_not_known_without_error():
    few = [pool(name, np.full((3, 4), value)) for name, value in (("a", 1.0), ("b", 0.0))]
    assert not rows_of(few, NEEDED_MORE)["established"].any()


def test_spare_needs_more_than_no_loss_in_few_items():
    for n, established in ((24, False), (400, True)):
        found = rows_of([pool("a", np.zeros((n, 3)))], SPARE)
        assert bool(found["established"].all()) is established
    lost = np.zeros((400, 3))
    lost[:40] = 1.0
    assert not rows_of([pool("a", lost)], SPARE)["established"].any()


def test_bounds_of_what_is_established_lie_on_its_side_of_nothing():
    rng = np.random.default_rng(6)
    pools = [pool(name, losses(rng, 60, 0.5, 0.2, 0.15, 0.0)) for name in "abc"]
    found = rows_of(pools, NEEDED)
    assert found["established"].any()
    assert (found.loc[found["established"], "low"] >= 0).all()
    assert (found["low"] <= found["estimate"]).all()
    assert (found["estimate"] <= found["high"]).all()


def test_tasks_without_signal_and_sets_of_layers_are_left_out():
    rng = np.random.default_rng(7)
    right = np.ones((60, 4), dtype=bool)
    right[:, 2] = rng.random(60) < 0.3
    able = cell_records(right, "able", "retrieval")
    guesses = cell_records(rng.random((60, 4)) < 0.25, "guesses", "retrieval")
    records = pd.concat([able, guesses], ignore_index=True)
    found = estimates_table(records, lambda task, protocol: 0.25, 0.05)
    needed = found.loc[found["what"] == NEEDED]
    assert set(needed["tasks"]) == {"able"}
    assert needed.loc[needed["established"], "layer"].tolist() == [1]
    # One of two tasks has signal, and either could have.
    alone = estimates_table(able, lambda task, protocol: 0.25, 0.05)
    np.testing.assert_allclose(
        needed["p"], np.minimum(2 * alone.loc[alone["what"] == NEEDED, "p"], 1)
    )


def test_capabilities_are_compared_under_the_protocols_that_both_have_signal_under():
    rng = np.random.default_rng(8)
    # Any layer costs more where answers are written, and only one capability can choose.
    chosen, written = losses(rng, 80, 0.1, 0.1, 0.1, 0.1), losses(rng, 80, 0.1, 0.7, 0.1, 0.1)
    both = pool(
        "a",
        np.concatenate([chosen, written]),
        labels=[f"item {i}" for i in (*range(80), *range(80))],
    )
    names = np.repeat(["continuation", "generate"], 80)
    both = both._replace(protocols=("continuation", "generate"), protocol=names)
    alone = pool("b", losses(rng, 80, 0.1, 0.7, 0.1, 0.1))
    alone = alone._replace(protocols=("generate",), protocol=np.full(80, "generate"))
    found = rows_of([both, alone], NEEDED_MORE)
    assert not found["established"].any()
    assert set(found["protocols"]) == {"generate"}
    assert rows_of([both, alone._replace(protocols=("letter",))], NEEDED_MORE).empty


def test_a_share_is_the_mean_over_protocols():
    loss = np.zeros((30, 1))
    loss[:10], loss[10:15] = 1.0, 1.0
    names = np.repeat(["continuation", "generate"], [10, 20])
    one = pool("a", loss)._replace(protocols=("continuation", "generate"), protocol=names)
    assert one.shares(one.loss)[0].tolist() == pytest.approx([(1.0 + 0.25) / 2])


def hidden_by_a_layer(gained: int, lost: int, n: int = 60, chance: float = 0.25) -> pd.DataFrame:
    """Records of a task that the intact model guesses on, and which layer 2 hides."""
    right = np.repeat((np.arange(n) < round(chance * n))[:, None], 5, axis=1)
    right[:lost, 3] = False
    right[-gained:, 3] = True
    return cell_records(right, "own file", "knowledge", "continuation")


def test_a_changed_model_that_answers_what_the_intact_one_guesses_on_is_a_claim():
    records = hidden_by_a_layer(gained=22, lost=2)
    able = cell_records(np.ones((60, 5), dtype=bool), "able", "retrieval", "continuation")
    for every, n_tests in ((records, 4), (pd.concat([records, able], ignore_index=True), 8)):
        found = estimates_table(every, lambda task, protocol: 0.25, 0.05)
        assert not found.query("what == @GAIN and tasks == 'able'")["established"].any()
        found = found.loc[(found["what"] == GAIN) & (found["tasks"] == "own file")]
        assert found.query("established")["layer"].tolist() == [2]
        row = found.set_index("layer").loc[2]
        assert row["n_tests"] == n_tests
        assert (row["estimate"], row["acc_intact"]) == (20 / 60, 0.25)
        assert 0 < row["low"] < row["estimate"] < row["high"]
        exact = stats.mcnemar_exact(2, 22)
        assert row["p"] == max(exact, binom.sf(34, 60, 0.25))
    run = RunTables(synthetic.ablation(records).facts, {"estimates": found})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short == (
        "Without layer 2, the model answers own file when it chooses: accuracy rises from 25 to "
        "58 %."
    )
    assert claim.evidence == "established"


def test_a_gain_of_one_task_is_a_claim_where_the_other_loses_as_much():
    right = np.repeat((np.arange(60) < 36)[:, None], 5, axis=1)
    better, worse = right.copy(), right.copy()
    better[36:54, 3], worse[:18, 3] = True, False
    records = pd.concat([
        cell_records(one, name, "retrieval", "generate")
        for one, name in ((better, "look-ups"), (worse, "passages"))
    ], ignore_index=True)  # fmt: skip
    ablated = synthetic.ablation(records)
    found = estimates_table(records, lambda task, protocol: 0.0, 0.05)
    pooled = found.loc[(found["what"] == NEEDED) & (found["layer"] == 2)]
    assert (pooled["estimate"].item(), pooled["established"].item()) == (0.0, False)
    run = RunTables(ablated.facts, {"estimates": found, "signal": ablated.signal()})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short == (
        "Without layer 2, look-ups improves when it writes: accuracy rises from 60 to 90 %."
    )
    assert claim.caveat == "Other tasks of the capability may lose."
    alone = estimates_table(records.query("task == 'look-ups'"), lambda task, protocol: 0.0, 0.05)
    run = RunTables(ablated.facts, {"estimates": alone, "signal": ablated.signal()})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short.startswith("Without layer 2, retrieval improves: accuracy")


def test_a_gain_that_stays_within_guessing_is_none():
    for gained, lost, chance in ((22, 2, 0.6), (6, 2, 0.25)):
        records = hidden_by_a_layer(gained, lost)
        found = estimates_table(records, lambda task, protocol, c=chance: c, 0.05)
        assert not found["established"].any()


def test_answers_that_are_made_anew_are_rarely_called_a_gain():
    """Tasks without signal are those in which a weak model was unlucky."""
    rng, sets = np.random.default_rng(11), data_sets(200)
    wrong = 0
    for _ in range(sets):
        cells = [
            made_up(rng.random((40, 6)) < accuracy, f"task {i}")
            for i, accuracy in enumerate((0.25, 0.3, 0.35, 0.4))
        ]
        every = signals(cells, lambda task, protocol: 0.25)
        found = task_gains(cells, every, lambda task, protocol: 0.25)
        wrong += len(found) > 0 and bool(found["established"].any())
    assert wrong <= most_errors(sets)


def made_up(right: np.ndarray, task: str) -> Cell:
    intact, correct = right[:, 0], right[:, 1:]
    nothing = np.zeros(correct.shape)
    changes = pd.DataFrame({"layer": np.arange(correct.shape[1])})
    return Cell(
        task, task, "letter", changes, intact, correct, nothing, nothing,
        tuple(map(str, range(len(right)))), Clusters.apart(len(right)),
    )  # fmt: skip


def test_claims_on_many_stretches_of_layers_are_short():
    rng = np.random.default_rng(12)
    rates = [rate for _ in range(10) for rate in (0.6, 0.0)]
    every = [pool(name, losses(rng, 400, *rates)) for name in ("retrieval", "knowledge")]
    made = layer_estimates(every, 3, 0.05)
    facts = synthetic.ablation(hidden_by_a_layer(22, 2)).facts
    estimates = conform("estimates", made.assign(kind="skip", site="layer"))
    names = ["retrieval", "knowledge", "reasoning"]
    run = RunTables(facts, {"estimates": estimates, "signal": pd.DataFrame({"capability": names})})
    general, *_, spare = claims(run)
    assert (general.kind, spare.kind) == ("general", "spare")
    assert general.layers == tuple(range(0, 20, 2))
    assert spare.layers == tuple(range(1, 20, 2))
    for claim in (general, spare):
        assert "capabilities with signal" in claim.short
        assert len([word for word in claim.short.split() if word != "%"]) <= 25, claim.short


def test_a_layer_that_three_of_four_capabilities_need_is_claimed_once():
    rng = np.random.default_rng(13)
    needs = {"retrieval": (0.0, 0.7), "knowledge": (0.6, 0.8), "reasoning": (0.0, 0.9)}
    every = [pool(name, losses(rng, 100, *rates)) for name, rates in needs.items()]
    every.append(pool("coherence", losses(rng, 100, 0.6, 0.0)))
    facts = synthetic.ablation(hidden_by_a_layer(22, 2)).facts
    made = layer_estimates(every, 4, 0.05).assign(kind="skip", site="layer")
    found = claims(RunTables(facts, {"estimates": conform("estimates", made)}))
    assert "general" not in {claim.kind for claim in found}
    (shared,) = (claim for claim in found if claim.kind == "shared")
    assert shared.layers == (1,)
    assert shared.capabilities == ("retrieval", "knowledge", "reasoning")
    assert shared.short.startswith(
        "Layer 1 is needed by retrieval, knowledge and reasoning: losing"
    )
    about = rows(conform("estimates", made), **shared.source["where"])
    assert len(about) == 3
    assert about["established"].all()
