"""Norms, embeddings and unembeddings of one model in another, tied ones with both ends."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.analyses.shared.blocks import norms_of_block, parts_of_block
from layerwise.analyses.transplant.exchange.parts import are_tied, weights_outside
from layerwise.analyses.transplant.exchange.weights import distances, use_donor_weights
from layerwise.errors import UserError
from layerwise.models.instance.facts import weights_hash
from layerwise.models.instance.kinds import model_blocks
from layerwise.report.html import findings
from layerwise.sweep import intact, sweep
from tests.analysis import word_task
from tests.cases import few_by_day
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task
from tests.transplanting import LAYOUT, assert_answers_equal, exchange, word_requests


def perturbed_copy(model: Any) -> Any:
    """A copy all of whose weights are other ones; what is tied stays tied."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return other


NAMES = {
    ("gpt2", "embed"): ("embed.", "pos_embed.", "unembed."),  # tied
    ("gpt2", "ln_final"): ("ln_final.",),
    ("qwen3", "embed"): ("embed.",),
    ("qwen3", "unembed"): ("unembed.",),
    ("qwen3", "norms"): tuple(
        f"blocks.1.{one}." for one in ("ln1", "ln2", "attn.q_norm", "attn.k_norm")
    ),
    ("t5", "embed"): ("original.shared.",),  # tied
    ("t5", "ln_final"): ("original.encoder.final", "original.decoder.final"),
    ("t5", "rel_pos"): tuple(
        f"original.{stack}.block.0.layer.0.SelfAttention.relative"
        for stack in ("encoder", "decoder")
    ),
    ("flan-t5", "unembed"): ("original.lm_head.",),
    ("bart", "embed"): ("original.model.shared.", "original.model.encoder.embed_positions.",
                        "original.model.encoder.layernorm_embedding.",
                        "original.model.decoder.embed_positions.",
                        "original.model.decoder.layernorm_embedding."),
}  # fmt: skip
MODELS = {"gpt2": tiny_model, "qwen3": tiny_model}


def case_model(case: str) -> Any:
    return MODELS.get(case, tiny_seq2seq)(case)


@pytest.mark.parametrize(
    ("case", "site"),
    few_by_day(
        NAMES, ("gpt2", "embed"), ("qwen3", "unembed"), ("t5", "ln_final")
    ),
)  # fmt: skip
def test_answers_are_those_of_a_model_that_has_the_named_weights(case, site):
    model = case_model(case)
    other = tiny_model(case, seed=1) if case in MODELS else perturbed_copy(model)
    merged = copy.deepcopy(model)
    theirs, given = dict(other.named_parameters()), 0
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            if name.startswith(NAMES[case, site]):
                weight.copy_(theirs[name])
                given += 1
    assert given >= len(NAMES[case, site])
    asked = word_requests(model)
    (plain,) = sweep(merged, [intact()], asked, method="reference").outcomes
    named = "tied_embed" if site == "embed" and are_tied(model) else site
    before = weights_hash(model)
    with use_donor_weights(model, other, named, [1] if site == "norms" else []):
        (found,) = sweep(model, [intact()], asked).outcomes
    assert_answers_equal(found, plain)
    assert weights_hash(model) == before


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "t5", "flan-t5", "bart", "marian", "mbart"])
def test_layers_and_what_is_outside_are_all_of_a_model(case):
    model = case_model(case)
    inside = [w for b in model_blocks(model) for w in parts_of_block(model, b)["layer"]]
    outside = weights_outside(model)
    apart = [w for site, of in outside.items() if site != "tied_embed" for w in of]
    tied = case not in ("qwen3", "flan-t5")
    assert are_tied(model) == tied
    assert {id(w) for w in [*inside, *apart]} == {id(w) for w in model.parameters()}
    shared_once = len(apart) - (tied and case != "gpt2")
    assert len(inside) + shared_once == sum(1 for _ in model.parameters())
    norms = [w for b in model_blocks(model) for w in norms_of_block(model, b)]
    assert norms
    assert all(w.ndim == 1 for w in norms)


@pytest.mark.long
def test_the_unembedding_in_which_two_decoders_differ_is_found():
    whole = small_model(LAYOUT)
    broken = copy.deepcopy(whole)
    with torch.no_grad():
        broken.unembed.W_U.mul_(1e-6)
    task = small_task("knowledge")
    found = exchange(whole, broken, task, site="unembed")
    assert set(found.effects()["site"]) == {"unembed"}
    assert found.effects()["share"].eq(1).all()
    (told,) = [one.full for one in findings([found]) if one.kind == "transplant"]
    assert "lies in the unembedding." in told
    with pytest.raises(UserError, match="No layers were exchanged one by one"):
        found.plot()
    assert "Share of the gap in accuracy" not in lw.report(found).html
    embed = exchange(whole, broken, task, site="embed")
    assert embed.effects()["moved"].eq(0).all()
    (told,) = [one.full for one in findings([embed]) if one.kind == "transplant"]
    assert told.startswith("Exchanging the embeddings is not established to move the lead")


def test_tied_embeddings_go_together_and_are_called_so():
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    found = exchange(model, other, word_task(), site="embed")
    assert found.facts.settings["site"] == "tied_embed"


def test_norms_have_distances_of_their_own():
    model, other = tiny_model("qwen3"), tiny_model("qwen3", seed=1)
    rows = [row for row in distances(model, other, "norms") if row["site"] == "norms"]
    mine, theirs = (m.blocks[2] for m in (model, other))
    weights = [(b.ln1.w, b.ln2.w, b.attn.q_norm.w, b.attn.k_norm.w) for b in (mine, theirs)]
    apart, size = (
        sum(float((a - c * b).detach().square().sum()) for a, b in zip(*weights, strict=True))
        for c in (1, 0)
    )
    assert rows[2]["distance"] == pytest.approx((apart / size) ** 0.5, rel=1e-5)
