"""Activation patching of encoder-decoders finds where the truth was planted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from analyses.validity.wired_truth_seq2seq import PlantedSeq2Seq
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.patching.analysis import hand_overs, take_ups
from layerwise.analyses.registry import run_tables
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.presentation.naming import model_layer_names
from layerwise.report.html import findings
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import seq2seq_layouts, small_seq2seq

planted = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.generate))


@pytest.mark.long
@planted
@given(seq2seq_layouts(), st.integers(0, 1000), st.sampled_from(CAPABILITIES))
def test_the_planted_copy_is_found_in_the_values_at_the_prompts_end(layout, seed, capability):
    model, truth = small_seq2seq(layout, seed), PlantedSeq2Seq(layout, capability)
    summary = lw.patch_activations(
        model, small_task(capability, 6), sites=("cross_k", "cross_v"), pairs=2,
        directions=("denoising", "noising"), positions=("before", "last changed", "last", "all"),
        progress=False,
    ).summary()  # fmt: skip
    assert set(summary["layer"]) == set(range(layout.n_encoder_layers, layout.n_layers))
    for row in summary.itertuples():
        there = truth.recovers_by_memory(row.site[-1], int(row.layer))
        expected = there if row.pos_label in ("last", "all") else 0.0
        assert row.recovered == pytest.approx(expected, abs=1e-3), row


@pytest.mark.long(but=["knowledge"])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_capability_emerges_where_the_decoder_copies_it(capability):
    """On one axis of computation; the report says where the encoder moves it before that."""
    layout = WiredSeq2SeqLayout()
    truth, task = PlantedSeq2Seq(layout, capability), small_task(capability, 8)
    result = lw.patch_activations(small_seq2seq(layout), task, pairs=6, progress=False)
    found = emergence([result], n_resamples=200)
    assert found.left_out.empty
    depth = found.emergence.query("measure == 'half-effect depth'").set_index("axis")
    assert set(depth.index) == {"computation", "decoder"}  # no such position in the encoder
    assert depth["layer"].tolist() == pytest.approx([layout.copy.layer] * 2)
    within = layout.copy.layer - layout.n_encoder_layers
    assert depth["estimate"]["decoder"] == pytest.approx(within / (layout.n_decoder_layers - 1))
    moved = layout.name_of_layer(truth.moving_layer)
    expected = f"moves from the changed word to the prompt's last token in layer {moved} "
    copied = layout.name_of_layer(layout.copy.layer)
    taken_up = f"of what decides the answer reaches the decoder's answer in layer {copied} "
    with model_layer_names(result.facts.model):
        (over,), (up,) = hand_overs(run_tables([result])), take_ups(run_tables([result]))
    assert expected in over.short
    assert taken_up in up.short
    assert f"The layer lies in [{copied}, {copied}]" in up.full
    assert "100 [100, 100] % of the logit difference" in up.full
    assert {over.full, up.full} <= {one.full for one in findings([result])}


def test_without_a_rise_in_the_decoder_nothing_is_said_of_it():
    layout = WiredSeq2SeqLayout()
    task = small_task("retrieval", 8)
    result = lw.patch_activations(
        small_seq2seq(layout), task, positions=("last", "answer"), pairs=4, progress=False
    )
    table = result.patching
    late = table["layer"] > layout.copy.layer
    for kept in (table.loc[~late], table.loc[late]):
        part = replace(result, patching=kept.reset_index(drop=True))
        assert hand_overs(run_tables([part])) == take_ups(run_tables([part])) == []
