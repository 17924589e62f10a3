"""Scores of heads against loops over cached patterns, and on a model made to be known.

What is found in a wired encoder-decoder is told in ``test_ground_truth``.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tokenizers import processors

from layerwise.analyses.heads.api import Heads, head_scores
from layerwise.analyses.heads.scoring import (
    RepeatedSequence,
    RepeatedTokens,
    head_scores_of_sequence,
)
from layerwise.errors import UserError
from layerwise.models import model_facts
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.results import HeadsResult
from tests import analysis
from tests.commands import assert_refused, run
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.seq2seq.tiny import CASES, tiny_seq2seq
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.test_direct_two_stacks import HeldRun, wrote

SCORES = ["prefix_matching", "previous_token", "duplicate_token", "induction"]
OF_ENCODER = {"prefix_matching", "previous_token", "next_token", "duplicate_token"}
WORDS, LENGTH = 40, 7


def wired_induction_model() -> HookedTransformer:
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
    model, (before, *once) = wired_induction_model(), drawn
    given = RepeatedTokens((before,), (), (), (), seq2seq=False, n_ctx=model.cfg.n_ctx)
    (scored,) = head_scores_of_sequence(model, given, RepeatedSequence(tuple(once)))
    found = scored.scores
    matching = np.array([[0, 0], [1, 0]])
    np.testing.assert_allclose(found["prefix_matching"][1, 0], 1, atol=1e-5)
    assert (found["prefix_matching"][matching == 0] < 0.05).all()
    np.testing.assert_allclose(found["previous_token"][0, 1], 1, atol=1e-5)
    assert (found["previous_token"][[0, 1, 1], [0, 0, 1]] < 0.1).all()
    # It writes 3 to the right token of 30, and 3 x 1/30 is the mean over all.
    np.testing.assert_allclose(found["induction"], matching * 3 * (1 - 1 / 30), atol=1e-4)


def model_with_affixes(case: str) -> Seq2SeqModel:
    """A tiny model whose tokenizer puts a token before every input and one after it."""
    model = tiny_seq2seq(case)
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model.tokenizer = tokenizer
    model.prefix = (*model.prefix, 5)
    return model


@torch.inference_mode()
def pattern_of_run(
    model: Seq2SeqModel, read: list[int], said: list[int], name: str
) -> torch.Tensor:
    """A pattern of one run, layers by heads by queries by keys."""
    _, cache = model.run_with_cache(torch.tensor([read]), torch.tensor([said]))
    stack, within = name.split(" ")
    n_layers = {"encoder": model.cfg.n_encoder_layers, "decoder": model.cfg.n_decoder_layers}[stack]
    return torch.stack(
        [cache[f"{stack}.blocks.{layer}.{within}.hook_pattern"][0] for layer in range(n_layers)]
    )


def mean(pattern: torch.Tensor, pairs: list[tuple[int, int]]) -> float:
    return float(np.mean([float(pattern[query, key]) for query, key in pairs]))


def of_encoder(pattern: torch.Tensor, start: int, n: int) -> dict[str, float]:
    other = {start + i: start + n + i for i in range(n - 1)}
    other |= {second: first for first, second in other.items()}
    every = range(start, start + 2 * n)
    return {
        "prefix_matching": mean(pattern, [(q, k + 1) for q, k in other.items()]),
        "duplicate_token": mean(pattern, [(q, k) for q, k in other.items()]),
        "previous_token": mean(pattern, [(q, q - 1) for q in every if q > start]),
        "next_token": mean(pattern, [(q, q + 1) for q in every if q + 1 in every]),
    }


def of_decoder(pattern: torch.Tensor, start: int, n: int) -> dict[str, float]:
    second = range(start + n, start + 2 * n - 1)
    return {
        "prefix_matching": mean(pattern, [(q, q - n + 1) for q in second]),
        "duplicate_token": mean(pattern, [(q, q - n) for q in second]),
        "previous_token": mean(pattern, [(q, q - 1) for q in range(start + 1, start + 2 * n)]),
    }


def of_cross(pattern: torch.Tensor, start: int, read_start: int, n: int) -> dict[str, float]:
    return {
        "prefix_matching": mean(pattern, [(start + i, read_start + i + 1) for i in range(n - 1)]),
        "duplicate_token": mean(pattern, [(start + i, read_start + i) for i in range(n - 1)]),
    }


@pytest.mark.hooked_transformer
@pytest.mark.parametrize(("family", "bos"), [("gpt2", False), ("llama", True), ("gpt_neox", False)])
def test_scores_of_a_decoder_equal_loops_over_a_cache(family, bos):
    model, start = tiny_model(family, bos=bos), int(bos)
    result = head_scores(model, sequences=2, length=12, progress=False)
    table = result.heads.set_index(["sequence", "layer", "head"])
    assert list(result.heads.columns) == analysis.documented_columns("heads.parquet")
    job = Heads(model, model_facts(model), 2, 12, 0.4, 0)
    for number, drawn in enumerate(job.drawn_sequences()):
        tokens = job.token_format.as_prompt(drawn.once, drawn.once)
        assert tokens[start : start + 12] == tokens[start + 12 :]
        assert len(set(tokens[start:])) == 12
        with torch.inference_mode():
            _, cache = model.run_with_cache(torch.tensor([tokens]))
        for layer in range(model.cfg.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
            for head in range(model.cfg.n_heads):
                row = table.loc[(number, layer, head)]
                for name, expected in of_decoder(pattern[head], start, 12).items():
                    assert row[name] == pytest.approx(expected, abs=1e-5), name
                expected = head_logit_gain(model, cache, tokens, layer, head, 12)
                assert row["induction"] == pytest.approx(expected, abs=1e-4)


@torch.inference_mode()
def head_logit_gain(model, cache, tokens, layer: int, head: int, length: int) -> float:
    """Part of a head in the next token's logit, less its mean over the sequence's tokens."""
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


@torch.inference_mode()
def decoder_head_logit_gain(
    model: Seq2SeqModel, read: list[int], said: list[int], site: str, n: int
) -> np.ndarray:
    """Part of a decoder head in the next token's logit, less its mean over the sequence's."""
    run = HeldRun(model, read, said, slice(len(said) - n, -1))
    sublayer, name = {"z": (0, "attn"), "cross_z": (1, "cross_attn")}[site]
    values = np.zeros((model.cfg.n_decoder_layers, model.cfg.decoder_heads))
    for layer, head in np.ndindex(values.shape):
        attention = getattr(model.parts.decoder.blocks[layer], name)
        part = wrote(attention, run.stream_at("decoder", layer, f"{name}.hook_z"), head)
        logits = run.part_logits(run.carry_to_stack_end("decoder", part, layer, sublayer))
        right = logits[range(n - 1), said[-n + 1 :]]
        values[layer, head] = float((right - logits[:, said[-n:]].mean(-1)).mean())
    return values


# By day norms before and behind, each with and without marks around the encoder's tokens, and
# another number of heads in each stack.
BY_DAY = ("t5", "flan-t5", "bart", "marian", "pegasus-scaled")


@pytest.mark.long(but=["t5", "bart"])
@pytest.mark.parametrize(
    "case", [case if case in BY_DAY else pytest.param(case, marks=pytest.mark.long)
             for case in CASES]
)  # fmt: skip
def test_scores_of_two_stacks_equal_loops_over_a_cache(case: str):
    model = model_with_affixes(case) if case in ("bart", "flan-t5") else tiny_seq2seq(case)
    marks = ([0], [1]) if case in ("bart", "flan-t5") else ([], [])
    begins, start = list(model.prefix), len(model.prefix)
    table = head_scores(model, sequences=2, length=LENGTH, progress=False).heads
    drawn = Heads(model, model_facts(model), 2, LENGTH, 0.4, 0).drawn_sequences()
    key = ["sequence", "site", "layer", "head"]
    found, checked = table.set_index(key), 0
    for number, one in enumerate(drawn):
        once, others = list(one.once), list(one.others)
        assert len(set(once + others)) == 2 * LENGTH
        assert not set(once + others) & {0, 1}
        before, after = marks
        runs = {
            ("z", 0): ([*before, *once, *once, *after], begins, "encoder attn"),
            ("z", 1): ([*before, *others, *after], [*begins, *once, *once], "decoder attn"),
            ("cross_z", 1): ([*before, *once, *after], [*begins, *once], "decoder cross_attn"),
        }
        for (site, stack), (read, said, name) in runs.items():
            patterns = pattern_of_run(model, read, said, name)
            nats = decoder_head_logit_gain(model, read, said, site, LENGTH) if stack else None
            for layer, heads in enumerate(patterns):
                for head, pattern in enumerate(heads):
                    expected = (
                        of_cross(pattern, start, len(before), LENGTH) if site == "cross_z"
                        else of_decoder(pattern, start, LENGTH) if stack
                        else of_encoder(pattern, len(before), LENGTH)
                    )  # fmt: skip
                    first = stack * model.cfg.n_encoder_layers
                    row = found.loc[(number, site, first + layer, head)]
                    for score in OF_ENCODER:
                        wanted = expected.get(score, np.nan)
                        assert row[score] == pytest.approx(wanted, abs=1e-6, nan_ok=True)
                    wanted = np.nan if nats is None else nats[layer, head]
                    assert row["induction"] == pytest.approx(wanted, abs=1e-4, nan_ok=True)
                    checked += 1
    assert checked == len(table)
    assert table["induction"].abs().max() > 1e-2


def test_rows_and_means_are_in_the_order_of_computation():
    model = tiny_seq2seq("bart-scaled")
    result = head_scores(model, sequences=3, length=6, threshold=0.05, progress=False)
    summary, cfg = result.summary(), model.cfg
    places = list(zip(summary["layer"], summary["site"], summary["head"], strict=True))
    expected = [(n, "z", head) for n in range(2) for head in range(cfg.encoder_heads)]
    expected += [
        (n, site, head)
        for n in range(2, 4) for site in ("z", "cross_z") for head in range(cfg.decoder_heads)
    ]  # fmt: skip
    assert places == expected
    means = result.heads.groupby(["layer", "site", "head"])[sorted(OF_ENCODER)].mean()
    found = summary.set_index(["layer", "site", "head"])[sorted(OF_ENCODER)]
    np.testing.assert_allclose(found.sort_index(), means.sort_index())
    for score in OF_ENCODER:
        null = summary[score].isna()
        assert (summary[f"{score}_low"].isna() == null).all()
        assert (summary[f"{score}_high"].isna() == null).all()
        shown = summary.loc[~null]
        assert shown[score].between(shown[f"{score}_low"] - 1e-12, 1).all()
    assert summary["next_token"].notna().tolist() == [layer < 2 for layer, _, _ in places]
    assert summary["induction"].notna().tolist() == [layer >= 2 for layer, _, _ in places]
    assert summary["previous_token"].notna().tolist() == [site == "z" for _, site, _ in places]
    assert {layer for layer, _ in result.induction_heads()} <= set(range(4))


def test_a_vocabulary_that_has_no_others_for_the_encoder_is_too_small():
    model = tiny_seq2seq("t5")
    assert len(RepeatedTokens.for_model(model).known) == 298
    message = "and as many others for the encoder, were asked for; expected 2 to 149: .* has 298"
    with pytest.raises(UserError, match=message):
        head_scores(model, length=150, progress=False)


def test_what_stands_around_the_input_is_the_tokenizers():
    given = RepeatedTokens.for_model(model_with_affixes("marian"))
    assert (given.before, given.after) == ((0,), (1,))
    assert given.as_prompt((7, 8), (9,)) == (0, 7, 8, 9, 1)
    assert given.longest == (128 - 2) // 2
    outcome = run("heads", "organism-seq2seq", "--length", 200)
    assert_refused(outcome, "of 200 different tokens, and as many others for the encoder,")


def test_summary_is_the_mean_over_sequences():
    model = tiny_model("gpt2")
    result = head_scores(model, sequences=4, length=10, threshold=0.0, progress=False)
    summary = result.summary()
    assert list(summary.columns) == analysis.documented_columns("heads_summary.parquet")
    expected = result.heads.groupby(["layer", "head"])[SCORES].mean().reset_index()
    np.testing.assert_allclose(summary[SCORES], expected[SCORES])
    for score in SCORES:
        assert (summary[f"{score}_low"] <= summary[score] + 1e-12).all()
        assert (summary[score] <= summary[f"{score}_high"] + 1e-12).all()
    assert summary["induction_head"].all()  # attention to any token is above 0
    assert len(result.induction_heads()) == 12
    settings = result.facts.settings | {"threshold": 0.9}
    strict = HeadsResult(result.heads, result.facts.model_copy(update={"settings": settings}))
    assert strict.induction_heads() == []
