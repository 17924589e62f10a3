"""The direct path from each part of an encoder-decoder to its logits, exactly.

As in ``decompose``, what is a sum is taken apart and norms are held at their scale in this run.
With the patterns of cross-attention held too, the decoder reads the encoder's output linearly, so
that what comes through cross-attention is a sum over the encoder's parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import nn

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import AttentionParts, StackParts
from layerwise.sweep.activations.last_sites import StackSites
from layerwise.sweep.seq2seq.sites import CrossSites, Seq2SeqSites

from .decompose import Directions, LogitSums, Values, along, before_norm, heads_along

ByLayer = Float[torch.Tensor, "item metric layer"]
ByHead = Float[torch.Tensor, "item metric layer head"]


@dataclass(frozen=True)
class OfStack:
    """What the parts of one stack add to some readings, cross-attention left out.

    Attributes:
        embedding: of what enters the first layer, positions included.
        heads: of each head of self-attention.
        attn_bias: of each layer's bias of the output projection of self-attention.
        attn_out: of each layer's self-attention as a whole.
        mlp_out: of each layer's MLP.
        layer_norm_bias: of the biases of each layer's norms, in a post-norm model; else zeros.
        norm_bias: of the final norm's bias.
    """

    embedding: Values
    heads: ByHead
    attn_bias: ByLayer
    attn_out: ByLayer
    mlp_out: ByLayer
    layer_norm_bias: ByLayer
    norm_bias: Values

    @property
    def total(self) -> Values:
        """All of it, heads taken as parts of attention."""
        layers = self.attn_out + self.mlp_out + self.layer_norm_bias
        return self.embedding + layers.sum(-1) + self.norm_bias


@dataclass(frozen=True)
class OfCross:
    """What cross-attention adds to some readings.

    Attributes:
        heads: of each head.
        bias: of each layer's bias of the output projection.
        value_bias: of each layer's bias of the values, which is a part of its heads.
        out: of each layer's cross-attention as a whole.
    """

    heads: ByHead
    bias: ByLayer
    value_bias: ByLayer
    out: ByLayer


@dataclass(frozen=True)
class DirectSeq2Seq:
    """What every part of an encoder-decoder adds to some readings.

    Attributes:
        decoder: of the decoder's own parts.
        cross: of cross-attention.
        encoder: of the encoder's parts, through cross-attention: another way to take ``cross``
            apart.
        unembed_bias: of the bias of the logits.
        post_norm: whether layers have norms whose biases are parts.
    """

    decoder: OfStack
    cross: OfCross
    encoder: OfStack
    unembed_bias: Values
    post_norm: bool

    @property
    def total(self) -> Values:
        """All of it, the encoder's parts within cross-attention."""
        return self.decoder.total + self.cross.out.sum(-1) + self.unembed_bias

    @property
    def through_cross(self) -> Values:
        """All of cross-attention, by the encoder's parts and the biases on the way."""
        return self.encoder.total + (self.cross.bias + self.cross.value_bias).sum(-1)

    def gap(self, value: Values) -> float:
        """By how much either sum misses what it should be, at most."""
        missed = self.total - value, self.through_cross - self.cross.out.sum(-1)
        return max(float(part.abs().max()) for part in missed)


def direct_seq2seq(model: Seq2SeqModel, sites: Seq2SeqSites, reading: LogitSums) -> DirectSeq2Seq:
    """What every part of both stacks adds to a reading."""
    parts = model.parts
    of_decoder, inner = taken_apart(parts.decoder, sites.decoder, reading.direction, sites.cross)
    memory, value_bias = _at_memory(parts.decoder, sites, inner["cross_attn_out read"])
    cross = OfCross(
        inner["cross_attn_out heads"],
        inner["cross_attn_out bias"],
        value_bias,
        inner["cross_attn_out"],
    )
    by_token, _ = taken_apart(parts.encoder, sites.encoder, memory)
    lengths = torch.tensor(sites.lengths, device=memory.device)
    owners = torch.arange(len(lengths), device=memory.device).repeat_interleave(lengths)
    of_encoder = OfStack(
        *(
            values.new_zeros(len(lengths), *values.shape[1:]).index_add_(0, owners, values)
            for values in (getattr(by_token, field.name) for field in fields(by_token))
        )
    )
    return DirectSeq2Seq(of_decoder, cross, of_encoder, reading.bias, parts.decoder.post_norm)


@dataclass(frozen=True)
class _Sublayer:
    """A sublayer of a stack.

    Attributes:
        site: what its output is called.
        norm: the norm that is before it, or after its sum in a post-norm model.
        out: what it adds to the stream.
        attention: its weights, if it is one.
        z: the output of its heads, if it is attention.
    """

    site: str
    norm: nn.Module
    out: Float[torch.Tensor, "row d_model"]
    attention: AttentionParts | None = None
    z: Float[torch.Tensor, "row head d_head"] | None = None


def _sublayers(
    stack: StackParts, sites: StackSites, cross: CrossSites | None
) -> Iterator[_Sublayer]:
    """All sublayers, in the order of computation."""
    for layer, block in enumerate(stack.blocks):
        yield _Sublayer(
            "attn_out", block.attn_norm, sites.attn_out[layer], block.attn, sites.z[layer]
        )
        if cross is not None:
            assert block.cross_norm is not None
            out, z = cross.out[layer], cross.z[layer]
            yield _Sublayer("cross_attn_out", block.cross_norm, out, block.cross_attn, z)
        yield _Sublayer("mlp_out", block.mlp_norm, sites.mlp_out[layer])


def taken_apart(
    stack: StackParts,
    sites: StackSites,
    direction: Directions,
    cross: CrossSites | None = None,
) -> tuple[OfStack, dict[str, torch.Tensor]]:
    """What every part of a stack adds to what is read of the stack's output, at each row."""
    sublayers = list(_sublayers(stack, sites, cross))
    entered = _entering_norms(sublayers, sites.embedding) if stack.post_norm else []
    read, norm_bias = before_norm(stack.final_norm, sites.final, direction)
    nothing = torch.zeros_like(norm_bias)
    by_name: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        by_name.setdefault(name, []).append(value)

    # Backwards: a direction that is read of a norm's output becomes one that is read of its input.
    for number in reversed(range(len(sublayers))):
        one, bias = sublayers[number], nothing
        if stack.post_norm:
            read, bias = before_norm(one.norm, entered[number], read)
        keep(one.site, along(one.out, read))
        keep(f"{one.site} norm", bias)
        if one.attention is None:
            continue
        assert one.z is not None
        weight = output_weight(one.attention).double()
        keep(f"{one.site} heads", heads_along(one.z.double(), weight, read))
        out_bias = one.attention.out.bias
        keep(f"{one.site} bias", nothing if out_bias is None else read @ out_bias.double())
        if one.site == "cross_attn_out":
            keep(f"{one.site} read", read)
    layers = {name: torch.stack(values[::-1], dim=2) for name, values in by_name.items()}
    norms = [layers[name] for name in layers if name.endswith(" norm")]
    own = OfStack(
        along(sites.embedding, read),
        layers["attn_out heads"],
        layers["attn_out bias"],
        layers["attn_out"],
        layers["mlp_out"],
        torch.stack(norms).sum(0),
        norm_bias,
    )
    return own, layers


def _entering_norms(
    sublayers: Sequence[_Sublayer], stream: Float[torch.Tensor, "row d_model"]
) -> list[Float[torch.Tensor, "row d_model"]]:
    """What enters each norm of a post-norm stack: the sums of stream and sublayer, in order."""
    entered = []
    for one in sublayers:
        entered.append(stream + one.out)
        stream = one.norm(entered[-1])
    return entered


def output_weight(attention: AttentionParts) -> Float[torch.Tensor, "head d_head d_model"]:
    """Each head's own rows of the output projection."""
    weight = attention.out.weight
    return rearrange(weight, "d_model (head d) -> head d d_model", head=attention.n_heads)


def _at_memory(
    decoder: StackParts,
    sites: Seq2SeqSites,
    reads: Float[torch.Tensor, "item metric layer d_model"],
) -> tuple[Float[torch.Tensor, "token metric d_model"], ByLayer]:
    """What is read of the encoder's output, behind its final norm, through cross-attention.

    Each head looks where it looked in this run, so that what it reads is a weighted sum of values.
    """
    n_items, n_metrics, n_layers, width = reads.shape
    total = reads.new_zeros(sum(sites.lengths), n_metrics, width)
    biases = reads.new_zeros(n_items, n_metrics, n_layers)
    for layer, block in enumerate(decoder.blocks):
        attention = block.cross_attn
        assert attention is not None
        n_heads, weight = attention.n_heads, output_weight(attention).double()
        read = einsum(
            weight, reads[:, :, layer],
            "head d d_model, item metric d_model -> item metric head d",
        )  # fmt: skip
        if attention.v.bias is not None:
            bias = rearrange(attention.v.bias.double(), "(head d) -> head d", head=n_heads)
            biases[:, :, layer] = einsum(bias, read, "head d, item metric head d -> item metric")
        of_values = attention.v.weight.double()
        weight = rearrange(of_values, "(head d) d_model -> head d d_model", head=n_heads)
        of_heads = einsum(
            read, weight,
            "item metric head d, head d d_model -> item metric head d_model",
        )  # fmt: skip
        for item, span in enumerate(sites.spans):
            looked = sites.pattern[layer, :, span].double()
            total[span] += einsum(
                looked, of_heads[item],
                "head token, metric head d_model -> token metric d_model",
            )  # fmt: skip
    return total, biases
