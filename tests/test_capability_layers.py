"""Layers that a capability needs, needs more than another does, and can spare."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_ind

from layerwise import stats
from layerwise.analyses.ablation.claims.roles import claims
from layerwise.presentation.claim import GAINED
from layerwise.presentation.rows import rows
from layerwise.stats.capability_layers import (
    GAIN,
    LOSES_MORE,
    NEEDED,
    SPARE,
    estimates_table,
    layer_estimates,
    task_gains,
)
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.depth.item_curves import subtract_background
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import Pool, match_protocols
from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE
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
    clusters = Clusters.singletons(n) if labels is None else Clusters.from_labels(labels)
    nothing = np.full(loss.shape, np.nan)
    return Pool(
        name, np.arange(n_layers), loss, np.rint(loss).astype(int), nothing, np.ones(n),
        np.full(n, floor), np.full(n, f"{name} task"), np.full(n, "letter"), clusters, n_choices,
    )  # fmt: skip


def estimate_rows(pools, what, n_capabilities=None, smallest=0.05) -> pd.DataFrame:
    table = layer_estimates(pools, n_capabilities or len(pools), smallest)
    return table.loc[table["what"] == what].reset_index(drop=True)


def losses(rng, n, *rates) -> np.ndarray:
    return (rng.random((n, len(rates))) < rates).astype(float)


def test_need_of_single_answers_is_mcnemars_exact_test():
    loss = np.zeros((20, 2))
    loss[:9, 0], loss[9, 0] = 1, -1
    found = estimate_rows([pool("a", loss)], NEEDED)
    assert found["p"].tolist() == [stats.mcnemar_exact(9, 1), 1.0]
    assert found["estimate"].tolist() == [0.4, 0.0]


def test_need_over_protocols_equals_all_flips_of_items():
    rng = np.random.default_rng(0)
    answers = rng.integers(-1, 2, size=(16, 3)).astype(float)
    items = [f"item {i % 8}" for i in range(16)]
    found = estimate_rows([pool("a", answers, labels=items)], NEEDED)
    sums = answers[:8] + answers[8:]
    flips = np.array(list(product((-1, 1), repeat=8))) @ sums
    expected = (np.abs(flips) >= np.abs(sums.sum(axis=0))).mean(axis=0)
    np.testing.assert_allclose(found["p"], expected, atol=1e-12)


def test_a_choice_of_tasks_with_signal_is_paid_for():
    loss = losses(np.random.default_rng(1), 30, 0.4, 0.1)
    alone, chosen = (estimate_rows([pool("a", loss, n_choices=n)], NEEDED) for n in (1, 15))
    np.testing.assert_allclose(chosen["p"], np.minimum(15 * alone["p"], 1))
    assert (chosen["low"] <= alone["low"]).all()


def test_capabilities_without_signal_count_in_every_family():
    rng = np.random.default_rng(2)
    both = [pool(name, losses(rng, 30, 0.5, 0.1, 0.0)) for name in "ab"]
    assert set(estimate_rows(both, NEEDED, 4)["n_tests"]) == {12}
    assert set(estimate_rows(both, LOSES_MORE, 4)["n_tests"]) == {18}


def test_contrast_is_welchs_test_of_raw_losses_and_of_those_beyond_the_background():
    rng = np.random.default_rng(3)
    one, other = losses(rng, 40, 0.1, 0.6, 0.1, 0.1), losses(rng, 60, 0.1, 0.2, 0.2, 0.1)
    found = estimate_rows([pool("a", one), pool("b", other)], LOSES_MORE).set_index("layer")
    a, b = (subtract_background(each) for each in (one, other))
    whole = ttest_ind(one[:, 1], other[:, 1], equal_var=False).pvalue
    beyond = ttest_ind(a[:, 1], b[:, 1], equal_var=False).pvalue
    assert found.loc[1, "p"] == pytest.approx(max(whole, beyond), rel=1e-9)
    assert (found.loc[1, "capability"], found.loc[1, "other"]) == ("a", "b")
    assert found.loc[1, "estimate"] == pytest.approx(one[:, 1].mean() - other[:, 1].mean())


def test_more_fragile_everywhere_is_not_needed_more_anywhere():
    rng = np.random.default_rng(4)
    one = losses(rng, 400, 0.05, 0.05, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05)
    other = losses(rng, 400, 0.3, 0.3, 0.3, 0.6, 0.3, 0.3, 0.3, 0.3)
    assert not estimate_rows([pool("a", one), pool("b", other)], LOSES_MORE)["established"].any()


def test_items_of_both_that_lose_at_opposite_ends_are_no_independent_samples():
    rng = np.random.default_rng(5)
    one = losses(rng, 40, 0.5, 0.1)
    other = np.maximum(0.0, 1 - one - losses(rng, 40, 0.4, 0.1))
    labels = [f"fact {i}" for i in range(40)]
    apart = estimate_rows([pool("a", one), pool("b", other)], LOSES_MORE)
    shared = estimate_rows(
        [pool("a", one, labels=labels), pool("b", other, labels=labels)], LOSES_MORE
    )
    assert (shared["p"] >= apart["p"] - 1e-12).all()
    assert (shared["p"] > apart["p"]).any()


def test_losses_that_all_items_share_are_not_known_without_error():
    few = [pool(name, np.full((3, 4), value)) for name, value in (("a", 1.0), ("b", 0.0))]
    assert not estimate_rows(few, LOSES_MORE)["established"].any()


def test_spare_needs_more_than_no_loss_in_few_items():
    for n, established in ((24, False), (400, True)):
        found = estimate_rows([pool("a", np.zeros((n, 3)))], SPARE)
        assert bool(found["established"].all()) is established
    lost = np.zeros((400, 3))
    lost[:40] = 1.0
    assert not estimate_rows([pool("a", lost)], SPARE)["established"].any()


def test_bounds_of_what_is_established_lie_on_its_side_of_nothing():
    rng = np.random.default_rng(6)
    pools = [pool(name, losses(rng, 60, 0.5, 0.2, 0.15, 0.0)) for name in "abc"]
    found = estimate_rows(pools, NEEDED)
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


def in_cells(capability, *parts) -> Pool:
    """A capability of several tasks and protocols, each with its losses."""
    each = [pool(capability, loss) for _, _, loss in parts]
    labels = [f"{task} {i}" for task, _, loss in parts for i in range(len(loss))]
    n = [len(loss) for _, _, loss in parts]
    together = pool(capability, np.concatenate([one.loss for one in each]), labels=labels)
    return together._replace(
        task=np.repeat([task for task, _, _ in parts], n),
        protocol=np.repeat([protocol for _, protocol, _ in parts], n),
    )


def test_capabilities_are_compared_under_the_protocols_that_both_have_signal_under():
    rng = np.random.default_rng(8)
    # Any layer costs more where answers are written, and only one capability can choose.
    chosen, written = losses(rng, 80, 0.1, 0.1, 0.1, 0.1), losses(rng, 80, 0.1, 0.7, 0.1, 0.1)
    both = in_cells("a", ("a 1", "continuation", chosen), ("a 1", "generate", written))
    alone = in_cells("b", ("b 1", "generate", losses(rng, 80, 0.1, 0.7, 0.1, 0.1)))
    found = estimate_rows([both, alone], LOSES_MORE)
    assert not found["established"].any()
    assert set(found["protocols"]) == {"generate"}
    picks = alone._replace(protocol=np.full(80, "letter"))
    assert estimate_rows([both, picks], LOSES_MORE).empty
    assert estimate_rows([both, picks], CROSSING).empty


def test_only_tasks_with_signal_under_all_that_is_compared_are_compared():
    loss = np.zeros((20, 2))
    one = in_cells(
        "a", ("a 1", "continuation", loss), ("a 1", "generate", loss), ("a 2", "generate", loss)
    )
    two = in_cells("b", ("b 1", "continuation", loss), ("b 1", "generate", loss))
    first, second = match_protocols(one, two)
    assert (first.tasks, second.tasks) == (("a 1",), ("b 1",))
    assert first.protocols == second.protocols == ("continuation", "generate")
    # Without a task in common protocols there is one protocol with more items.
    apart = in_cells("b", ("b 1", "continuation", loss), ("b 2", "generate", loss))
    first, second = match_protocols(one, apart)
    assert (first.tasks, second.tasks) == (("a 1", "a 2"), ("b 2",))


def test_a_share_weighs_protocols_by_what_there_is_to_lose():
    loss = np.zeros((30, 1))
    loss[:10], loss[10:15] = 1.0, 1.0
    one = pool("a", loss)
    assert one.shares(one.loss)[0].tolist() == pytest.approx([15 / 30])
    floors = np.repeat([0.5, 0.0], [10, 20])
    assert one._replace(floor=floors).shares(one.loss)[0].tolist() == pytest.approx([15 / 25])


def test_a_small_task_that_loses_keeps_its_layer_from_being_spare():
    large, small = np.zeros((2500, 2)), np.zeros((60, 2))
    small[:54, 1] = 1.0
    both = in_cells("a", ("a 1", "letter", large), ("a 2", "letter", small[:, [0, 1]]))
    found = estimate_rows([both], SPARE)
    assert found["established"].tolist() == [False, False]  # 60 items exclude no loss of 5 points
    alone = estimate_rows([in_cells("a", ("a 1", "letter", large))], SPARE)
    assert alone["established"].all()


def test_what_hardly_has_anything_to_lose_enters_no_pool():
    rng = np.random.default_rng(9)
    right = np.zeros((200, 4), dtype=bool)
    right[: LEAST_TO_LOSE - 1] = True
    few = cell_records(right, "few", "retrieval", "generate")
    right[LEAST_TO_LOSE - 1] = True
    enough = cell_records(right, "enough", "knowledge", "generate")
    able = cell_records(rng.random((60, 4)) < 0.9, "able", "reasoning", "generate")
    table = estimates_table(pd.concat([few, enough, able], ignore_index=True), lambda *_: 0.0, 0.05)
    needed = table.loc[table["what"] == NEEDED]
    assert set(needed["tasks"]) == {"enough", "able"}
    assert set(needed["n_tests"]) == {9}


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
    run = RunTables(synthetic.ablation(records).facts, {"capability_estimates": found})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short == (
        "Without layer 2, accuracy on own file when it chooses rises from 25 to 58 %."
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
    run = RunTables(ablated.facts, {"capability_estimates": found, "signal": ablated.signal()})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short == (
        "Without layer 2, look-ups improves when it writes: accuracy rises from 60 to 90 %."
    )
    assert claim.caveat == "Other tasks of the capability may lose."
    alone = estimates_table(records.query("task == 'look-ups'"), lambda task, protocol: 0.0, 0.05)
    run = RunTables(ablated.facts, {"capability_estimates": alone, "signal": ablated.signal()})
    (claim,) = [one for one in claims(run) if one.kind == GAINED]
    assert claim.short.startswith("Without layer 2, retrieval improves: accuracy")


def test_a_gain_that_stays_within_guessing_is_none():
    for gained, lost, chance in ((22, 2, 0.6), (6, 2, 0.25)):
        records = hidden_by_a_layer(gained, lost)
        found = estimates_table(records, lambda task, protocol, c=chance: c, 0.05)
        assert not found["established"].any()


@pytest.mark.long
def test_answers_that_are_made_anew_are_rarely_called_a_gain():
    """Tasks without signal are those in which a weak model was unlucky."""
    rng, sets = np.random.default_rng(11), data_sets(200)
    wrong = 0
    for _ in range(sets):
        cells = [
            made_up_cell(rng.random((40, 6)) < accuracy, f"task {i}")
            for i, accuracy in enumerate((0.25, 0.3, 0.35, 0.4))
        ]
        every = signals(cells, lambda task, protocol: 0.25)
        found = task_gains(cells, every, lambda task, protocol: 0.25)
        wrong += len(found) > 0 and bool(found["established"].any())
    assert wrong <= most_errors(sets)


def made_up_cell(right: np.ndarray, task: str) -> Cell:
    intact, correct = right[:, 0], right[:, 1:]
    nothing = np.zeros(correct.shape)
    changes = pd.DataFrame({"layer": np.arange(correct.shape[1])})
    return Cell(
        task, task, "letter", changes, intact, correct, nothing, nothing,
        tuple(map(str, range(len(right)))), Clusters.singletons(len(right)),
    )  # fmt: skip


def test_claims_on_many_stretches_of_layers_are_short():
    rng = np.random.default_rng(12)
    rates = [rate for _ in range(10) for rate in (0.6, 0.0)]
    every = [pool(name, losses(rng, 400, *rates)) for name in ("retrieval", "knowledge")]
    made = layer_estimates(every, 3, 0.05)
    facts = synthetic.ablation(hidden_by_a_layer(22, 2)).facts
    estimates = conform("capability_estimates", made.assign(kind="skip", site="layer"))
    names = ["retrieval", "knowledge", "reasoning"]
    signal = pd.DataFrame({"capability": names})
    run = RunTables(facts, {"capability_estimates": estimates, "signal": signal})
    (general,), (spare,) = (
        [claim for claim in claims(run) if claim.kind == kind] for kind in ("general", "spare")
    )
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
    found = claims(
        RunTables(facts, {"capability_estimates": conform("capability_estimates", made)})
    )
    assert "general" not in {claim.kind for claim in found}
    (shared,) = (claim for claim in found if claim.kind == "shared")
    assert shared.layers == (1,)
    assert shared.capabilities == ("retrieval", "knowledge", "reasoning")
    assert shared.short == (
        "Layer 1 is needed by retrieval, knowledge and reasoning; retrieval loses least: 66 points."
    )
    about = rows(conform("capability_estimates", made), **shared.source["where"])
    assert len(about) == 3
    assert about["established"].all()
