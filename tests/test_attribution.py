"""Attribution of tasks' answers: sums, questions, signal, and what a run leaves behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control, ttest_1samp
from statsmodels.stats.multitest import multipletests

from layerwise.analyses.attribution.api import Attribution, attribution
from layerwise.analyses.shared.decompose import decoder
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.results import AttributionResult
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.progress import LineMeter
from layerwise.runs.setup import prepare
from layerwise.tasks import Item, build_requests
from tests import analysis
from tests.analysis import word_task
from tests.models.decoder.tiny import tiny_decoder
from tests.models.real import smollm2
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.test_logit_lens import handmade

TASK = word_task(5)
WHOLE = ["embedding", "attn_out", "mlp_out", "norm_bias", "unembed_bias", "entropy"]


def attribute(model, task=TASK, protocols="continuation", **options) -> pd.DataFrame:
    return attribution(model, task, protocols, progress=False, **options).attribution


def first_tokens(model, item: Item) -> tuple[tuple[int, ...], int, list[int]]:
    """The prompt, the answer's first token, and those of the other choices."""
    asked = build_requests(TASK, item, "continuation", original_tokenizer(model))
    (gold,) = [one.request for one in asked if one.gold]
    others = [one.request.continuation[0] for one in asked if not one.gold]
    return gold.context, gold.continuation[0], others


@torch.inference_mode()
def final_logits(model, context) -> torch.Tensor:
    return model(torch.tensor([context]))[0, -1].double()


def sums(table: pd.DataFrame, components: list[str], *by: str) -> pd.Series:
    return table[table["component"].isin(components)].groupby(["item", *by])["value"].sum()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "soft-cap"])
def test_parts_sum_to_the_plain_models_difference_and_log_probability(family):
    model = handmade(tiny_tokenizer()) if family == "soft-cap" else tiny_model(family)
    table = attribute(model)
    assert list(table.columns) == analysis.documented_columns("attribution.parquet")
    summed = sums(table, WHOLE, "metric")
    total = sums(table, ["total"], "metric")
    np.testing.assert_allclose(summed, total, atol=1e-4)
    for item in TASK.items:
        context, answer, others = first_tokens(model, item)
        logits = final_logits(model, context)
        difference = float(logits[answer] - logits[others].mean())
        assert total[item.id, "logit_diff"] == pytest.approx(difference, abs=1e-4)
        logprobs = logits.log_softmax(-1)
        assert total[item.id, "logprob"] == pytest.approx(float(logprobs[answer]), abs=1e-4)
        entropy = float(-(logprobs.exp() * logprobs).sum())
        (remainder,) = table.query("item == @item.id and component == 'entropy'").itertuples()
        assert remainder.metric == "logprob"
        assert remainder.value == pytest.approx(-entropy, abs=1e-5)
    attention = sums(table, ["attn_out"], "metric", "layer")
    np.testing.assert_allclose(
        sums(table, ["z", "attn_bias"], "metric", "layer"), attention, atol=1e-4
    )
    n_parts = model.cfg.n_layers * (3 + model.cfg.n_heads)
    assert (table.groupby(["item", "metric"]).size().unstack() == [n_parts + 4, n_parts + 5]).all(
        axis=None
    )


def test_the_best_distractor_alone():
    model = tiny_model("llama")
    total = sums(attribute(model, against="best"), ["total"], "metric")
    for item in TASK.items:
        context, answer, others = first_tokens(model, item)
        logits = final_logits(model, context)
        expected = float(logits[answer] - logits[others].max())
        assert total[item.id, "logit_diff"] == pytest.approx(expected, abs=1e-4)


def test_answers_without_distractors_have_no_difference():
    bare = replace(TASK, items=tuple(replace(item, choices=()) for item in TASK.items))
    model = tiny_model("llama")
    found, known = attribute(model, bare), attribute(model)
    assert set(found["metric"]) == {"logprob"}
    known = known[known["metric"] == "logprob"].reset_index(drop=True)
    columns = ["correct", "chance", "blind"]
    pd.testing.assert_frame_equal(found.drop(columns=columns), known.drop(columns=columns))
    assert (found["chance"] == 1 / model.cfg.d_vocab).all()
    for item in TASK.items:
        context, answer, _ = first_tokens(model, item)
        best = int(final_logits(model, context).argmax()) == answer
        assert (found.loc[found["item"] == item.id, "correct"] == best).all()


def test_right_is_that_the_answers_first_token_is_above_the_others():
    model = tiny_model("llama")
    seen = attribute(model, word_task(12)).drop_duplicates("item").set_index("item")
    right = []
    for item in word_task(12).items:
        context, answer, others = first_tokens(model, item)
        logits = final_logits(model, context)
        right.append(bool(logits[answer] > logits[others].max()))
        assert seen.loc[item.id, "correct"] == right[-1]
    assert set(right) == {True, False}
    assert (seen["chance"] == 1 / 3).all()


def test_items_are_read_in_order_whatever_the_budget(monkeypatch):
    model, task = tiny_model("gpt2"), word_task(9)
    whole = attribute(model, task)
    monkeypatch.setattr("layerwise.analyses.attribution.api._AT_ONCE", 2)
    pieces = attribute(model, task)
    np.testing.assert_allclose(pieces["value"], whole["value"], atol=1e-5)
    pd.testing.assert_frame_equal(pieces.drop(columns="value"), whole.drop(columns="value"))


@pytest.fixture(scope="module")
def solved_attribution() -> AttributionResult:
    model = tiny_model("llama")
    task = word_task(12)
    items = tuple(replace(item, answer=preferred_choice(model, item)) for item in task.items)
    return attribution(
        model, replace(task, items=items), "continuation", progress=False, against="best"
    )


def preferred_choice(model, item: Item) -> str:
    """The choice whose first token the model finds likeliest."""
    answered = [replace(item, answer=choice) for choice in item.choices]
    read = [first_tokens(model, one) for one in answered]
    logits = [float(final_logits(model, context)[answer]) for context, answer, _ in read]
    return item.choices[int(np.argmax(logits))]


def test_summary_has_means_intervals_and_corrected_tests(solved_attribution):
    table, summary = solved_attribution.attribution, solved_attribution.summary()
    assert list(summary.columns) == analysis.documented_columns("attribution_summary.parquet")
    for metric in ("logit_diff", "logprob"):
        mine = summary[summary["metric"] == metric]
        heads = mine[mine["component"] == "z"]
        wide = table[(table["metric"] == metric) & (table["component"] == "z")].pivot(
            index="item", columns=["layer", "head"], values="value"
        )
        np.testing.assert_allclose(heads["value"], wide.mean())
        p = ttest_1samp(wide.to_numpy(dtype=float), 0).pvalue
        np.testing.assert_allclose(heads["p"].to_numpy(dtype=float), p)
        np.testing.assert_allclose(
            heads["p_adjusted"].to_numpy(dtype=float), false_discovery_control(p)
        )
        layers = mine[mine["component"] == "layer"]
        both = table[table["component"].isin(["attn_out", "mlp_out"])]
        both = both[both["metric"] == metric].groupby(["layer", "item"])["value"].sum()
        np.testing.assert_allclose(layers["value"], both.groupby("layer").mean())
        holm = multipletests(layers["p"].to_numpy(dtype=float), method="holm")[1]
        np.testing.assert_allclose(layers["p_adjusted"].to_numpy(dtype=float), holm)
    assert (summary["low"] <= summary["value"]).all()
    assert (summary["value"] <= summary["high"]).all()
    assert summary[["p", "p_adjusted"]][summary["component"] == "embedding"].isna().all(axis=None)
    assert summary["signal"].all()
    tested = summary["p_adjusted"].notna()
    expected = (summary["p_adjusted"] < 0.05) & tested
    assert (summary["significant"] == expected).all()
    assert summary["significant"].any()


def test_rows_in_another_order_are_the_same_result(solved_attribution):
    mixed = AttributionResult(
        solved_attribution.attribution.sample(frac=1, random_state=0), solved_attribution.facts
    )
    keys = ["metric", "component", "layer", "head"]
    one, other = (
        r.summary().sort_values(keys, ignore_index=True) for r in (solved_attribution, mixed)
    )
    pd.testing.assert_frame_equal(one, other)


def test_without_signal_nothing_is_significant(solved_attribution):
    """The very contributions that are significant above say nothing if answers are guesses."""
    table = solved_attribution.attribution.assign(
        correct=solved_attribution.attribution["item"].str[-1].astype(int) % 3 == 0
    )
    silent = AttributionResult(table, solved_attribution.facts)
    assert not silent.summary()["signal"].any()
    assert not silent.summary()["significant"].any()
    assert not len(silent.summary_rows())
    assert len(solved_attribution.summary_rows()) == 5
    with pytest.raises(UserError, match="There is nothing to draw"):
        silent.plot()


def test_shuffled_answers_are_rarely_credited_to_any_head():
    """Answers that are drawn among the choices have a mean difference of 0 in every part."""
    model = tiny_model("llama")
    task = word_task(60)
    table = attribute(model, task)
    few = replace(task, items=task.items[:1])
    facts = attribution(model, few, "continuation", progress=False).facts
    false = AttributionResult(table.assign(correct=True), facts)
    summary = false.summary()
    chosen = summary[(summary["metric"] == "logit_diff") & (summary["component"] == "z")]
    assert len(chosen) == 12
    assert not chosen["significant"].any()


ALIKE = Item(id="alike", question="which is", answer="open", choices=("key", "open", "one"))


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        (replace(TASK, items=(ALIKE,)), {}, "every answer begins with the same token as another"),
        (TASK, {"protocols": "letter"}, "under protocol 'letter' every answer begins with the"),
    ],
)
def test_what_cannot_be_read_is_told_before_work_begins(tmp_path, task, options, sentence):
    with pytest.raises(UserError, match=sentence):
        attribute(tiny_model("llama"), task, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_answers_that_begin_alike_are_left_out_and_counted():
    some = replace(TASK, items=(*TASK.items, ALIKE))
    none = replace(TASK, name="alike", items=(ALIKE,))
    job = Attribution(prepare(tiny_model("llama"), [some, none], "continuation"), strict=False)
    result = job.run(CheckpointStore(), {}, LineMeter(lambda line: None))
    assert sorted(set(result.attribution["item"])) == [item.id for item in TASK.items]
    assert result.facts.work[0]["left_out"] == 1
    assert result.notes()[:2] == [
        f"Direct logit attribution leaves out {share} when it chooses, as the answer and another "
        "choice begin with the same token: alike."
        for share in ("1 of 6 items of words", "1 of 1 items of alike")
    ]


@pytest.mark.long
@pytest.mark.smollm2
def test_parts_sum_to_the_real_models_answers():
    result = attribution(smollm2(), "facts", "continuation", limit=1, progress=False)
    assert result.facts.work[0]["largest_gap"] < 1e-4
    table = result.attribution
    np.testing.assert_allclose(
        sums(table, WHOLE, "metric"), sums(table, ["total"], "metric"), atol=1e-4
    )


@pytest.mark.parametrize("case", ["gemma 2", "cohere"])
def test_the_unembedding_is_scaled_once_for_all_tokens(case, monkeypatch):
    """A scaled copy of it for each part of a large vocabulary took most of the time."""
    model = tiny_decoder(case)
    unembedding, reads = model.W_U, []
    monkeypatch.setattr(type(model), "W_U", property(lambda _: reads.append(1) or unembedding))
    monkeypatch.setattr(decoder, "_COLUMNS", 50)
    pulls = torch.randn(1, 2, unembedding.shape[1], generator=torch.Generator().manual_seed(0))
    direction = decoder._pull_through_unembedding(model, pulls.double())
    assert torch.allclose(direction, pulls.double() @ unembedding.double().T)
    assert len(reads) == 1
    weight = model.parts.unembed.weight
    assert (unembedding.data_ptr() == weight.data_ptr()) == (model.parts.logit_scale == 1.0)
