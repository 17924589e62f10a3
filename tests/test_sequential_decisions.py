"""The race of layers: decided item by item, blind to what was not asked, and rarely false."""

from __future__ import annotations

from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerwise.errors import UserError
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.inference import holm
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.sequential.decisions import decide, decisions
from layerwise.stats.sequential.evidence import majority_evidence
from layerwise.stats.sequential.ordered_pools import family_sizes, item_order, round_ends
from layerwise.stats.sequential.race import (
    Crossings,
    Evidence,
    crossing_suprema,
    race,
    rejection_items,
    suprema,
)
from layerwise.stats.share_tests.equivalence import no_loss_of_nats_p_values

RESULTS = Path(__file__).parents[1] / "analyses" / "validity" / "results"
LEVEL = 0.05
NO_CROSSINGS = Crossings(
    np.zeros((5, 2, 0)), np.zeros((2, 0), dtype=int), np.zeros((2, 0), dtype=int)
)


def cell_of(
    nats: np.ndarray,
    *,
    right: np.ndarray | None = None,
    task: str = "task",
    capability: str = "a",
    labels: list[str] | None = None,
) -> Cell:
    """A task that the intact model always gets right, with a column per layer."""
    n, n_layers = nats.shape
    return Cell(
        task, capability, "continuation", pd.DataFrame({"layer": np.arange(n_layers)}),
        np.ones(n, dtype=bool), np.ones(nats.shape, dtype=bool) if right is None else right,
        nats, nats, tuple(f"{task}/{i}" for i in range(n)),
        Clusters.from_labels(labels or [None] * n),
    )  # fmt: skip


def table_of(cells: list[Cell], signal: bool | dict[tuple[str, str], bool] = True, **options):
    every = {(cell.task, cell.protocol): True for cell in cells}
    floors = {key: np.zeros(len(cell.intact)) for key, cell in zip(every, cells, strict=True)}
    return decisions(cells, every if signal is True else signal, floors, **{"seed": 0} | options)


def some_losses(seed: int, n: int = 64) -> np.ndarray:
    """Layers that cost much, something, nothing."""
    rng = np.random.default_rng(seed)
    means, spread = np.array([2.0, 0.6, 0.0, 0.15, -0.3]), np.array([1.0, 0.8, 0.05, 0.6, 0.3])
    return means + spread * rng.standard_normal((n, 5))


def test_order_is_fixed_by_seed_and_label_and_keeps_clusters_together():
    labels = [f"fact {i % 20}" for i in range(60)]
    clusters = Clusters.from_labels(labels)
    order = item_order(clusters, 3)
    assert sorted(order.tolist()) == list(range(60))
    assert order.tolist() == item_order(clusters, 3).tolist()
    assert order.tolist() != item_order(clusters, 4).tolist()
    asked = [labels[i] for i in order]
    names = list(dict.fromkeys(asked))
    assert asked == [name for name in names for _ in range(3)]
    # other items that are asked as well change nothing of the order
    more = item_order(Clusters.from_labels([*labels, *(f"other {i}" for i in range(9))]), 3)
    assert [i for i in more if i < 60] == order.tolist()
    assert names != sorted(names)


def test_rounds_end_with_whole_clusters():
    clusters = Clusters.from_labels(list("aaabbbbbbcdddd"))
    assert round_ends(clusters, 4).tolist() == [2, 4]
    assert round_ends(clusters, 3).tolist() == [1, 2, 4]
    assert round_ends(Clusters.singletons(20), 8).tolist() == [8, 16, 20]
    assert round_ends(Clusters.singletons(16), 8).tolist() == [8, 16]
    assert round_ends(Clusters.singletons(3), 8).tolist() == [3]


def slow_race(evidence: Evidence, n_tests: dict[str, int]) -> tuple[list, list, list]:
    """Round by round and place by place, with what a place was asked alone."""
    n = evidence.needed.shape[1]
    needed, spare, rounds, left = [np.inf] * n, [np.inf] * n, [0] * n, [False] * n
    for number in range(1, len(evidence.needed) + 1):
        for place in range(n):
            rounds[place] += not left[place]
        for values, first, m in (
            (evidence.needed, needed, n_tests[NEEDED]),
            (evidence.spare, spare, n_tests[SPARE]),
        ):
            p = [np.exp(-values[rounds[place] - 1, place]) for place in range(n)]
            for place, adjusted in enumerate(holm(np.array(p), m)):
                if adjusted < LEVEL and first[place] == np.inf:
                    first[place] = number
        for place in range(n):
            left[place] = min(needed[place], spare[place]) < np.inf
    return needed, spare, rounds


@pytest.mark.parametrize("seed", range(5))
def test_race_equals_round_by_round_and_place_by_place(seed):
    rng = np.random.default_rng(seed)
    up = rng.uniform(-0.3, 0.9, size=(2, 1, 12)) + rng.standard_normal((2, 15, 12))
    needed, spare = (suprema(steps.cumsum(axis=0)) for steps in up)
    evidence, n_tests = Evidence(needed, spare, NO_CROSSINGS), {NEEDED: 12, SPARE: 15}
    found = race(evidence, (NEEDED, SPARE), n_tests)
    expected = slow_race(evidence, n_tests)
    assert found.needed.tolist() == expected[0]
    assert found.spare.tolist() == expected[1]
    assert found.rounds.tolist() == expected[2]
    assert len(set(expected[2])) > 1


def test_a_race_that_is_cut_off_has_the_verdicts_so_far():
    rng = np.random.default_rng(0)
    up = rng.uniform(-0.3, 0.9, size=(2, 1, 12)) + rng.standard_normal((2, 15, 12))
    evidence = Evidence(*(suprema(steps.cumsum(axis=0)) for steps in up), NO_CROSSINGS)
    whole = race(evidence, (NEEDED, SPARE), {NEEDED: 12, SPARE: 12})
    for n in (1, 6, 11):
        cut = Evidence(evidence.needed[:n], evidence.spare[:n], NO_CROSSINGS)
        so_far = race(cut, (NEEDED, SPARE), {NEEDED: 12, SPARE: 12})
        for first, of_whole in zip(so_far[:2], whole[:2], strict=True):
            assert first.tolist() == np.where(of_whole <= n, of_whole, np.inf).tolist()
        assert so_far.rounds.tolist() == np.minimum(whole.rounds, n).tolist()


def test_nothing_that_was_not_asked_changes_a_verdict():
    nats = some_losses(0)
    clusters = Clusters.from_labels([f"task\0task/{i}" for i in range(64)])
    order = item_order(clusters, 0)
    table = table_of([cell_of(nats)])
    assert table["n_asked"].nunique() > 2
    asked = table.groupby("layer")["n_asked"].first()
    for layer, n in asked.items():
        nats[order[n:], int(layer)] = np.random.default_rng(1).uniform(-9, 9, 64 - n)
    again = table_of([cell_of(nats)])
    pd.testing.assert_frame_equal(table, again)
    nats[order[: asked[0]], 0] *= -1
    assert not table_of([cell_of(nats)]).equals(table)


def test_a_layer_that_always_loses_is_needed_at_the_first_round_that_can_show_it():
    right = np.ones((40, 2), dtype=bool)
    right[:, 0] = False
    cell = cell_of(np.zeros((40, 2)), right=right)
    (row,) = (
        table_of([cell], measure="accuracy", questions=(NEEDED,), round_size=1)
        .query("layer == 0")
        .to_dict("records")
    )
    # one-sided Jeffreys mixture of k losses against two hypotheses: the first k above 40
    evidence = np.exp(majority_evidence(np.ones((40, 1), dtype=int))[:, 0])
    assert row["n_items"] == int((evidence > 40).argmax()) + 1 == 7
    assert row["established"]
    assert row["p"] == pytest.approx(1 / evidence[6])
    assert row["estimate"] == row["high"] == 1.0
    assert row["low"] > 0
    in_rounds = table_of([cell], measure="accuracy", questions=(NEEDED,), round_size=5)
    assert in_rounds["n_items"].tolist() == [10, 40]
    assert in_rounds["established"].tolist() == [True, False]
    assert in_rounds["n_all"].tolist() == [40, 40]


def test_verdicts_in_nats_are_those_of_the_evidence():
    table = table_of([cell_of(some_losses(3, 120))]).set_index(["question", "layer"])
    verdicts = table["established"].unstack("question")
    assert verdicts[NEEDED].tolist()[:2] == [True] * 2
    assert verdicts[SPARE].tolist()[2]
    assert verdicts[SPARE].tolist()[4]
    assert not verdicts[SPARE].tolist()[3]
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()
    needed, spare = (table.loc[name].query("established") for name in (NEEDED, SPARE))
    assert (needed["low"] >= 0).all()
    assert (spare["high"] <= 0.1).all()
    assert (table["n_items"] <= table["n_asked"]).all()
    assert table["n_asked"].loc[NEEDED].equals(table["n_asked"].loc[SPARE])


def test_spare_is_shown_in_every_task_of_a_capability():
    easy = cell_of(np.zeros((60, 1)), task="easy")
    loses = cell_of(np.full((60, 1), 0.5), task="loses")
    alike = cell_of(np.zeros((60, 1)), task="alike")
    (both,) = table_of([easy, loses], questions=(SPARE,)).to_dict("records")
    assert not both["established"]
    assert both["tasks"] == "easy, loses"
    (all_spare,) = table_of([easy, alike], questions=(SPARE,)).to_dict("records")
    assert all_spare["established"]
    (alone,) = table_of([easy], questions=(SPARE,)).to_dict("records")
    assert alone["n_items"] < all_spare["n_items"] < 120


def test_tasks_without_signal_count_in_the_family_and_are_not_asked():
    rng = np.random.default_rng(0)
    cells = [cell_of(some_losses(0), capability=name, task=name) for name in "abcd"]
    signal = {(name, "continuation"): name == "a" for name in "abcd"}
    among_four, alone = table_of(cells, signal), table_of(cells[:1])
    assert set(among_four["capability"]) == {"a"}
    assert (among_four["n_asked"] >= alone["n_asked"]).all()
    assert (among_four["n_asked"] > alone["n_asked"]).any()
    assert family_sizes(cells, 5) == {NEEDED: 20, SPARE: 20, CROSSING: comb(4, 2) * 20}
    assert table_of(cells, dict.fromkeys(signal, False)).empty
    # two of three tasks had signal: any pair of them could have been tested
    three = [cell_of(rng.normal(0.4, 0.6, (40, 2)), task=f"t{i}") for i in range(3)]
    two = {
        ("t0", "continuation"): True,
        ("t1", "continuation"): True,
        ("t2", "continuation"): False,
    }
    p, p_all = (table_of(x, y, questions=(NEEDED,), round_size=200)["p"].to_numpy()
                for x, y in ((three, two), (three[:2], True)))  # fmt: skip
    assert p == pytest.approx(np.minimum(3 * p_all, 1.0))


def crossing_cells(seed: int = 0, n: int = 80) -> list[Cell]:
    """Layer 1 costs ``a`` alone, layer 2 ``b`` alone, and layer 0 both."""
    rng = np.random.default_rng(seed)
    means = {"a": [1.5, 1.0, 0.0], "b": [1.5, 0.0, 1.0]}
    return [
        cell_of(
            mean + 0.4 * rng.standard_normal((n, 3)), capability=name, task=name,
            right=rng.random((n, 3)) > np.array(mean) / 2,
        )
        for name, mean in means.items()
    ]  # fmt: skip


@pytest.mark.parametrize("measure", ["nats", "accuracy"])
def test_layers_that_cross_are_found_with_their_other_layer(measure):
    asked = (NEEDED, SPARE, CROSSING)
    table = table_of(crossing_cells(), measure=measure, questions=asked)
    rows = table.query("question == 'crossing'").set_index(["capability", "layer"])
    found = rows.query("established")
    assert set(found.index) == {("a", 1), ("b", 2)}
    assert found.loc[("a", 1), "other_layer"] == 2
    assert found.loc[("a", 1), "other"] == "b"
    assert found.loc[("b", 2), "other_layer"] == 1
    assert (found["low"] > 0).all()
    assert found["p"].nunique() == 1  # of both sides together
    # what is not spare goes on until it is on the costly side of a crossing
    goes_on = rows.loc[[("a", 0), ("b", 0)]]
    assert (goes_on["n_asked"] == 80).all()


def test_a_crossing_is_as_sure_as_the_weaker_of_its_sides():
    asked = (CROSSING,)
    cells = crossing_cells()
    every = {(cell.task, cell.protocol): True for cell in cells}
    floors = {key: np.zeros(80) for key in every}
    decided = decide(cells, every, floors, measure="accuracy", seed=0, questions=asked)
    assert decided is not None
    crossings = decided.evidence.crossings
    of = {(int(a), int(b)): i for i, (a, b) in enumerate(crossings.more.T)}
    which = of[1, 5]  # layer 1 of the first capability, layer 2 of the second
    sides = []
    for ordered, more, less in zip(decided.pools, (1, 2), (2, 1), strict=True):
        net = ordered.pool.net[:, [more]] - ordered.pool.net[:, [less]]
        sides.append(suprema(majority_evidence(net))[-1, 0])
    whole = np.full(crossings.more.shape, 10)
    assert crossing_suprema(crossings, whole)[which] == pytest.approx(min(sides))
    early = whole.copy()
    early[1] = 1
    assert crossing_suprema(crossings, early)[which] < min(sides)
    assert np.isfinite(decided.race.crossing[which])


def test_a_side_without_a_crossing_is_rarely_passed_by_the_smaller_supremum():
    """By enumeration: one side's null is true, the other side always shows it."""
    null = np.array(list(product((-1, 1), repeat=12))).T
    late = np.ones_like(null)
    late[:3] = -1  # this side shows it late
    one, other = majority_evidence(null), majority_evidence(late)
    smaller_of_suprema = np.minimum(suprema(one), suprema(other))
    supremum_of_smaller = suprema(np.minimum(one, other))
    assert (supremum_of_smaller <= smaller_of_suprema).all()
    assert (smaller_of_suprema[-1] > supremum_of_smaller[-1]).any()
    for level in (0.5, 0.3, 0.1, 0.05):
        assert (smaller_of_suprema[-1] >= -np.log(level)).mean() <= level
    # at any time, the smaller of both is an e-value; the smaller of the suprema is none
    assert np.exp(np.minimum(one, other)).mean(axis=1).max() <= 1
    assert np.exp(smaller_of_suprema[-1]).mean() > 1


def test_work_is_saved_at_little_loss_of_power_beside_the_fixed_test():
    rng = np.random.default_rng(0)
    needed = spare = asked = 0
    by_fixed = np.zeros(2, dtype=int)
    for seed in range(5):
        nats = np.where(np.arange(20) < 10, 0.8, 0.0) + 0.3 * rng.standard_normal((200, 20))
        table = table_of([cell_of(nats)], seed=seed)
        sure = table.query("established")
        needed += len(sure.query("question == 'needed' and layer < 10"))
        spare += len(sure.query("question == 'spare' and layer >= 10"))
        asked += table.query("question == 'needed'")["n_asked"].sum()
        by_fixed[1] += (holm(no_loss_of_nats_p_values(nats)) < LEVEL).sum()
        t = nats.mean(axis=0) / (nats.std(axis=0, ddof=1) / np.sqrt(200))
        by_fixed[0] += (t > 4)[:10].sum()
    assert needed == by_fixed[0] == 50
    assert spare >= by_fixed[1] - 2 >= 40
    assert asked < 0.4 * 200 * 20 * 5


def test_bad_input_is_refused_in_a_sentence():
    unknown = np.zeros((20, 2))
    unknown[3, 1] = np.nan
    with pytest.raises(UserError, match=r"Some answers of task .* decide by accuracy"):
        table_of([cell_of(unknown)])
    assert len(table_of([cell_of(unknown)], measure="accuracy")) == 4
    known = cell_of(np.zeros((20, 2)))
    with pytest.raises(UserError, match="The measure is 'points': expected 'nats'"):
        table_of([known], measure="points")
    with pytest.raises(UserError, match="The questions are 'general': expected some of 'needed'"):
        table_of([known], questions=("general",))
    with pytest.raises(UserError, match="The questions are none"):
        table_of([known], questions=())
    with pytest.raises(UserError, match="several draws of few-shot examples"):
        table_of([known._replace(of_examples=(known, known))])


def test_every_item_of_a_cluster_is_asked_before_it_counts():
    rng = np.random.default_rng(0)
    labels = [f"fact {i // 4}" for i in range(80)]
    nats = np.repeat(rng.normal(0.8, 0.5, (20, 3)), 4, axis=0)
    table = table_of([cell_of(nats, labels=labels)], questions=(NEEDED,))
    assert (table["n_items"] % 4 == 0).all()
    alone = table_of([cell_of(nats)], questions=(NEEDED,))
    assert (table["n_items"] > alone["n_items"]).all()


def test_saved_rates_of_false_verdicts_are_at_most_nominal():
    table = pd.read_parquet(RESULTS / "sequential_claims.parquet")
    in_use = table.loc[~table["world"].str.startswith(("t-test", "symmetric bets"))]
    assert in_use["world"].nunique() >= 12
    assert set(in_use["question"]) == {NEEDED, SPARE, CROSSING}
    assert (in_use["runs"] >= 1000).all()
    assert (in_use["low"] <= LEVEL).all()
    assert (in_use["worst_low"] <= LEVEL).all()
    assert (in_use["worst_false"] >= in_use["false"]).all()
    others = table.loc[~table.index.isin(in_use.index)]
    assert (others["low"] > LEVEL).all()  # which is why they are not used


def test_saved_work_is_less_than_all_of_it():
    table = pd.read_parquet(RESULTS / "sequential_saved.parquet")
    nats = table.loc[table["measure"] == "nats"]
    assert (nats["saved"] > 1.2).all()
    like = nats.loc[nats["case"].str.startswith("losses like")].set_index("items")["saved"]
    assert like[100] > 2
    assert like[400] > 6
    assert (table["opposite"] < 0.01).all()
    assert np.allclose(table["saved"], 1 / table["work"])


def test_rejections_of_frozen_layers_stay():
    evidence = np.log(np.array([[50.0, 1.0], [0.01, 30.0], [0.01, 0.01]]))
    assert rejection_items(evidence).tolist() == [1.0, 2.0]
