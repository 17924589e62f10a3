"""Scores of heads in both stacks and across: loops over cached patterns, and planted attention.

What is found in a wired encoder-decoder is told in ``test_ground_truth``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import processors

from layerwise.analyses.heads.api import Heads, head_scores
from layerwise.analyses.heads.scoring import RepeatedTokens
from layerwise.errors import UserError
from layerwise.models import model_facts
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.results import HeadsResult
from tests.commands import assert_refused, run
from tests.models.seq2seq.tiny import CASES, tiny_seq2seq
from tests.models.tiny import tiny_tokenizer

LENGTH = 7
OF_ENCODER = {"prefix_matching", "previous_token", "next_token", "duplicate_token"}


def bounded(case: str) -> Seq2SeqModel:
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
def cached(model: Seq2SeqModel, read: list[int], said: list[int], name: str) -> torch.Tensor:
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


@torch.inference_mode()
def added(model: Seq2SeqModel, read: list[int], said: list[int], site: str, n: int) -> np.ndarray:
    """What a decoder head adds to the next token's logit, less its mean over the sequence's.

    Each head's own output is sent through the norms behind it, at the scale of this run; between
    them nothing is added to it. Layers by heads.
    """
    _, cache = model.run_with_cache(torch.tensor([read]), torch.tensor([said]))
    stack, post = model.parts.decoder, model.cfg.post_norm
    name = {"z": "attn", "cross_z": "cross_attn"}[site]
    order = [("attn", "resid_pre"), ("cross_attn", "resid_mid"), ("mlp", "resid_mid_cross")]
    outs = {"attn": "attn_out", "cross_attn": "cross_attn_out", "mlp": "mlp_out"}
    norms = {"attn": "attn_norm", "cross_attn": "cross_norm", "mlp": "mlp_norm"}
    sublayers = [(layer, *pair) for layer in range(model.cfg.n_decoder_layers) for pair in order]
    values = np.zeros((model.cfg.n_decoder_layers, model.cfg.decoder_heads))
    queries = range(len(said) - n, len(said) - 1)

    def sent(part: torch.Tensor, norm: torch.nn.Module, entered: torch.Tensor) -> torch.Tensor:
        if isinstance(norm, torch.nn.Identity):
            return part
        if isinstance(norm, torch.nn.LayerNorm):
            spread = (entered.var(unbiased=False) + norm.eps).sqrt()
            return (part - part.mean()) / spread * norm.weight
        return part / (entered.pow(2).mean() + norm.variance_epsilon).sqrt() * norm.weight

    for at, (layer, sublayer, _) in enumerate(sublayers):
        if sublayer != name:
            continue
        attention = getattr(stack.blocks[layer], name)
        for head in range(model.cfg.decoder_heads):
            for query in queries:
                z = cache[f"decoder.blocks.{layer}.{name}.hook_z"][0, query, head]
                columns = slice(head * len(z), (head + 1) * len(z))
                part = attention.out.weight[:, columns] @ z
                for number, kind, before in sublayers[at:] if post else []:
                    block = f"decoder.blocks.{number}"
                    entered = cache[f"{block}.hook_{before}"] + cache[f"{block}.hook_{outs[kind]}"]
                    norm = getattr(stack.blocks[number], norms[kind])
                    part = sent(part, norm, entered[0, query])
                last = cache[f"decoder.blocks.{len(stack.blocks) - 1}.hook_resid_post"][0, query]
                logits = sent(part, stack.final_norm, last) @ model.W_U
                values[layer, head] += float(logits[said[query + 1]] - logits[said[-n:]].mean())
    return values / len(queries)


# By day norms before and behind, each with and without marks around the encoder's tokens, and
# another number of heads in each stack.
BY_DAY = ("t5", "flan-t5", "bart", "marian", "pegasus-scaled")


@pytest.mark.parametrize(
    "case", [case if case in BY_DAY else pytest.param(case, marks=pytest.mark.long)
             for case in CASES]
)  # fmt: skip
def test_scores_equal_loops_over_a_cache(case: str):
    model = bounded(case) if case in ("bart", "flan-t5") else tiny_seq2seq(case)
    marks = ([0], [1]) if case in ("bart", "flan-t5") else ([], [])
    begins, start = list(model.prefix), len(model.prefix)
    table = head_scores(model, sequences=2, length=LENGTH, progress=False).heads
    drawn = Heads(model, model_facts(model), 2, LENGTH, 0.4, 0).drawn()
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
            patterns = cached(model, read, said, name)
            nats = added(model, read, said, site, LENGTH) if stack else None
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


@pytest.fixture(scope="module")
def result() -> HeadsResult:
    return head_scores(tiny_seq2seq("bart-scaled"), sequences=3, length=6, threshold=0.05,
                       progress=False)  # fmt: skip


def test_rows_and_means_are_in_the_order_of_computation(result: HeadsResult):
    summary, cfg = result.summary(), tiny_seq2seq("bart-scaled").cfg
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
    given = RepeatedTokens.of(model)
    assert len(given.known) == 298
    with pytest.raises(
        UserError,
        match="and as many others for the encoder, were asked for, but "
        "the vocabulary has 298; choose a length of 149 at most",
    ):
        head_scores(model, length=150, progress=False)  # fmt: skip


def test_what_stands_around_the_input_is_the_tokenizers():
    given = RepeatedTokens.of(bounded("marian"))
    assert (given.before, given.after) == ((0,), (1,))
    assert given.read((7, 8), (9,)) == (0, 7, 8, 9, 1)
    assert given.longest == (128 - 2) // 2
    outcome = run("heads", "organism-seq2seq", "--length", 200)
    assert_refused(outcome, "of 200 different tokens, and as many others for the encoder,")
