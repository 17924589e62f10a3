"""Contributions of an encoder-decoder's parts to its logits, against parts pushed through by hand.

The code under test takes a direction back from the logits; here every part is taken forward to
them, one linear map after the other, out of a cache of all activations.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerwise.analyses.shared.decompose.decoder import read_differences
from layerwise.analyses.shared.decompose.seq2seq import direct_seq2seq
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.activations.sites import seq2seq_sites
from layerwise.sweep.walk.readout import uncapped_logits
from tests.cases import cases, in_long_runs
from tests.models.seq2seq.tiny import CASES, tiny_seq2seq
from tests.sweep.strategies import tokens

CONTEXTS = ((5, 6, 7, 8), (9, 10, 11), (5, 6, 12, 13, 14, 20), (9, 10, 11))
D_VOCAB = 304
# By day one layer, untied and gated, norms behind, and norms before with other numbers of heads.
BY_DAY = ("t5-one-layer", "flan-t5", "bart", "pegasus-scaled")
OF_TWO_STACKS = [*BY_DAY, *in_long_runs(*((case,) for case in CASES if case not in BY_DAY))]
# A difference to one token, and one to all tokens.
WEIGHTS = torch.zeros(2, D_VOCAB, dtype=torch.float64)
WEIGHTS[0, 17] = 1
WEIGHTS[1] = torch.rand(D_VOCAB, generator=torch.Generator().manual_seed(0)).double() / 99
ANSWER = 40


def case_model(case: str) -> Seq2SeqModel:
    """A tiny model; a decoder of BART's kind begins with two tokens, of which the last is read."""
    model = tiny_seq2seq(case)
    model.prefix = (*model.prefix, 9) if case.startswith("bart") else model.prefix
    return model


@torch.inference_mode()
def direct_parts(model: Seq2SeqModel, contexts, budget: int = 2**30):
    sites = seq2seq_sites(model, contexts, memory_budget=budget)
    logits = uncapped_logits(model, sites.final).double()
    answers = torch.full((len(contexts),), ANSWER)
    reading = read_differences(model, logits, answers, WEIGHTS.expand(len(contexts), -1, -1))
    return direct_seq2seq(model, sites, reading), reading


def norm_by_hand(norm, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Part of ``x`` behind a norm whose scale is that of ``x``; without its bias."""
    if isinstance(norm, nn.Identity):
        return part
    if isinstance(norm, nn.LayerNorm):
        x, part = x - x.mean(-1, keepdim=True), part - part.mean(-1, keepdim=True)
    eps = norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon
    return part / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * norm.weight.double()


class HeldRun:
    """One run, and what becomes of a part of one of its sums on the way to the logits."""

    @torch.inference_mode()
    def __init__(self, model: Seq2SeqModel, context, said=None, read=slice(-1, None)) -> None:
        """Of what a decoder has said, the tokens that it begins with if None, some are read."""
        self.model, self._read = model, read
        given = torch.tensor([context]), torch.tensor([said or model.prefix])
        logits, cache = model.run_with_cache(*given)
        self.logits = logits[0, -1].double()
        self.seen = {name: value[0].double() for name, value in cache.items()}

    def stream_at(self, stack: str, layer: int, site: str) -> torch.Tensor:
        found = self.seen[f"{stack}.blocks.{layer}.{site}"]
        return found[self._read] if stack == "decoder" else found

    def _norms(self, stack: str, layer: int):
        """Of one layer: for each sublayer its norm, and what enters it in a post-norm model."""
        block = getattr(self.model.parts, stack).blocks[layer]
        yield block.attn_norm, ("hook_resid_pre", "hook_attn_out")
        before = "hook_resid_mid"
        if stack == "decoder":
            yield block.cross_norm, ("hook_resid_mid", "hook_cross_attn_out")
            before = "hook_resid_mid_cross"
        yield block.mlp_norm, (before, "hook_mlp_out")

    def carry_to_stack_end(
        self, stack: str, part: torch.Tensor, layer: int, sublayer: int
    ) -> torch.Tensor:
        """Carry a part, written by a sublayer, behind the stack's final norm.

        A sublayer beyond the last is one that comes after the layer.
        """
        parts = getattr(self.model.parts, stack)
        for later in range(layer, len(parts.blocks)):
            for number, (norm, names) in enumerate(self._norms(stack, later)):
                if parts.post_norm and (later, number) >= (layer, sublayer):
                    entered = sum(self.stream_at(stack, later, name) for name in names)
                    part = norm_by_hand(norm, entered, part)
        last = self.stream_at(stack, len(parts.blocks) - 1, "hook_resid_post")
        return norm_by_hand(parts.final_norm, last, part)

    def part_logits(self, final: torch.Tensor) -> torch.Tensor:
        """The logits that a part of the decoder's output adds."""
        parts = self.model.parts
        return (final * parts.unembed_scale) @ parts.unembed.weight.double().T

    def part_differences(self, final: torch.Tensor) -> torch.Tensor:
        """The weighted differences that a part of the decoder's output adds."""
        return self.differences(self.part_logits(final)[0])

    def differences(self, logits: torch.Tensor) -> torch.Tensor:
        return (WEIGHTS * (logits[ANSWER] - logits)).sum(-1)

    def by_decoder(self, part: torch.Tensor, layer: int, sublayer: int) -> torch.Tensor:
        return self.part_differences(self.carry_to_stack_end("decoder", part, layer, sublayer))

    def by_memory(self, part: torch.Tensor) -> torch.Tensor:
        """Contribution of a part of the encoder's output by way of all cross-attention heads."""
        total = torch.zeros(2, dtype=torch.float64)
        for layer, block in enumerate(self.model.parts.decoder.blocks):
            values = part @ block.cross_attn.v.weight.double().T
            total += self.by_decoder(self._cross_output(layer, values), layer, 1)
        return total

    def by_encoder(self, part: torch.Tensor, layer: int, sublayer: int) -> torch.Tensor:
        return self.by_memory(self.carry_to_stack_end("encoder", part, layer, sublayer))

    def by_values(self, layer: int) -> torch.Tensor:
        """Contribution of the bias of one layer's values."""
        attention = self.model.parts.decoder.blocks[layer].cross_attn
        if attention.v.bias is None:
            return torch.zeros(2, dtype=torch.float64)
        n_keys = self.seen[f"decoder.blocks.{layer}.cross_attn.hook_v"].shape[0]
        values = attention.v.bias.double().expand(n_keys, -1)
        return self.by_decoder(self._cross_output(layer, values), layer, 1)

    def _cross_output(self, layer: int, values: torch.Tensor) -> torch.Tensor:
        """Output of cross-attention at the last position if these are its values."""
        attention = self.model.parts.decoder.blocks[layer].cross_attn
        pattern = self.seen[f"decoder.blocks.{layer}.cross_attn.hook_pattern"][:, -1]
        split = values.unflatten(-1, (attention.n_heads, -1))
        z = torch.einsum("ht,thd->hd", pattern, split).flatten()
        return (z @ attention.out.weight.double().T)[None]


def wrote(attention, z: torch.Tensor, head: int) -> torch.Tensor:
    """Output of one head to the stream."""
    width = z.shape[-1]
    columns = attention.out.weight[:, head * width : (head + 1) * width].double()
    return z[:, head] @ columns.T


def biases(norm) -> torch.Tensor:
    """The bias of a norm, as one row."""
    none = torch.zeros(1, 32, dtype=torch.float64)
    return none if getattr(norm, "bias", None) is None else norm.bias.double()[None]


def output_bias(attention) -> torch.Tensor:
    return biases(attention.out)


@pytest.mark.parametrize("case", OF_TWO_STACKS)
@cases(parts=25)
@given(st.lists(tokens(1, 9, 50), min_size=1, max_size=4), st.sampled_from([2**14, 2**30]))
def test_parts_sum_to_the_models_own_logits_and_to_what_cross_attention_adds(
    case, contexts, budget
):
    model = case_model(case)
    parts, reading = direct_parts(model, contexts, budget)
    assert parts.gap(reading.value) < 1e-4
    for index, context in enumerate(contexts):
        run = HeldRun(model, context)
        close(parts.total[index], run.differences(run.logits))
    close(parts.through_cross, parts.own["cross_attn_out"].sum(-1))
    for one in (parts.own, parts.encoder):
        close(one["z"].sum(-1) + one["attn_bias"], one["attn_out"])
    close(parts.own["cross_z"].sum(-1) + parts.own["cross_attn_bias"], parts.own["cross_attn_out"])


@pytest.mark.parametrize("case", OF_TWO_STACKS)
@torch.inference_mode()
def test_every_part_is_what_it_wrote_taken_through_every_later_norm(case):
    model = case_model(case)
    parts, _ = direct_parts(model, CONTEXTS)
    for index, context in enumerate(CONTEXTS):
        run = HeldRun(model, context)
        for stack, found, by in (
            ("decoder", parts.own, run.by_decoder),
            ("encoder", parts.encoder, run.by_encoder),
        ):
            n_layers = len(getattr(model.parts, stack).blocks)
            close(found["embedding"][index], by(run.stream_at(stack, 0, "hook_resid_pre"), 0, 0))
            for layer in range(n_layers):
                block = getattr(model.parts, stack).blocks[layer]
                sites = [("attn_out", found["attn_out"], 0), ("mlp_out", found["mlp_out"], 2)]
                sites += [("cross_attn_out", parts.own["cross_attn_out"], 1)] * (stack == "decoder")
                for site, values, sublayer in sites:
                    # An encoder layer has no sublayer between the two.
                    own = min(sublayer, 1) if stack == "encoder" else sublayer
                    part = run.stream_at(stack, layer, f"hook_{site}")
                    close(values[index, :, layer], by(part, layer, own))
                z = run.stream_at(stack, layer, "attn.hook_z")
                for head in range(block.attn.n_heads):
                    expected = by(wrote(block.attn, z, head), layer, 0)
                    close(found["z"][index, :, layer, head], expected)
                width = len(context) if stack == "encoder" else 1
                bias = output_bias(block.attn).expand(width, -1)
                close(found["attn_bias"][index, :, layer], by(bias, layer, 0))
                norms = torch.zeros(2, dtype=torch.float64)
                for number, (norm, _) in enumerate(run._norms(stack, layer)):
                    if model.cfg.post_norm:
                        norms += by(biases(norm).expand(width, -1), layer, number + 1)
                if model.cfg.post_norm:
                    close(found["layer_norm_bias"][index, :, layer], norms)
            final = biases(getattr(model.parts, stack).final_norm).expand(width, -1)
            by_final = run.by_memory(final) if stack == "encoder" else run.part_differences(final)
            close(found["norm_bias"][index], by_final)
        for layer, block in enumerate(model.parts.decoder.blocks):
            z = run.stream_at("decoder", layer, "cross_attn.hook_z")
            for head in range(block.cross_attn.n_heads):
                expected = run.by_decoder(wrote(block.cross_attn, z, head), layer, 1)
                close(parts.own["cross_z"][index, :, layer, head], expected)
            bias = run.by_decoder(output_bias(block.cross_attn), layer, 1)
            close(parts.own["cross_attn_bias"][index, :, layer], bias)
            close(parts.own["cross_v_bias"][index, :, layer], run.by_values(layer))
        logits = model.b_U.double()
        close(parts.own["unembed_bias"][index], run.differences(logits))


@torch.inference_mode()
def test_where_cross_attention_looks_is_what_the_model_itself_has():
    for case in ("t5", "bart"):
        model = case_model(case)
        sites = seq2seq_sites(model, CONTEXTS)
        for context, span in zip(CONTEXTS, sites.spans, strict=True):
            _, cache = model.run_with_cache(torch.tensor([context]))
            for layer in range(model.cfg.n_decoder_layers):
                expected = cache[f"decoder.blocks.{layer}.cross_attn.hook_pattern"][0, :, -1]
                torch.testing.assert_close(sites.pattern[layer, :, span], expected)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
