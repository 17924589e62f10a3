"""Layers that cross: established where they are planted, never where one order explains all."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.ablation.claims.differences import compared_capabilities, with_named_sides
from layerwise.analyses.ablation.claims.roles import claims
from layerwise.presentation.claim import APART, ESTABLISHED, ONE_ORDER, OPEN
from layerwise.stats.crossings import Side, crossing_p_values, crossings_table
from layerwise.stats.inference import holm, mcnemar_exact
from layerwise.storage.parquet import conform
from layerwise.storage.run_tables import RunTables

from . import synthetic
from .test_capability_layers import hidden_by_a_layer, in_cells, losses, pool

CELLS = ("continuation", "generate")
SAVED = Path(__file__).parents[1] / "analyses" / "smollm2_profile" / "results" / "records.parquet"
# What the demo finds on its 70 items a task: arithmetic against retrieval.
OF_DEMO = ((12, 29), (13, 16), (13, 17), (13, 29), (24, 29))


def one_sided_p(more: int, less: int) -> float:
    return mcnemar_exact(more, less) / 2 if more > less else 1.0


def test_p_of_a_side_is_mcnemars_exact_test_of_two_layers():
    loss = np.zeros((20, 3))
    loss[:9, 0], loss[7:10, 1] = 1.0, 1.0
    p = Side.from_pool(pool("a", loss)).p
    assert p[0, 1] == one_sided_p(7, 1)
    assert p[0, 2] == one_sided_p(9, 0)
    assert p[1, 0] == p[2, 0] == 1.0
    assert np.diag(p).tolist() == [1.0] * 3


def test_p_of_a_side_over_protocols_equals_all_flips_of_items():
    rng = np.random.default_rng(0)
    answers = rng.integers(-1, 2, size=(16, 2)).astype(float)
    items = [f"item {i % 8}" for i in range(16)]
    p = Side.from_pool(pool("a", answers, labels=items)).p[0, 1]
    sums = (answers[:8] + answers[8:]) @ [1, -1]
    flips = np.array(list(product((-1, 1), repeat=8))) @ sums
    expected = (np.abs(flips) >= abs(sums.sum())).mean() / 2 if sums.sum() > 0 else 1.0
    assert p == pytest.approx(expected)


def crossing_pools(n: int = 60, loss: float = 0.6, seed: int = 1) -> list:
    """Layer 1 costs ``a`` alone and layer 2 ``b`` alone; layer 0 costs both."""
    rng = np.random.default_rng(seed)
    return [
        pool("a", losses(rng, n, 0.9, loss, 0.02, 0.02)),
        pool("b", losses(rng, n, 0.9, 0.02, loss, 0.02)),
    ]


def test_a_planted_crossing_is_found_on_both_sides_and_no_other():
    table = crossings_table(crossing_pools(), 2)
    sure = table.loc[table["established"]]
    sides = sure[["capability", "layer", "other", "other_layer"]].to_numpy().tolist()
    assert sides == [["a", 1, "b", 2], ["b", 2, "a", 1]]
    assert set(table["n_tests"]) == {12}
    row = sure.iloc[0]
    assert row["estimate"] == pytest.approx(row["acc_other_layer"] - row["acc"])
    assert 0 <= row["low"] < row["estimate"] < row["high"]


def test_p_of_a_crossing_is_the_larger_of_its_sides_and_corrected_over_all():
    first, second = map(Side.from_pool, crossing_pools())
    p = crossing_p_values(first, second)
    assert p[1, 2] == max(first.p[1, 2], second.p[2, 1])
    every = holm(p[~np.eye(4, dtype=bool)], 72)
    table = crossings_table(crossing_pools(), 4)
    assert set(table["n_tests"]) == {6 * 12}
    assert table["p_table"].min() == pytest.approx(every.min())


def test_a_capability_that_is_only_harder_never_crosses():
    rng = np.random.default_rng(2)
    damage = np.array([4.0, 2.5, 1.5, 1.0, 0.5, 0.1])
    runs = 0
    for _ in range(40):
        every = []
        for name, margin in (("a", 1.0), ("b", 3.0)):
            margins = margin + rng.standard_normal((70, 1))
            right = margins - damage - 0.5 * rng.standard_normal((70, 6)) > 0
            intact = margins > 0
            loss = intact.astype(float) - right
            every.append(pool(name, loss)._replace(intact=intact[:, 0].astype(float)))
        runs += crossings_table(every, 2)["established"].any()
    assert runs == 0


def test_layers_that_one_protocol_needs_do_not_cross_between_capabilities():
    """One capability only fails at writing, the other only at choosing; layers are of protocols."""
    rng = np.random.default_rng(3)
    # Layer 0 is needed to write, layer 1 to choose, whatever the capability.
    nothing, writing, choosing = (0.0, 0.0), (0.7, 0.0), (0.0, 0.7)
    every = [
        in_cells(name, *(
            (f"{name} 1", protocol, losses(rng, 70, *rates))
            for protocol, rates in zip(CELLS, of_protocol, strict=True)
        ))
        for name, of_protocol in (("a", (nothing, writing)), ("b", (choosing, nothing)))
    ]  # fmt: skip
    table = crossings_table(every, 2)
    assert (table["p_table"] < 0.05).any()
    assert not table["established"].any()
    assert set(table["protocols_alone"]) == {""}


def test_a_crossing_says_which_tasks_and_protocols_show_it_alone():
    rng = np.random.default_rng(4)
    own, none = (0.7, 0.0), (0.02, 0.02)
    one = in_cells(
        "a", *((task, protocol, losses(rng, 60, *(own if task != "a 3" else none)))
               for task in ("a 1", "a 2", "a 3") for protocol in CELLS)
    )  # fmt: skip
    two = in_cells("b", *(("b 1", protocol, losses(rng, 60, 0.0, 0.7)) for protocol in CELLS))
    table = crossings_table([one, two], 2)
    first = table.loc[table["established"]].set_index("capability").loc["a"]
    assert first["tasks_alone"] == "a 1, a 2"
    assert first["protocols_alone"] == "continuation, generate"


def test_capabilities_that_were_not_scored_alike_are_not_compared():
    a, b = crossing_pools()
    assert crossings_table([a, b._replace(protocol=np.full(60, "generate"))], 2).empty
    assert crossings_table([a], 1).empty
    assert crossings_table([a, b._replace(layers=np.arange(1, 5))], 2).empty


def crossings_run(*every, n: int | None = None) -> RunTables:
    table = crossings_table(every, n or len(every))
    facts = synthetic.ablation(hidden_by_a_layer(22, 2)).facts
    names = ("n_other", "share_other", "acc_intact_other", "acc_other", "margin", "margin_other")
    given = table.assign(kind="skip", site="layer", share=np.nan, **dict.fromkeys(names))
    return RunTables(facts, {"capability_estimates": conform("capability_estimates", given)})


def test_a_claim_names_tasks_where_a_capability_was_one_task():
    run = crossings_run(*crossing_pools())
    (claim,) = claims(run)
    assert (claim.kind, claim.evidence) == (APART, ESTABLISHED)
    assert claim.short == (
        "A task and b task depend on different layers when the model picks a letter: 1 against 2."
    )
    assert claim.layers == (1, 2)
    (pair,) = compared_capabilities(run)
    right = {row["capability"]: row for row in pair.closest}
    falls = with_named_sides(pair)
    assert falls.startswith(
        f"Without layer 1, a task falls from 100 to {100 * right['a']['acc']:.0f} %"
    )
    assert falls in claim.details


def test_a_claim_names_capabilities_where_two_tasks_of_each_agree():
    rng = np.random.default_rng(5)
    every = [
        in_cells(name, *((f"{name} {i}", "generate", losses(rng, 60, *rates)) for i in (1, 2)))
        for name, rates in (("retrieval", (0.7, 0.0)), ("reasoning", (0.0, 0.7)))
    ]
    (claim,) = claims(crossings_run(*every))
    assert claim.short == (
        "Retrieval and reasoning depend on different layers when the model writes: 0 against 1."
    )


def test_a_layer_that_both_need_somewhat_is_particular_to_neither():
    rng = np.random.default_rng(8)
    every = [
        pool("retrieval", losses(rng, 100, 0.5, 1.0, 0.0)),
        pool("reasoning", losses(rng, 100, 0.5, 0.0, 1.0)),
    ]
    run = crossings_run(*every)
    sure = run.tables["capability_estimates"].query("established")
    assert 0 in set(sure.query("capability == 'retrieval'")["layer"])
    assert 0 in set(sure.query("capability == 'reasoning'")["layer"])
    (pair,) = compared_capabilities(run)
    assert pair.layers == ((1,), (2,))
    assert [row["layer"] for row in pair.closest] == [1, 2]


def test_a_pair_without_crossings_is_open_and_says_so():
    rng = np.random.default_rng(6)
    every = [pool(name, losses(rng, 60, 0.9, 0.5, 0.02)) for name in ("retrieval", "knowledge")]
    (claim,) = claims(crossings_run(*every))
    assert (claim.kind, claim.evidence) == (ONE_ORDER, OPEN)
    assert claim.short == (
        "One order of layers may explain retrieval and knowledge: no layer is shown to matter to "
        "one rather than to the other."
    )
    assert claim.p is not None
    assert claim.p >= 0.05


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_layers_to_cross_give_no_rows(n):
    rng = np.random.default_rng(7)
    every = [pool(name, losses(rng, 30, *[0.5] * n)) for name in "ab"]
    table = crossings_table(every, 2)
    assert table.empty if n == 1 else not table["established"].any()
    assert isinstance(table, pd.DataFrame)


def exact_flip_p(sums: np.ndarray) -> float:
    """P(sum of +-d >= its value), by the whole distribution."""
    chances = {0: 1.0}
    for size in np.abs(sums[sums != 0]).tolist():
        after: dict[int, float] = {}
        for total, chance in chances.items():
            for end in (total - size, total + size):
                after[end] = after.get(end, 0.0) + chance / 2
        chances = after
    return sum(chance for total, chance in chances.items() if total >= sums.sum())


def test_crossings_of_the_demo_are_confirmed_on_other_items():
    """The study's profile asked 100 items of another seed; nothing of the package is used here."""
    records = pd.read_parquet(SAVED)
    skips = records.loc[(records["kind"] == "skip") & records["protocol"].isin(CELLS)]

    def right(*tasks: str) -> pd.DataFrame:
        shown = skips.loc[skips["task"].isin(tasks)]
        alone = shown["task"] + " " + shown["item"]
        label = shown["cluster"].where(shown["cluster"].notna(), alone)
        return shown.groupby([label, "layer"])["correct"].sum().unstack().astype(int)

    one, other = right("arithmetic"), right("kv-words", "facts-open-book")
    p = [
        max(
            exact_flip_p((one[j] - one[i]).to_numpy()),
            exact_flip_p((other[i] - other[j]).to_numpy()),
        )
        for i, j in OF_DEMO
    ]
    assert (holm(np.array(p)) < 0.001).all()
