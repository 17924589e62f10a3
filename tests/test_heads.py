"""Scores of heads against loops over cached patterns, and on a model made to be known."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from layerwise.analyses.heads.api import Heads, head_scores
from layerwise.analyses.heads.scoring import RepeatedSequence, RepeatedTokens, scores_of
from layerwise.models import model_facts
from layerwise.results import HeadsResult
from tests import analysis
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.tiny import tiny_model

SCORES = ["prefix_matching", "previous_token", "duplicate_token", "induction"]
WORDS = 40


def wired() -> HookedTransformer:
    """Head 0.1 attends to the token before; head 1.0 is an induction head; the rest is nothing.

    Positions, tokens, and what head 0.1 writes are one-hot in sub-spaces of their own. What head
    1.0 writes is the token that it attends to, in the sub-space of tokens, which is unembedded.
    """
    n_ctx = 2 * WORDS + 1
    config = HookedTransformerConfig(
        n_layers=2, d_model=2 * WORDS + n_ctx, n_ctx=n_ctx, d_head=n_ctx, n_heads=2,
        d_vocab=WORDS, attn_only=True, normalization_type=None, act_fn=None, device="cpu",
        positional_embedding_type="standard", use_attn_scale=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(config).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    token, before, at = slice(0, WORDS), slice(WORDS, 2 * WORDS), slice(2 * WORDS, None)
    model.embed.W_E.data[:, token] = torch.eye(WORDS)
    model.pos_embed.W_pos.data[:, at] = torch.eye(n_ctx)
    model.unembed.W_U.data[token] = torch.eye(WORDS)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    first.W_Q.data[1, at] = 100 * torch.eye(n_ctx)
    first.W_K.data[1, at] = torch.eye(n_ctx).roll(1, dims=1)  # position p is looked for by p + 1
    first.W_V.data[1, token, :WORDS] = torch.eye(WORDS)
    first.W_O.data[1, :WORDS, before] = torch.eye(WORDS)
    second.W_Q.data[0, token, :WORDS] = 100 * torch.eye(WORDS)
    second.W_K.data[0, before, :WORDS] = torch.eye(WORDS)
    second.W_V.data[0, token, :WORDS] = torch.eye(WORDS)
    second.W_O.data[0, :WORDS, token] = 3 * torch.eye(WORDS)
    return model


def test_a_head_that_is_made_to_be_one_is_found_and_no_other():
    drawn = np.random.default_rng(0).permutation(WORDS)[:31].tolist()
    model, (before, *once) = wired(), drawn
    given = RepeatedTokens((before,), (), (), (), seq2seq=False, n_ctx=model.cfg.n_ctx)
    (scored,) = scores_of(model, given, RepeatedSequence(tuple(once)))
    found = scored.scores
    matching = np.array([[0, 0], [1, 0]])
    np.testing.assert_allclose(found["prefix_matching"][1, 0], 1, atol=1e-5)
    assert (found["prefix_matching"][matching == 0] < 0.05).all()
    np.testing.assert_allclose(found["previous_token"][0, 1], 1, atol=1e-5)
    assert (found["previous_token"][[0, 1, 1], [0, 0, 1]] < 0.1).all()
    # It writes 3 to the right token of 30, and 3 x 1/30 is the mean over all.
    np.testing.assert_allclose(found["induction"], matching * 3 * (1 - 1 / 30), atol=1e-4)


@pytest.mark.hooked_transformer
@pytest.mark.parametrize(("family", "bos"), [("gpt2", False), ("llama", True), ("gpt_neox", False)])
def test_scores_equal_loops_over_a_cache(family, bos):
    model = tiny_model(family, bos=bos)
    result = head_scores(model, sequences=2, length=12, progress=False)
    table = result.heads.set_index(["sequence", "layer", "head"])
    assert list(result.heads.columns) == analysis.documented_columns("heads.parquet")
    job = Heads(model, model_facts(model), 2, 12, 0.4, 0)
    for number, drawn in enumerate(job.drawn()):
        tokens = job.given.read(drawn.once, drawn.once)
        start = 1 if bos else 0
        assert tokens[start : start + 12] == tokens[start + 12 :]
        assert len(set(tokens[start:])) == 12
        with torch.inference_mode():
            _, cache = model.run_with_cache(torch.tensor([tokens]))
        for layer in range(model.cfg.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
            for head in range(model.cfg.n_heads):
                row = table.loc[(number, layer, head)]
                for name, expected in by_loops(pattern[head], start, 12).items():
                    assert row[name] == pytest.approx(expected, abs=1e-5), name
                expected = written(model, cache, tokens, layer, head, 12)
                assert row["induction"] == pytest.approx(expected, abs=1e-4)


def by_loops(pattern: torch.Tensor, start: int, length: int) -> dict[str, float]:
    matching, duplicate, previous = [], [], []
    for i in range(length - 1):
        query = start + length + i
        matching.append(float(pattern[query, start + i + 1]))
        duplicate.append(float(pattern[query, start + i]))
    for query in range(start + 1, start + 2 * length):
        previous.append(float(pattern[query, query - 1]))
    means = (np.mean(each) for each in (matching, previous, duplicate))
    return dict(zip(SCORES, means, strict=False))


@torch.inference_mode()
def written(model, cache, tokens, layer: int, head: int, length: int) -> float:
    """What a head adds to the next token's logit, less its mean over the sequence's tokens."""
    norm, found = model.ln_final, []
    for query in range(len(tokens) - length, len(tokens) - 1):
        final = cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][0, query]
        part = cache[f"blocks.{layer}.attn.hook_z"][0, query, head]
        part = part @ model.blocks[layer].attn.W_O[head]
        if model.cfg.normalization_type == "LN":
            final, part = final - final.mean(), part - part.mean()
        read = part / (final.pow(2).mean() + norm.eps).sqrt() * norm.w @ model.W_U
        found.append(float(read[tokens[query + 1]] - read[list(tokens[-length:])].mean()))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def result() -> HeadsResult:
    return head_scores(tiny_model("gpt2"), sequences=4, length=10, threshold=0.0, progress=False)


def test_summary_is_the_mean_over_sequences(result):
    summary = result.summary()
    assert list(summary.columns) == analysis.documented_columns("heads_summary.parquet")
    expected = result.heads.groupby(["layer", "head"])[SCORES].mean().reset_index()
    np.testing.assert_allclose(summary[SCORES], expected[SCORES])
    for score in SCORES:
        assert (summary[f"{score}_low"] <= summary[score] + 1e-12).all()
        assert (summary[score] <= summary[f"{score}_high"] + 1e-12).all()
    assert summary["induction_head"].all()  # attention to any token is above 0
    assert len(result.induction_heads()) == 12
    tables = dict(result.heads.items())
    strict = HeadsResult(pd.DataFrame(tables), result.facts.model_copy(
        update={"settings": result.facts.settings | {"threshold": 0.9}}))  # fmt: skip
    assert strict.induction_heads() == []
