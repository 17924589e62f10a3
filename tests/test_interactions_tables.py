"""Interactions and Shapley values of made-up costs: their arithmetic, and how often they err."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pandas as pd
import pytest

from layerwise import stats
from layerwise.analyses.interactions.result import InteractionsResult
from layerwise.errors import UserError
from layerwise.stats.families.skewed_means import skewed_mean_p_values
from layerwise.storage.parquet import frame
from tests.cases import data_sets, in_long_runs, most_errors
from tests.interacting import Costs, interactions_result, with_pairs

LAYERS = 6
N_PAIRS = LAYERS * (LAYERS - 1) // 2
NATS = "measure == 'nats'"


def pair_row(found: InteractionsResult, one: int, other: int, measure: str = "nats") -> pd.Series:
    """The row of a pair."""
    table = found.pairs().set_index(["measure", "first_layer", "second_layer"])
    return table.loc[(measure, one, other)]


def noise(rng: np.random.Generator, n: int, columns: int = N_PAIRS) -> np.ndarray:
    """Heavy-tailed values, of items whose spread differs a hundredfold."""
    return np.exp(rng.normal(size=(n, 1))) * rng.standard_t(3, size=(n, columns))


def additive(rng: np.random.Generator, n: int, *, shared: bool = False) -> Costs:
    """Costs without interaction on average; correlated between layers, as of hard items.

    With ``shared`` what a pair deviates by comes from its single layers, so that all pairs of a
    layer deviate together.
    """
    singles = np.abs(noise(rng, n, 1)) + noise(rng, n, LAYERS)
    own = noise(rng, n, LAYERS)
    pairs = np.column_stack([-own[:, a] - own[:, b] for a, b in combinations(range(LAYERS), 2)])
    return with_pairs(singles, pairs if shared else noise(rng, n))


def test_an_interaction_is_what_both_cost_beyond_the_sum():
    rng = np.random.default_rng(0)
    costs = with_pairs(rng.normal(size=(30, 3)), rng.normal(size=(30, 3)))
    found = interactions_result(costs)
    row = pair_row(found, 0, 2)
    beyond = costs[0, 2] - costs[0,] - costs[2,]
    assert row["interaction"] == pytest.approx(beyond.mean())
    assert row["cost_first"] == pytest.approx(costs[0,].mean())
    assert row["cost_second"] == pytest.approx(costs[2,].mean())
    assert row["cost_both"] == pytest.approx(costs[0, 2].mean())
    bounds = stats.paired_bootstrap(beyond, seed=stats.generator(0, "keys"))
    assert (row["low"], row["high"]) == pytest.approx((bounds.low, bounds.high))
    every = np.column_stack([costs[pair] - costs[pair[0],] - costs[pair[1],]
                             for pair in combinations(range(3), 2)])  # fmt: skip
    random = stats.generator(0, "keys", "interactions")
    assert row["p"] == pytest.approx(skewed_mean_p_values(every, seed=random)[1])
    for _, group in found.pairs().groupby("measure"):
        assert len(group) == 3
        np.testing.assert_allclose(group["p_bh"], stats.benjamini_hochberg(group["p"].to_numpy()))


@pytest.mark.long
@pytest.mark.parametrize(("n", "shared"), [(12, True), *in_long_runs((40, False))])
def test_pairs_without_interaction_are_named_at_most_at_the_nominal_rate(n, shared):
    rng, n_sets, wrong, tests = np.random.default_rng(n), data_sets(80), 0, []
    for _ in range(n_sets):
        table = interactions_result(additive(rng, n, shared=shared)).pairs().query(NATS)
        wrong += bool(table["verdict"].ne("none").any())
        tests.append((table["p"] < 0.05).mean())
    assert wrong <= most_errors(n_sets)
    assert np.mean(tests) < 0.05 + 3 * np.std(tests) / np.sqrt(n_sets)


@pytest.mark.long  # a rate of the method, which the tests above hold in place
def test_skewed_interactions_are_named_at_most_at_the_nominal_rate():
    """Of few items that interact strongly, as ``docs/interactions.md`` states."""
    rng, n_sets, wrong = np.random.default_rng(0), data_sets(60), 0
    for _ in range(n_sets):
        pairs = rng.exponential(size=(40, N_PAIRS)) - 1
        found = interactions_result(with_pairs(noise(rng, 40, LAYERS), pairs)).pairs()
        wrong += bool(found["significant"].any())
    assert wrong <= most_errors(n_sets)


def test_an_interaction_is_found_among_many_pairs_and_stands_out():
    rng, n = np.random.default_rng(1), 40
    pairs = 0.2 * noise(rng, n)
    pairs[:, 7] += 2
    found = interactions_result(with_pairs(noise(rng, n, LAYERS), pairs))
    one, other = list(combinations(range(LAYERS), 2))[7]
    assert pair_row(found, one, other)["verdict"] == "redundant"
    assert pair_row(found, one, other)["excess_low"] > 0
    assert found.pairs().query(NATS)["verdict"].value_counts().to_dict() == {
        "none": N_PAIRS - 1, "redundant": 1,
    }  # fmt: skip
    top = found.summary_rows().iloc[0]
    assert top["pair"] == f"{one}, {other}"
    assert top["verdict"] == "redundant"


def test_no_pair_stands_out_where_skipping_more_is_worse_in_general():
    """Costs that grow with the square of what is skipped: all pairs are superadditive alike."""
    rng, n = np.random.default_rng(2), 40
    size = 1 + 0.1 * rng.normal(size=(n, 1))
    pairs = np.repeat(size, N_PAIRS, axis=1) + 0.05 * rng.normal(size=(n, N_PAIRS))
    found = interactions_result(with_pairs(np.repeat(size, LAYERS, axis=1), pairs)).pairs()
    assert set(found.query(NATS)["verdict"]) == {"redundant"}
    assert (found.query(NATS)["excess"].abs() < 0.1).all()


def test_logits_that_add_up_interact_in_nats_alone():
    """Each layer writes a part of a logit: the margin is additive, the softmax saturates."""
    rng, n = np.random.default_rng(3), 40
    parts = 1 + 0.1 * rng.normal(size=(n, LAYERS))
    margin = with_pairs(parts, 1e-5 * rng.normal(size=(n, N_PAIRS)))
    full = parts.sum(axis=1)
    lost_before = np.logaddexp(0, -full)
    nats = {chosen: np.logaddexp(0, lost - full) - lost_before for chosen, lost in margin.items()}
    found = interactions_result(nats, margin)
    assert set(found.pairs()["verdict"]) == {"nats alone"}
    assert not found.pairs().query("measure == 'margin'")["significant"].any()


def test_differences_within_the_accuracy_of_the_engine_are_none():
    rng = np.random.default_rng(4)
    costs = with_pairs(noise(rng, 40, 3), 1e-4 + 1e-5 * rng.normal(size=(40, 3)))
    found = interactions_result(costs).pairs().query(NATS)
    assert (found["p"] == 1).all()
    assert (found["interaction"] > 0).all()


def test_what_is_at_the_floor_is_told():
    n = 40
    half = np.arange(n) < n / 2
    lost = {0: np.zeros(n, bool), 1: half, 2: ~np.zeros(n, bool)}
    right: Costs = {(layer,): kept for layer, kept in lost.items()}
    right |= {(a, b): lost[a] & lost[b] for a, b in combinations(lost, 2)}
    costs = with_pairs(np.ones((n, 3)), np.zeros((n, 3)))
    found = interactions_result(costs, right=right)
    assert pair_row(found, 0, 1)["at_floor"] == "first"
    assert pair_row(found, 0, 2)["at_floor"] == "first"
    assert pair_row(found, 1, 2)["at_floor"] == "neither"


def test_without_signal_nothing_is_significant_and_no_verdict_is_given():
    costs = with_pairs(np.zeros((40, 3)), np.ones((40, 3)))
    found = interactions_result(costs, accuracy=0.25).pairs()
    assert (found["p_bh"] < 0.05).any()
    assert not found["significant"].any()
    assert found["verdict"].isna().all()


def test_one_item_has_estimates_and_no_bounds():
    found = interactions_result(with_pairs(np.ones((1, 3)), np.ones((1, 3))))
    pairs, values = found.pairs(), found.shapley()
    assert pairs["interaction"].notna().all()
    assert pairs[["low", "high", "excess_low", "excess_high"]].isna().all(axis=None)
    assert (pairs["p"] == 1).all()
    assert values[["low", "high", "se"]].isna().all(axis=None)


def test_of_two_layers_there_is_nothing_to_stand_out_from():
    found = interactions_result(with_pairs(np.ones((20, 2)), np.ones((20, 1)))).pairs()
    assert found[["excess", "excess_low", "excess_high"]].isna().all(axis=None)
    assert set(found["verdict"]) == {"redundant"}


@pytest.mark.parametrize("lost", [0, -1, "double"])
def test_incomplete_records_are_refused(lost):
    found = interactions_result(with_pairs(np.ones((5, 2)), np.ones((5, 1))))
    table = found.interactions
    changed = (
        pd.concat([table, table.tail(1)]) if lost == "double" else table.drop(table.index[lost])
    )
    with pytest.raises(UserError, match="incomplete or doubled"):
        InteractionsResult(changed, found.interaction_orders, found.facts).pairs()


def random_game(rng: np.random.Generator, n_layers: int, n: int = 10) -> Costs:
    """Costs of every set of layers."""
    layers = range(n_layers)
    return {
        chosen: rng.normal(size=n)
        for size in range(1, n_layers + 1)
        for chosen in combinations(layers, size)
    }


def exact_values(costs: Costs, n_layers: int) -> np.ndarray:
    """Shapley values by their definition, over all sets."""
    values = np.zeros(n_layers)
    for layer in range(n_layers):
        others = [one for one in range(n_layers) if one != layer]
        for size in range(n_layers):
            weight = factorial(size) * factorial(n_layers - size - 1) / factorial(n_layers)
            for chosen in combinations(others, size):
                before = costs[chosen].mean() if chosen else 0.0
                values[layer] += weight * (costs[tuple(sorted((*chosen, layer)))].mean() - before)
    return values


def orders_table(orders: list[tuple[int, ...]]) -> pd.DataFrame:
    return frame(
        "interaction_orders",
        [
            {"permutation": number, "place": place, "layer": layer}
            for number, order in enumerate(orders)
            for place, layer in enumerate(order)
        ],
    )


def test_of_all_orders_sampled_values_are_the_exact_ones():
    costs = random_game(np.random.default_rng(0), 4)
    every = list(permutations(range(4)))
    found = interactions_result(costs, orders=orders_table(every)).shapley()
    table = found.query(f"{NATS} and by == 'permutations'").sort_values("layer")
    np.testing.assert_allclose(table["value"], exact_values(costs, 4))
    np.testing.assert_allclose(table["total"], costs[0, 1, 2, 3].mean())
    assert set(table["n_permutations"]) == {24}


@pytest.mark.long
def test_sampling_errors_cover_the_exact_values():
    rng = np.random.default_rng(1)
    costs = random_game(rng, 4)
    exact, inside = exact_values(costs, 4), []
    for _ in range(data_sets(36)):
        drawn = [tuple(rng.permutation(4).tolist()) for _ in range(30)]
        found = interactions_result(costs, orders=orders_table(drawn)).shapley()
        table = found.query(f"{NATS} and by == 'permutations'").sort_values("layer")
        assert table["value"].sum() == pytest.approx(costs[0, 1, 2, 3].mean())
        inside += (np.abs(table["value"] - exact) < 1.96 * table["se_sampling"]).tolist()
    assert np.mean(inside) > 0.85


def test_values_from_pairs_are_exact_where_only_pairs_interact():
    rng, n_layers = np.random.default_rng(2), 4
    two = with_pairs(rng.normal(size=(10, n_layers)), rng.normal(size=(10, 6)))
    beyond = {(a, b): two[a, b] - two[a,] - two[b,] for a, b in combinations(range(n_layers), 2)}
    costs: Costs = {
        chosen: sum((two[one,] for one in chosen), np.zeros(10))
        + sum((beyond[pair] for pair in combinations(chosen, 2)), np.zeros(10))
        for size in range(1, n_layers + 1)
        for chosen in combinations(range(n_layers), size)
    }
    found = interactions_result(costs).shapley()
    table = found.query(f"{NATS} and by == 'pairs'").sort_values("layer")
    np.testing.assert_allclose(table["value"], exact_values(costs, n_layers))
    np.testing.assert_allclose(table["total"], costs[0, 1, 2, 3].mean())
    alone = [costs[layer,].mean() for layer in range(n_layers)]
    np.testing.assert_allclose(table["alone"], alone)
    last = two[3,] + sum((beyond[pair] for pair in beyond if 3 in pair), np.zeros(10)) / 2
    assert table["se"].iloc[3] == pytest.approx(last.std(ddof=1) / np.sqrt(10))
    assert table["se_sampling"].isna().all()


def test_q_values_are_corrected_over_the_pairs_of_a_measure():
    found = interactions_result(additive(np.random.default_rng(3), 30)).pairs()
    for _, group in found.groupby("measure"):
        expected = stats.benjamini_hochberg(group["p"].to_numpy())
        np.testing.assert_allclose(group["p_bh"], expected)
        assert len(group) == N_PAIRS


def test_standard_errors_are_those_of_the_mean_over_items():
    rng = np.random.default_rng(5)
    costs = with_pairs(rng.normal(size=(50, 2)), rng.normal(size=(50, 1)))
    table = interactions_result(costs).shapley().query(f"{NATS} and layer == 0")
    values = costs[0,] + (costs[0, 1] - costs[0,] - costs[1,]) / 2
    assert table["se"].iloc[0] == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert table["se_sampling"].isna().all()
