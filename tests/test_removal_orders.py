"""Several orders and protocols of removal in one run, against plain rules and planted answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.removal.figures import removal_orders
from layerwise.analyses.removal.job import Order
from layerwise.analyses.removal.orders import by_angle
from layerwise.analyses.removal.tables import WAYS
from layerwise.errors import UserError
from layerwise.report import report
from layerwise.results import RemovalResult
from layerwise.storage.parquet import frame
from layerwise.sweep.activations.stream_reading import Streams
from tests import synthetic
from tests.analysis import decided_by_layers, documented_columns, word_task
from tests.models.tiny import tiny_model
from tests.report.legible import WIDTHS, assert_legible

N_LAYERS = 5


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", num_hidden_layers=N_LAYERS)


@pytest.fixture(scope="module")
def task(model):
    return decided_by_layers(model, word_task(160), 24)


@pytest.fixture(scope="module")
def measured():
    """What was measured for ``result``: items of a split, without a set of layers."""
    return []


@pytest.fixture(scope="module")
def result(model, task, measured):
    measure = Order._measure

    def watched(self, tasks, split, tried):
        measured.extend((split, frozenset(layers)) for layers in tried)
        return measure(self, tasks, split, tried)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Order, "_measure", watched)
        return removal_order(model, task, ["continuation"], n_removed=3, by=WAYS, progress=False)


def test_given_orders_are_those_of_the_plain_rules(model, task, result):
    table = result.removal
    seen = set(table.loc[table["split"] == "selection", "item"])
    items = tuple(item for item in task.items if item.id in seen)
    read = lw.similarity(model, replace(task, items=items), "continuation", progress=False)
    turned = read.influence().set_index("layer")["influence"].sort_values()
    orders = {by: order for (by, _), order in result.orders.items()}
    assert list(orders) == list(WAYS)
    assert orders["influence"] == [tuple(turned.index[:n]) for n in (1, 2, 3)]
    least = read.angular().query("least and n_layers <= 3").sort_values("n_layers")
    assert orders["angular"] == [
        tuple(range(row.layer, row.layer + row.n_layers)) for row in least.itertuples()
    ]
    assert orders["deep"] == [(4,), (4, 3), (4, 3, 2)]
    alone = result.candidates().query("by == 'effect' and step == 1")
    ranked = alone.sort_values(["share_lost", "nats"])["layers"]
    assert orders["effect"] == [tuple(np.concatenate(ranked.tolist()[:n])) for n in (1, 2, 3)]


def test_orders_that_are_made_together_are_those_made_alone(model, task, result):
    for by in ("greedy", "angular"):
        alone = removal_order(model, task, n_removed=3, by=by, progress=False)
        assert alone.order == result.orders[by, "continuation"]
        mine = result.steps().query("by == @by").reset_index(drop=True)
        of_run = ["p_run", "run_tests"]
        ours, theirs = (one.drop(columns=of_run) for one in (mine, alone.steps()))
        pd.testing.assert_frame_equal(ours, theirs, atol=1e-4)
    with pytest.raises(UserError, match="There are several orders"):
        _ = result.order


def test_every_order_is_measured_on_the_same_held_out_items(result):
    held = result.removal.query("split == 'held out'")
    items = {frozenset(group["item"]) for _, group in held.groupby(["by", "step"])}
    assert len(items) == 1
    assert held.groupby("by")["step"].unique().map(sorted).tolist() == [[0, 1, 2, 3]] * len(WAYS)


def test_no_set_of_layers_is_measured_twice(result, measured):
    table = result.removal
    used = set(zip(table["split"], table["layers"].map(frozenset), strict=True))
    assert len(measured) == len(set(measured))
    assert set(measured) == used
    by_order = table.groupby(["by", "split", "step", "intervention"]).ngroups
    assert len(measured) < by_order  # orders share the intact model and the single layers at least
    assert len(result.facts.work) <= len(measured)


def test_angles_choose_blocks_and_ties_go_deep():
    turns = np.cumsum([0, 0.5, 0.0, 0.0, 0.3])  # layers 1 and 2 do nothing
    last = torch.tensor(np.stack([np.cos(turns), np.sin(turns)], axis=1))[:, None]
    assert by_angle([[Streams(last, torch.zeros(4, 1))]], 3) == [(2,), (1, 2), (1, 2, 3)]


def planted(costs: dict[tuple[str, str], int], n: int = 60) -> RemovalResult:
    """Every step of an order under a protocol costs so many of the items."""
    rows = [
        {
            "by": by, "step": step, "layers": list(range(step)), "chosen": step > 0,
            "intervention": f"skip:layers={step}" if step else "intact", "split": split,
            "task": "facts", "capability": "knowledge", "item": f"{split}/{i:02d}",
            "protocol": protocol, "correct": i >= cost * step, "gold_logprob": -1.0,
            "kind": "skip" if step else "intact",
        }
        for (by, protocol), cost in costs.items() for split in ("selection", "held out")
        for step in range(6) for i in range(n)
    ]  # fmt: skip
    facts = synthetic.facts(synthetic.task_facts("facts", "knowledge", 0.25))
    return RemovalResult(frame("removal", rows), facts)


COSTS = {("greedy", "continuation"): 1, ("greedy", "generate"): 3, ("deep", "continuation"): 9}


def test_curves_and_the_sentence_say_how_many_layers_can_go():
    result = planted(COSTS)
    curves = result.curves()
    assert list(curves.columns) == documented_columns("removal_curves.parquet")
    lost = curves.set_index(["by", "protocol", "step"])["share_lost"]
    assert lost["greedy", "continuation", 5] == pytest.approx(5 / 60 / 0.75)
    assert lost["greedy", "generate", 2] == pytest.approx(6 / 60)
    page = report(result)
    assert list(page.figures) == ["removal_orders"]
    (claim,) = [claim for claim in page.findings if "greedily" in claim.short]
    assert claim.short.endswith("greedily, knowledge shows a loss from 3 on when it writes.")
    assert claim.evidence == "established"
    assert claim.protocols == ("continuation", "generate")
    assert "No loss up to 5 when it chooses: 11 [" in claim.full
    assert claim.layers == (0, 1, 2)


def test_the_short_table_has_a_row_for_each_step_of_each_order():
    shown = planted(COSTS).summary_rows()
    assert len(shown) == 3 * 5
    assert not shown.duplicated(["order", "protocol", "removed"]).any()


def test_the_figure_has_a_line_per_order():
    figure = removal_orders(planted(COSTS).curves())
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    drawn = [str(line.get_gid()) for line in lines if str(line.get_gid()).startswith("left")]
    assert sorted(drawn) == ["left deep", "left greedy", "left greedy"]
    (deep,) = [line for line in lines if line.get_gid() == "left deep"]
    np.testing.assert_allclose(deep.get_ydata(), [100 - 100 * 9 * k / 60 / 0.75 for k in range(6)])


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_are_readable_and_apart(width):
    assert_legible(removal_orders(planted(COSTS | {("deep", "letter"): 2}).curves(), width))


def test_several_protocols_have_orders_of_their_own(model, task):
    both = removal_order(model, task, ["letter", "continuation"], n_removed=1, by="deep",
                         held_out=0.25, progress=False)  # fmt: skip
    assert set(both.orders) <= {("deep", "letter"), ("deep", "continuation")}
    assert both.orders["deep", "continuation"] == [(4,)]
