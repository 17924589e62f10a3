"""Interactions in models whose answer is known; sums and costs are in test_interactions_tables."""

from __future__ import annotations

import copy
import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from analyses.validity.wired_truth import PlantedTruth
from layerwise.analyses.interactions import api
from layerwise.errors import UserError
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from tests import planted_seq2seq
from tests.analysis import word_task
from tests.cases import LONG
from tests.models.tiny import tiny_model
from tests.planted import CAPABILITIES, layouts, small_model, small_task

CHAIN = WiredLayout(8, 3, Spot(1, 2), Spot(3, 0), Spot(4, 2), Spot(6, 1), Spot(7, 2))
COPY = replace(CHAIN, previous_copy=Spot(2, 0))
STACKS = WiredSeq2SeqLayout(
    5, 3, 1, 1, Spot(1), Spot(3), Spot(0), Spot(4), begin=Spot(5), copy=Spot(6), say=7
)
NATS = "measure == 'nats'"
# One pair among 28 is significant with so many.
N_ITEMS = 40


def quiet(model, task, **options):
    return lw.interactions(model, task, progress=False, **options)


@pytest.mark.long
def test_both_stacks_of_an_encoder_decoder_interact():
    model, task = planted_seq2seq.small_seq2seq(STACKS), small_task("retrieval")
    found = quiet(model, task, layers=["encoder.1", "encoder.2", "decoder.1"])
    assert verdicts(found)["overlapping"] == {(1, 6)}
    assert "encoder.1, decoder.1" in set(found.summary_rows()["pair"])


def verdicts(found) -> dict[str, set[tuple[int, int]]]:
    """The pairs of layers that have each verdict."""
    table = found.pairs().query(NATS)
    return {
        verdict: set(zip(group["first_layer"], group["second_layer"], strict=True))
        for verdict, group in table.groupby("verdict")
    }


def layer_pairs(spots) -> set[tuple[int, int]]:
    return {(a.layer, b.layer) for a, b in spots}


def assert_finds_planted_pairs(layout: WiredLayout, capability: str, seed: int = 0) -> None:
    found = quiet(small_model(layout, seed), small_task(capability, N_ITEMS))
    known, told = PlantedTruth(layout, capability), verdicts(found)
    n_pairs = layout.n_layers * (layout.n_layers - 1) // 2
    assert told.get("redundant", set()) == layer_pairs(known.redundant)
    assert told.get("overlapping", set()) == layer_pairs(known.overlapping_pairs)
    assert sum(map(len, told.values())) == n_pairs
    assert "nats alone" not in told
    significant = found.pairs().query("significant and measure == 'accuracy'")
    assert len(significant) == len(known.redundant) + len(known.overlapping_pairs)


BY_DAY = {("retrieval", "copy"), ("knowledge", "chain")}


@pytest.mark.parametrize(
    ("capability", "layout"),
    [
        pytest.param(
            capability, layout, id=f"{capability}-{name}",
            marks=[] if (capability, name) in BY_DAY else pytest.mark.long,
        )
        for capability in CAPABILITIES
        for name, layout in (("chain", CHAIN), ("copy", COPY))
    ],
)  # fmt: skip
def test_exactly_the_planted_pairs_are_found(layout, capability):
    assert_finds_planted_pairs(layout, capability)


@pytest.mark.long
@settings(max_examples=20 if LONG else 1, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(layouts(), st.integers(0, 1000))
def test_they_are_found_wherever_they_are(layout, seed):
    assert_finds_planted_pairs(layout, "reasoning", seed)


@pytest.mark.long
def test_planted_heads_that_stand_in_for_each_other_are_found():
    (first, second) = next(iter(PlantedTruth(COPY, "retrieval").redundant))
    found = quiet(
        small_model(COPY), small_task("retrieval", N_ITEMS), site="z", layers=[1, 2, 3],
        heads=[0, 2],
    )  # fmt: skip
    table = found.pairs().query(f"{NATS} and verdict == 'redundant'")
    (row,) = table.to_dict("records")
    assert (row["first_layer"], row["first_head"]) == (first.layer, first.head)
    assert (row["second_layer"], row["second_head"]) == (second.layer, second.head)
    assert row["excess_low"] > 0


def test_a_copy_before_the_look_up_alone_is_taken():
    with pytest.raises(UserError, match="expected a layer before look_up"):
        WiredLayout(previous_copy=Spot(5))
    with pytest.raises(UserError, match="without another mechanism"):
        WiredLayout(previous_copy=Spot(1, 0))


def halves_of_a_fact():
    """A wired model whose facts are written half by one MLP, half by that of the next layer."""
    model = copy.deepcopy(small_model(CHAIN))
    one, other = model.blocks[4].mlp, model.blocks[5].mlp
    with torch.no_grad():
        one.W_out *= 0.5
        for name in ("W_in", "b_in", "W_out"):
            getattr(other, name).copy_(getattr(one, name))
    return model


@pytest.mark.long
def test_two_parts_that_add_up_in_the_logits_are_not_called_redundant():
    model, task = halves_of_a_fact(), small_task("knowledge", N_ITEMS)
    found = quiet(model, task, site="mlp_out", layers=[3, 4, 5, 6])
    assert verdicts(found)["nats alone"] == {(4, 5)}
    assert "redundant" not in verdicts(found)
    row = found.pairs().query("first_layer == 4 and second_layer == 5").set_index("measure")
    assert row.loc["nats", "interaction"] > 1
    assert row.loc["margin", "interaction"] == pytest.approx(0, abs=1e-3)
    assert row.loc["accuracy", "verdict"] == "nats alone"  # told beside, of the pair
    assert row.loc["margin", "cost_first"] == pytest.approx(6, abs=0.1)


def test_nothing_is_swept_or_said_without_signal():
    found = quiet(small_model(CHAIN), small_task("retrieval"), protocols="letter")
    assert not found.signal()["signal"].any()
    asked = found.interactions["intervention"]
    asked = asked.loc[~asked.str.startswith("guesser: ")]
    assert set(asked) == {"intact", "blind:1", "blind:2", "blind:3"}
    assert found.pairs().empty
    assert found.shapley().empty
    assert found.summary_rows().empty


def test_of_generated_texts_accuracy_alone_is_measured_without_a_verdict():
    found = quiet(
        small_model(COPY), small_task("retrieval"), protocols="generate", layers=[1, 2, 3]
    )
    pairs = found.pairs()
    assert set(pairs["measure"]) == {"accuracy"}
    assert pairs["verdict"].isna().all()
    assert set(found.summary_rows()["unit"]) == {"accuracy"}


@pytest.mark.long
def test_sampled_shapley_values_share_out_the_cost_of_removing_all():
    """Exact values of the game: 1 and 2 stand in for each other, 3 and 7 take all alone."""
    model, task, layers = small_model(COPY), small_task("retrieval"), [1, 2, 3, 7]
    found = quiet(model, task, layers=layers, order=1, permutations=60)
    table = found.shapley().query(f"{NATS} and by == 'permutations'").set_index("layer")
    together = lw.ablate(model, task, "continuation", layers=layers, as_one=True, progress=False)
    total = float(together.effects()["nats"].iloc[0])
    assert table["value"].sum() == pytest.approx(total, abs=1e-4)
    np.testing.assert_allclose(table["total"], total, atol=1e-4)
    exact = {1: total / 12, 2: total / 12, 3: 5 * total / 12, 7: 5 * total / 12}
    for layer, row in table.iterrows():
        assert abs(row["value"] - exact[layer]) < 4 * row["se_sampling"]
    asked = found.interactions["intervention"]  # sets are skipped once however often drawn
    assert asked.loc[asked.str.startswith(("intact", "skip"))].nunique() == 2**4
    assert set(found.interaction_orders.groupby("permutation").size()) == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutations": -1}, "The number of permutations is -1"),
        ({"site": "resid_post"}, "Unknown site"),
        ({"site": "layer", "heads": [1]}, "Heads were named for site 'layer'"),
        ({"layers": [0, 9]}, "Layer 9 is out of range"),
        ({"permutations": 10**6}, "The number of permutations is 1000000"),
        ({"layers": [0]}, "Only one of the layers would be removed"),
        ({"order": 1}, "Nothing would be removed together"),
    ],
)
def test_wrong_calls_are_told(options, message):
    with pytest.raises(UserError, match=message):
        quiet(tiny_model("gpt2"), word_task(2), **options)


def test_too_many_sets_are_refused():
    with pytest.raises(UserError, match=r"Of 40 heads .* expected at most 5,000"):
        quiet(small_model(WiredLayout()), small_task("retrieval"), site="z", permutations=200)


@pytest.mark.long
def test_the_example_of_the_docstring_is_what_it_gives():
    ran = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(api.interactions, "interactions", globs={}):
        ran.run(example)
    assert ran.tries == 5
    assert not ran.failures
