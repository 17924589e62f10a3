"""Layers of one model chosen one after the other: found where planted, told on other items."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

import layerwise as lw
from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.analyses.transplant.greedy import best_of, parted
from layerwise.errors import UserError
from layerwise.models.instance.kinds import blocks_of
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.presentation.rows import rows
from layerwise.report.html import findings
from layerwise.stats.families import estimate
from tests import analysis
from tests.analysis import word_task
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task
from tests.transplanting import both, transplant_result

LAYOUT = WiredLayout(
    n_layers=5, n_heads=2, previous=Spot(0, 1), look_up=Spot(1, 0), facts=Spot(2, 1),
    second_hop=Spot(3, 0), gate=Spot(4, 1),
)  # fmt: skip


def without(*parts: tuple[int, str]) -> Any:
    broken = copy.deepcopy(small_model(LAYOUT))
    with torch.no_grad():
        for layer, site in parts:
            for weight in parts_of_block(broken, blocks_of(broken)[layer])[site]:
                weight.mul_(1e-6)
    return broken


def two_abilities() -> Any:
    """Look-ups, and half as many facts, in one task."""
    first, second = small_task("retrieval", 32), small_task("knowledge", 16)
    items = [*first.items, *(replace(one, id=f"fact-{one.id}") for one in second.items)]
    return replace(first, items=tuple(items))


def test_the_layer_of_the_larger_part_comes_first_and_the_other_next(tmp_path):
    whole, broken = small_model(LAYOUT), without((1, "attn_out"), (2, "mlp_out"))
    result = lw.transplant(
        broken, whole, two_abilities(), layers=[0, 1, 2], greedy=2, sets="together",
        progress=False, out=tmp_path,
    )  # fmt: skip
    found = rows(result.greedy(), direction="brings").set_index("step")
    assert [list(layers) for layers in found["layers"]] == [[1], [1, 2]]
    assert list(found["layer"]) == [1, 2]
    assert list(found["n_candidates"]) == [3, 2]
    assert found["n_selection"].eq(24).all()
    assert found["n_items"].eq(24).all()
    assert found["share"].loc[2] == pytest.approx(1)
    assert 0.4 < found["share"].loc[1] < 0.9
    assert found["significant"].all()
    # the held-out figure is that of the records on items that did not choose
    table = result.transplant
    held = table.loc[(table["split"] == "held out") & (table["host"] == "base")]
    chose = table.loc[(table["split"] == "selection") & (table["host"] == "base")]
    assert not set(held["item"]) & set(chose["item"])
    acc = held.loc[held["step"] == 1, "correct"].astype(float).mean()
    assert found["acc"].loc[1] == pytest.approx(acc)
    (told,) = [one.full for one in findings([result]) if "Chosen in this order" in one.full]
    assert told.startswith("With 2 greedily chosen layers of the other model, the base gains")
    assert "that did not choose" in told
    # effects are of all items and know nothing of the search
    assert set(result.effects()["set"]) == {"together"}
    (again,) = lw.load_results(tmp_path)
    pd.testing.assert_frame_equal(result.greedy(), again.greedy())
    assert list(result.greedy().columns) == analysis.documented_columns("transplant_greedy.parquet")
    page = lw.report(again).html
    assert "Chosen one after the other" in page
    assert lw.verify(tmp_path)


def records(correct, nats=None):
    return pd.DataFrame({"correct": correct, "gold_logprob": nats or [np.nan] * len(correct)})


def test_the_best_is_by_accuracy_then_nats_then_the_first():
    some, more = [True, False, False], [True, True, False]
    assert best_of([records(some), records(more), records(more)], "brings") == 1
    assert best_of([records(more), records(some), records(some)], "destroys") == 1
    tied = [records(some, [-1.0, -3.0, -3.0]), records(some, [-1.0, -2.0, -3.0])]
    assert best_of(tied, "brings") == 1
    assert best_of(tied, "destroys") == 0


def test_items_that_ask_for_the_same_thing_are_in_one_part():
    task = word_task(12)
    items = tuple(replace(item, cluster=f"c{i // 3}") for i, item in enumerate(task.items))
    halves = parted(replace(task, items=items), 0.5, 0)
    clusters = {name: {item.cluster for item in half.items} for name, half in halves.items()}
    assert not clusters["selection"] & clusters["held out"]
    assert {len(half.items) for half in halves.values()} == {6}
    assert parted(task, 0.5, 1) != parted(task, 0.5, 0)
    with pytest.raises(UserError, match="0 of 4 items would be held out"):
        parted(replace(task, items=items), 0.1, 0)


def test_searches_that_cannot_be_made_are_refused():
    model = tiny_model("llama")

    def search(**options: Any) -> None:
        lw.transplant(model, model, word_task(), progress=False, **options)

    with pytest.raises(UserError, match=r"4 layers were to be chosen .* expected 0 \(none\) to 3"):
        search(greedy=4)
    with pytest.raises(UserError, match="an exchange of weights"):
        search(greedy=1, exchange="activations")
    with pytest.raises(UserError, match="more than 0 and less than 1"):
        search(greedy=1, held_out=0)


def searched(rng, n=80, layers=12, share=0.3):
    """A search over layers that flip answers for nothing, its choice told on held-out items."""
    worse, better = rng.random(n) < 0.35, rng.random(n) < 0.9

    def noise(right):
        return np.where(rng.random(n) < share, rng.permutation(right), right)

    tried = {"base": [noise(worse) for _ in range(layers)],
             "other": [noise(better) for _ in range(layers)]}  # fmt: skip
    halves, picks = {"selection": slice(0, n // 2), "held out": slice(n // 2, n)}, {}
    for host, sign in (("base", 1), ("other", -1)):
        means = [sign * one[halves["selection"]].mean() for one in tried[host]]
        picks[host] = int(np.argmax(means))
    whole = transplant_result(
        worse, better, both(dict(enumerate(tried["base"])), dict(enumerate(tried["other"])))
    )
    table = whole.transplant
    changed = table.loc[table["kind"] == "transplant"]
    order = {item: i for i, item in enumerate(sorted(set(table["item"])))}
    place = changed["item"].map(order)
    parts = [table.loc[table["kind"] == "intact"]]
    for split, half in halves.items():
        mine = changed.loc[(place >= half.start) & (place < half.stop)]
        if split == "held out":
            mine = mine.loc[mine["layer"] == mine["host"].map(picks)]
        parts.append(mine.assign(split=split, step=1, set="greedy"))
    made = pd.concat(parts, ignore_index=True)
    made["step"] = made["step"].astype("Int64")
    return type(whole)(made, whole.transplant_distances, whole.facts), picks


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(estimate, "N_RESAMPLES", 20)


def test_what_is_told_is_counted_on_held_out_items(few_resamples):
    result, picks = searched(np.random.default_rng(0))
    table, greedy = result.transplant, result.greedy()
    assert len(greedy) == 2
    plain = rows(table, kind="intact").set_index(["host", "item"])["correct"].astype(int)
    for row in greedy.to_dict("records"):
        assert row["layer"] == picks[row["host"]]
        held = rows(table, host=row["host"], split="held out").set_index(["host", "item"])
        net = held["correct"].astype(int) - plain.loc[held.index]
        net = net if row["direction"] == "brings" else -net
        assert row["moved"] == pytest.approx(net.mean())
        moved, against = int((net > 0).sum()), int((net < 0).sum())
        assert (row["n_moved"], row["n_against"]) == (moved, against)
        if row["direction"] == "destroys":
            p = binomtest(moved, moved + against, 0.5).pvalue if moved + against else 1.0
            assert row["p"] == pytest.approx(p)
        chose = rows(table, host=row["host"], split="selection", layer=row["layer"])
        chose = chose.set_index(["host", "item"])
        net = chose["correct"].astype(int) - plain.loc[chose.index]
        sign = 1 if row["direction"] == "brings" else -1
        assert row["moved_selection"] == pytest.approx(sign * net.mean())
        assert row["n_candidates"] == 12
    np.testing.assert_allclose(greedy["p_run"], multipletests(greedy["p"], method="holm")[1])


@pytest.mark.parametrize("n", [10, pytest.param(400, marks=pytest.mark.long)])
def test_the_best_of_many_that_do_nothing_moves_held_out_items_as_rarely_as_stated(
    n, few_resamples
):
    rng, found, chose = np.random.default_rng(6), 0, []
    for _ in range(n):
        result, _ = searched(rng, share=rng.choice([0.1, 0.3, 0.6]))
        greedy = result.greedy()
        found += bool(((greedy["p_run"] < 0.05) & (greedy["moved"] > 0)).any())
        chose.append(float((greedy["moved_selection"] - greedy["moved"]).mean()))
    assert binomtest(found, n, 0.05, alternative="greater").pvalue > 0.01
    assert np.mean(chose) > 0.03  # what it was chosen by makes it look better
