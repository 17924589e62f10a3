"""The logit lens against norms, unembeddings and ranks worked out by hand."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from layerwise.errors import UserError
from layerwise.logit_lens import logit_lens
from layerwise.models import load_model, original_tokenizer
from layerwise.tasks import Item, build_requests
from tests import analysis
from tests.analysis import word_task
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.tasks.tokenizers import word_level

TASK = word_task(5)
CAP = 3.0
LETTERS = "ABC"


def handmade(tokenizer) -> HookedTransformer:
    """A model with a soft-cap on its logits and a final norm that stretches some directions."""
    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=128, d_head=8, n_heads=4, d_mlp=64, d_vocab=304,
        act_fn="gelu", normalization_type="RMS", positional_embedding_type="rotary",
        rotary_dim=8, output_logits_soft_cap=CAP, initializer_range=0.4, device="cpu", seed=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(config).eval()
    model.tokenizer = tokenizer
    generator = torch.Generator().manual_seed(1)
    model.ln_final.w.data = 1 + 0.4 * torch.randn(32, generator=generator)
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2", "soft-cap"])
def model(request):
    if request.param == "soft-cap":
        return handmade(tiny_tokenizer())
    return tiny_model(request.param)


def read(model, *args, **options) -> pd.DataFrame:
    return logit_lens(model, *args, progress=False, **options).lens


def gold_request(model, item: Item, protocol: str = "continuation"):
    asked = build_requests(TASK, item, protocol, original_tokenizer(model))
    return next(one.request for one in asked if one.gold)


def residuals(model, context) -> dict[int, torch.Tensor]:
    """What enters the first block (-1) and what leaves each, at the last position."""
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.tensor([context]))
    found = {-1: cache["blocks.0.hook_resid_pre"][0, -1]}
    for layer in range(model.cfg.n_layers):
        found[layer] = cache[f"blocks.{layer}.hook_resid_post"][0, -1]
    return {layer: resid.double() for layer, resid in found.items()}


def scale(model, resid: torch.Tensor) -> torch.Tensor:
    return (resid.pow(2).mean() + model.cfg.eps).sqrt()


@torch.inference_mode()
def logprobs_of(model, resid: torch.Tensor, norm=None, weight=True) -> torch.Tensor:
    """Log-probabilities by hand; ``norm`` and ``weight`` can be got wrong on purpose."""
    final = model.ln_final
    if model.cfg.normalization_type == "LN":
        resid = resid - resid.mean()
    resid = resid / (scale(model, resid) if norm is None else norm)
    resid = resid * final.w.double() if weight else resid
    resid = resid + (final.b.double() if model.cfg.normalization_type == "LN" else 0)
    logits = resid @ model.W_U.double() + model.b_U.double()
    cap = model.cfg.output_logits_soft_cap
    return (cap * torch.tanh(logits / cap) if cap > 0 else logits).log_softmax(-1)


def test_a_row_for_every_item_and_depth(model):
    lens = read(model, TASK, "continuation")
    assert list(lens.columns) == analysis.documented_columns("lens.parquet")
    expected = [(item.id, layer) for item in TASK.items for layer in range(-1, model.cfg.n_layers)]
    assert sorted(zip(lens["item"], lens["layer"], strict=True)) == sorted(expected)
    assert set(lens["protocol"]) == {"continuation"}
    assert set(lens["capability"]) == {"knowledge"}
    assert (lens["logprob"] < 0).all()
    assert (lens["kl"] >= 0).all()
    assert (lens["top_tokens"].map(len) == 5).all()


def test_the_last_layer_is_the_model_itself(model):
    lens = read(model, TASK, "continuation").set_index(["item", "layer"])
    for item in TASK.items:
        asked = gold_request(model, item)
        with torch.inference_mode():
            final = model(torch.tensor([asked.context]))[0, -1].float().log_softmax(-1)
        row = lens.loc[(item.id, model.cfg.n_layers - 1)]
        assert row["kl"] == 0
        assert row["logprob"] == pytest.approx(float(final[asked.continuation[0]]), abs=1e-5)
        assert row["rank"] == int((final > final[asked.continuation[0]]).sum())
        best = original_tokenizer(model).decode([int(final.argmax())])
        assert row["top_tokens"][0] == best
    assert (lens.loc[(slice(None), -1), "kl"] > 0.01).all()


def test_every_depth_equals_the_lens_worked_out_by_hand(model):
    lens = read(model, TASK, "continuation").set_index(["item", "layer"])
    tokenizer = original_tokenizer(model)
    for item in TASK.items[:2]:
        asked = gold_request(model, item)
        answer = asked.continuation[0]
        streams = residuals(model, asked.context)
        final = logprobs_of(model, streams[model.cfg.n_layers - 1])
        for layer, resid in streams.items():
            row, expected = lens.loc[(item.id, layer)], logprobs_of(model, resid)
            assert row["logprob"] == pytest.approx(float(expected[answer]), abs=1e-4)
            assert row["rank"] == sum(value > expected[answer] for value in expected.tolist())
            entropy = -(expected.exp() * expected).sum()
            assert row["entropy"] == pytest.approx(float(entropy), abs=1e-4)
            divergence = (final.exp() * (final - expected)).sum()
            assert row["kl"] == pytest.approx(float(divergence), abs=1e-4)
            best = expected.argsort(descending=True)[:5].tolist()
            assert list(row["top_tokens"]) == [tokenizer.decode([token]) for token in best]


def test_a_wrong_norm_would_be_seen(model):
    """A stale scale, no norm at all, or one without its weight give other numbers."""
    lens = read(model, TASK, "continuation").set_index(["item", "layer"])
    item = TASK.items[0]
    asked = gold_request(model, item)
    streams = residuals(model, asked.context)
    row, stream = lens.loc[(item.id, -1)], streams[-1]
    last = streams[model.cfg.n_layers - 1]
    if model.cfg.normalization_type == "LN":
        last = last - last.mean()
    for wrong in ({"norm": scale(model, last)}, {"norm": 1.0}, {"weight": False}):
        value = float(logprobs_of(model, stream, **wrong)[asked.continuation[0]])
        assert abs(value - row["logprob"]) > 0.01, wrong


def test_letters_are_read_where_the_tokenizer_tells_them_apart():
    model = handmade(word_level())
    lens = read(model, TASK, "letter").set_index(["item", "layer"])
    for item in TASK.items:
        letter = LETTERS[item.choices.index(item.answer)]
        asked = gold_request(model, item, "letter")
        assert original_tokenizer(model).decode(asked.continuation) == letter
        with torch.inference_mode():
            final = model(torch.tensor([asked.context]))[0, -1].log_softmax(-1)
        expected = float(final[asked.continuation[0]])
        assert lens.loc[(item.id, 1), "logprob"] == pytest.approx(expected, abs=1e-5)


def test_letters_that_begin_alike_are_refused():
    """Here the space before a letter is a token of its own, so all letters begin with it."""
    with pytest.raises(UserError) as told:
        read(tiny_model("llama"), TASK, "letter")
    assert str(told.value) == (
        "The logit lens reads an answer's first token, but in task 'words' under protocol "
        "'letter' every answer begins with the same token as another of its choices; use choices "
        "that differ in their first token, or another protocol."
    )


ALIKE = Item(id="alike", question="which is", answer="open", choices=("key", "open", "one"))


def test_answers_that_begin_alike_are_left_out_and_counted():
    task = replace(TASK, items=(*TASK.items, ALIKE))
    result = logit_lens(tiny_model("llama"), task, "continuation", progress=False)
    assert sorted(set(result.lens["item"])) == [item.id for item in TASK.items]
    (work,) = result.facts.work
    assert work["left_out"] == 1
    with pytest.raises(UserError, match="every answer begins with the same token"):
        read(tiny_model("llama"), replace(TASK, items=(ALIKE,)), "continuation")


def test_items_without_choices_are_read_under_continuation():
    bare = replace(TASK, items=tuple(replace(item, choices=()) for item in TASK.items))
    model = tiny_model("llama")
    pd.testing.assert_frame_equal(
        read(model, bare, "continuation"), read(model, TASK, "continuation")
    )
    with pytest.raises(UserError, match="has no choices, which protocol 'letter' needs"):
        read(model, bare, "letter")


def test_many_prompts_are_read_in_order():
    task = word_task(67)
    lens = read(tiny_model("gpt2"), task, "continuation").set_index(["item", "layer"])
    for index in (0, 63, 64, 66):
        asked = gold_request(tiny_model("gpt2"), task.items[index])
        stream = residuals(tiny_model("gpt2"), asked.context)[1]
        expected = logprobs_of(tiny_model("gpt2"), stream)[asked.continuation[0]]
        assert lens.loc[(task.items[index].id, 1), "logprob"] == pytest.approx(
            float(expected), abs=1e-4
        )


def test_summary_is_the_mean_over_items():
    result = logit_lens(tiny_model("llama"), TASK, "continuation", progress=False)
    summary = result.summary().set_index("layer")
    for layer in (-1, 2):
        mine = result.lens.loc[result.lens["layer"] == layer]
        assert summary.loc[layer, "logprob"] == pytest.approx(mine["logprob"].mean())
        assert summary.loc[layer, "median_rank"] == mine["rank"].median()
        low, high = summary.loc[layer, ["logprob_low", "logprob_high"]]
        assert low < summary.loc[layer, "logprob"] < high
    assert len(result.summary_rows()) == 4


def test_a_run_can_be_kept_and_is_not_made_again(tmp_path, monkeypatch):
    model = tiny_model("llama")
    first = logit_lens(model, TASK, "continuation", out=tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "lens.parquet",
        "run.json",
    ]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["tasks"][0]["hash"] == TASK.hash
    assert facts["settings"]["analysis"] == "logit lens"
    monkeypatch.setattr("layerwise.logit_lens.last_residuals", None)
    again = logit_lens(model, TASK, "continuation", out=tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(again.lens, first.lens)
    with pytest.raises(UserError, match=r"other settings \(seed was 0 and is now 1\)"):
        logit_lens(model, TASK, "continuation", seed=1, out=tmp_path / "run", progress=False)


LONG = Item(id="long", question="the key " * 300, answer="red", choices=("red", "blue"))


@pytest.mark.parametrize(
    ("task", "protocols", "sentence"),
    [
        (
            TASK,
            ["generate"],
            "The logit lens reads the prompt of 'letter' or 'continuation'; 'generate' has the "
            "prompt of 'continuation', so ask for that.",
        ),
        (TASK, [], "name at least one task and one protocol"),
        (TASK, "leter", "Unknown protocol 'leter'. Did you mean 'letter'?"),
        (replace(TASK, items=(LONG,)), "continuation", "Item 'long' of task 'words' needs "),
    ],
)
def test_what_cannot_be_read_is_told_before_work_begins(tmp_path, task, protocols, sentence):
    with pytest.raises(UserError) as told:
        read(tiny_model("llama"), task, protocols, out=tmp_path / "run")
    assert sentence in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.smollm2
def test_the_real_model_knows_more_capitals_the_deeper_it_is_read():
    lens = read(load_model("smollm2-135m"), "facts", limit=10, fewshot=3)
    assert set(lens["protocol"]) == {"letter", "continuation"}
    open_ended = lens.loc[lens["protocol"] == "continuation"]
    by_layer = open_ended.groupby("layer")["logprob"].mean()
    assert by_layer[29] > -2
    assert by_layer[29] > by_layer[15] + 2
    assert (open_ended.loc[open_ended["layer"] == 29, "rank"] == 0).mean() >= 0.5
