"""Sweeps over wired encoder-decoders: what was planted is needed and carries, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import PlantedSeq2Seq, spared
from layerwise.sweep import (
    Generate,
    Generated,
    Intervention,
    LogLikelihood,
    Scored,
    intact,
    patch,
    skip,
    sweep,
    zero,
)
from layerwise.tasks import Item
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import seq2seq_layouts, small_seq2seq

ROUNDING = 1e-5
anywhere = settings(max_examples=3, deadline=None, phases=(Phase.explicit, Phase.generate))
seeds = st.integers(0, 1000)


def ids(model, text: str) -> tuple[int, ...]:
    return tuple(model.to_tokens(text)[0].tolist())


def word(model, text: str) -> tuple[int, ...]:
    return (model.tokenizer.convert_tokens_to_ids(text),)


def asked(model, items: Sequence[Item]) -> list[LogLikelihood | Generate]:
    """Each answer scored, and each text written."""
    found: list[LogLikelihood | Generate] = []
    for item in items:
        context = ids(model, f"{item.context} {item.question}")
        found.append(LogLikelihood(context, word(model, item.answer)))
        found.append(Generate(context, 2, (";",)))
    return found


def check(model, capability: str, changes: dict[Intervention, tuple[bool, bool]]) -> None:
    """What is needed is lost, in scores and in texts; what is idle changes no bit.

    Args:
        model: the model.
        capability: which suite is asked.
        changes: for each intervention, whether it takes what is needed, and whether what it takes
            is idle.
    """
    items = small_task(capability).items[:4]
    outcomes = sweep(model, [intact(), *changes], asked(model, items)).outcomes
    for (needed, idle), changed in zip(changes.values(), outcomes[1:], strict=True):
        for place, (before, after) in enumerate(zip(outcomes[0], changed, strict=True)):
            answer = items[place // 2].answer
            if isinstance(before, Generated):
                assert isinstance(after, Generated)
                assert (before.text.strip(), after.text.strip()) == (
                    answer,
                    "" if needed else answer,
                )
                continue
            assert isinstance(after, Scored)
            lost = before.logprob - after.logprob
            assert before.greedy
            assert lost > 1 if needed else abs(lost) <= (0 if idle else ROUNDING)


def sites_of(layout: WiredSeq2SeqLayout, *names: str) -> list[tuple[str, int]]:
    """Sites with the layers that have them."""
    first = {name: layout.n_encoder_layers if "cross" in name else 0 for name in names}
    return [(name, layer) for name in names for layer in range(first[name], layout.n_layers)]


@anywhere
@given(seq2seq_layouts(), seeds)
def test_exactly_the_planted_layers_are_needed(layout, seed):
    model, idle = small_seq2seq(layout, seed), spared(layout, *CAPABILITIES)
    for capability in CAPABILITIES:
        truth = PlantedSeq2Seq(layout, capability)
        changes = {
            skip(layer): (layer in truth.critical("layer"), layer in idle)
            for layer in range(layout.n_layers)
        }
        for site, layer in sites_of(layout, "attn_out", "cross_attn_out", "mlp_out"):
            changes[zero(site, layer)] = layer in truth.critical(site), layer in idle
        check(model, capability, changes)


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
def test_exactly_the_planted_heads_are_needed(layout, seed, capability):
    model, idle = small_seq2seq(layout, seed), spared(layout, *CAPABILITIES)
    truth, changes = PlantedSeq2Seq(layout, capability), {}
    for site, layer in sites_of(layout, "z", "cross_z"):
        for head in range(model.cfg.heads_of(layer)):
            needed = Spot(layer, head) in truth.critical_heads(site)
            changes[zero(site, layer, head)] = needed, layer in idle
    check(model, capability, changes)


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
def test_overwriting_the_stream_anywhere_takes_all(layout, seed, capability):
    truth = PlantedSeq2Seq(layout, capability)
    changes = {
        zero(site, layer): (layer in truth.critical(site), False)
        for site, layer in sites_of(layout, "resid_pre", "resid_post", "resid_mid_cross")
    }
    check(small_seq2seq(layout, seed), capability, changes)


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
def test_patches_recover_at_the_planted_layers_positions_and_heads(layout, seed, capability):
    model, truth = small_seq2seq(layout, seed), PlantedSeq2Seq(layout, capability)
    n_encoder, expected = layout.n_encoder_layers, {}
    resid = ("resid_pre", "resid_mid", "resid_mid_cross", "resid_post")
    for site, layer in sites_of(layout, *resid, "attn_out", "cross_attn_out", "mlp_out"):
        if layer < n_encoder:
            expected[patch(site, layer, -2)] = truth.recovers(site, layer, "asked")
        where = "end" if layer < n_encoder else "begin"
        expected[patch(site, layer, -1)] = truth.recovers(site, layer, where)
    for site, layer in sites_of(layout, "z", "cross_z"):
        for head in range(model.cfg.heads_of(layer)):
            share = truth.recovers_by_head(site, Spot(layer, head))
            expected[patch(site, layer, -1, head)] = share
    item = small_task(capability).items[0]
    assert item.corruption is not None
    clean, other = (
        ids(model, f"{item.context} {question}")
        for question in (item.question, item.corruption.question)
    )
    words = [word(model, text) for text in (item.answer, item.corruption.answer)]
    requests = [LogLikelihood(other, one, clean) for one in words]
    requests += [LogLikelihood(clean, one, clean) for one in words]
    outcomes = sweep(model, [intact(), *expected], requests).outcomes
    apart = [(a.logprob - b.logprob, c.logprob - d.logprob) for a, b, c, d in outcomes]
    worst, best = apart[0]
    for share, (patched, _) in zip(expected.values(), apart[1:], strict=True):
        assert (patched - worst) / (best - worst) == pytest.approx(share, abs=ROUNDING)
