"""Attribution of encoder-decoders: its sums, its summary, and what a trained organism writes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from analyses.organism_training.seq2seq.plan import PLANTED
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.planning.plan import plan_run
from layerwise.results import AttributionResult
from layerwise.runs.setup import prepare
from layerwise.tasks import with_other_questions
from tests import analysis
from tests.analysis import word_task
from tests.models.seq2seq.tiny import tiny_folder

TASK = word_task(5)
SUBLAYERS = ["attn_out", "cross_attn_out", "mlp_out"]


@cache
def load_case(case: str) -> Seq2SeqModel:
    model = lw.load_model(tiny_folder(case))
    assert isinstance(model, Seq2SeqModel)
    return model


@cache
def organism() -> AttributionResult:
    model = lw.load_model("organism-seq2seq")
    return lw.attribution(model, "all", "continuation", limit=24, progress=False)


def item_sums(table: pd.DataFrame, chosen: pd.Series) -> pd.Series:
    return table.loc[chosen.fillna(value=False)].groupby(["item", "metric"])["value"].sum()


@pytest.mark.long(but=["t5", "bart-scaled"])
@pytest.mark.parametrize("case", ["t5", "flan-t5", "bart-scaled", "marian"])
def test_the_sums_that_the_documentation_tells(case):
    model = load_case(case)
    result = lw.attribution(model, TASK, "continuation", progress=False)
    table, n_encoder = result.attribution, model.cfg.n_encoder_layers
    assert list(table.columns) == analysis.documented_columns("attribution.parquet")
    assert result.facts.work[0]["largest_gap"] < 1e-4
    name, place = table["component"], table["layer"]
    total = item_sums(table, name == "total")
    of_decoder = name.isin([*SUBLAYERS, "norm_bias"]) & (place >= n_encoder)
    own = ["embedding", "norm_bias", "unembed_bias", "entropy"]
    whole = item_sums(table, of_decoder | (name.isin(own) & place.isna()))
    np.testing.assert_allclose(whole, total, atol=1e-4)
    of_encoder = name.isin([*SUBLAYERS, "norm_bias"]) & (place < n_encoder)
    way = ["encoder_embedding", "encoder_norm_bias", "cross_attn_bias", "cross_v_bias"]
    through = item_sums(table, of_encoder | name.isin(way))
    np.testing.assert_allclose(through, item_sums(table, name == "cross_attn_out"), atol=1e-4)
    # The total is the plain model's own.
    setup = prepare(model, TASK, "continuation")
    for item in TASK.items:
        asked = setup.requests(TASK, item, "continuation")
        (gold,) = [one.request for one in asked if one.gold]
        others = [one.request.continuation[0] for one in asked if not one.gold]
        with torch.inference_mode():
            logits = model(torch.tensor([gold.context]))[0, -1].double()
        answer = gold.continuation[0]
        difference = float(logits[answer] - logits[others].mean())
        assert total[item.id, "logit_diff"] == pytest.approx(difference, abs=1e-4)
        logprob = float(logits.log_softmax(-1)[answer])
        assert total[item.id, "logprob"] == pytest.approx(logprob, abs=1e-4)


@pytest.mark.parametrize("case", ["t5", "bart-scaled"])
def test_layers_and_heads_have_the_numbers_of_the_order_of_computation(case):
    model = load_case(case)
    table = lw.attribution(model, TASK, "continuation", limit=1, progress=False).attribution
    cfg = model.cfg
    every, decoder = range(cfg.n_layers), range(cfg.n_encoder_layers, cfg.n_layers)
    table = table.loc[table["metric"] == "logit_diff"]
    for component, layers in [("attn_out", every), ("mlp_out", every), ("attn_bias", every),
                              ("cross_attn_out", decoder), ("cross_attn_bias", decoder),
                              ("cross_v_bias", decoder)]:  # fmt: skip
        assert table.loc[table["component"] == component, "layer"].tolist() == [*layers]
    for component, layers in (("z", every), ("cross_z", decoder)):
        mine = table.loc[table["component"] == component]
        expected = [
            (layer, head) for layer in layers for head in range(cfg.n_heads_in_layer(layer))
        ]
        assert [*zip(mine["layer"], mine["head"], strict=True)] == expected
    norms = table.loc[table["component"] == "norm_bias", "layer"]
    assert norms.dropna().tolist() == ([*every] if cfg.post_norm else [])
    assert norms.isna().sum() == 1


@pytest.mark.long
def test_layers_of_the_summary_have_cross_attention():
    result = organism()
    summary, table = result.summary(), result.attribution
    layers = summary.query("metric == 'logit_diff' and component == 'layer'")
    both = table[table["component"].isin(SUBLAYERS) & (table["metric"] == "logit_diff")]
    by_item = both.groupby(["task", "layer", "item"])["value"].sum()
    expected = by_item.groupby(["task", "layer"]).mean()
    found = layers.set_index(["task", "layer"])["value"]
    np.testing.assert_allclose(found, expected.loc[found.index])
    heads = summary.query("component == 'cross_z'")
    assert heads["layer"].min() == result.facts.model.n_encoder_layers
    assert heads["p_adjusted"].notna().all()


@pytest.mark.long
@pytest.mark.parametrize("capability", PLANTED)
def test_the_planted_layers_of_the_trained_organism_write_what_is_said(capability):
    """In the encoder the last one that the capability needs, by way of cross-attention."""
    result = organism()
    n_encoder, summary = result.facts.model.n_encoder_layers, result.summary()
    mine = summary[(summary["capability"] == capability) & (summary["metric"] == "logit_diff")]
    layers = mine[mine["component"] == "layer"].set_index("layer")
    of_encoder = [layer for layer in PLANTED[capability] if layer < n_encoder]
    written, read = layers[layers.index >= n_encoder], layers[layers.index < n_encoder]
    assert written["value"].idxmax() == PLANTED[capability][-1]
    assert read["value"].idxmax() == of_encoder[-1]
    assert read.loc[of_encoder[-1], "significant"]
    parts = mine[mine["component"].isin(SUBLAYERS) & (mine["layer"] >= n_encoder)]
    assert parts.loc[parts["value"].idxmax(), "component"] == "cross_attn_out"


def test_progress_towards_the_answer_begins_with_the_decoder():
    result = organism()
    found = lw.emergence([result], n_resamples=100).emergence
    half = found.query("measure == 'half-effect depth' and axis == 'computation'")
    assert len(half) == 4
    assert (half["layer"] > result.facts.model.n_encoder_layers - 1).all()


def test_a_plan_counts_the_prompts_that_are_read():
    model = load_case("t5")
    plan = plan_run(
        model, TASK, "continuation", analysis="profile", also="attribution", exhaustive=True
    )
    (row,) = [row for row in plan.rows if row.analysis == "attribution"]
    setup, cfg = prepare(model, TASK, "continuation"), model.cfg
    others = with_other_questions(TASK, TASK.items, n=1)
    own, blind = (
        [setup.requests(TASK, item, "continuation")[0].request.context for item in items]
        for items in (TASK.items, [found[0] for found in others.values() if found])
    )
    asked = [*own, *set(blind)]  # a prompt of several requests is read once
    assert len(set(blind)) > 1
    passes = sum(map(len, asked)) * cfg.n_encoder_layers + len(asked) * cfg.n_decoder_layers
    assert row.cost.token_passes == passes
