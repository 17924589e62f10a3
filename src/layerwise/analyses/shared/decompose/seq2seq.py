"""The direct path from each part of an encoder-decoder to its logits, exactly.

As in ``decoder``, what is a sum is taken apart and norms are held at their scale in this run.
With the patterns of cross-attention held too, the decoder reads the encoder's output linearly, so
that what comes through cross-attention is a sum over the encoder's parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import nn

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import Seq2SeqAttentionParts, StackParts
from layerwise.sweep.activations.sites import CrossSites, Seq2SeqSites, StackSites

from .decoder import Direct, Directions, LogitSums, Parts, before_norm, project, project_heads

CROSS = "cross_attn_out"


def direct_seq2seq(model: Seq2SeqModel, sites: Seq2SeqSites, reading: LogitSums) -> Direct:
    """Contribution of every part of both stacks to a reading."""
    decoder = model.parts.decoder
    parts, crossing = decompose_stack(decoder, sites.decoder, reading.direction, sites.cross)
    assert crossing is not None
    memory, parts["cross_v_bias"] = _at_memory(decoder, sites, crossing)
    by_token, _ = decompose_stack(model.parts.encoder, sites.encoder, memory)
    lengths = torch.tensor(sites.lengths, device=memory.device)
    owners = torch.arange(len(lengths), device=memory.device).repeat_interleave(lengths)
    encoder = {
        name: values.new_zeros(len(lengths), *values.shape[1:]).index_add_(0, owners, values)
        for name, values in by_token.items()
    }
    return Direct(parts | {"unembed_bias": reading.bias}, encoder)


class _Sublayer(NamedTuple):
    """A sublayer of a stack; its names are those of its output, heads and output bias."""

    names: tuple[str, str, str]
    norm: nn.Module
    out: Float[torch.Tensor, "row d_model"]
    attention: Seq2SeqAttentionParts | None = None
    z: Float[torch.Tensor, "row head d_head"] | None = None


def _sublayers(
    stack: StackParts, sites: StackSites, cross: CrossSites | None
) -> Iterator[_Sublayer]:
    """All sublayers, in the order of computation."""
    own, crossing = ("attn_out", "z", "attn_bias"), (CROSS, "cross_z", "cross_attn_bias")
    for layer, block in enumerate(stack.blocks):
        yield _Sublayer(own, block.attn_norm, sites.attn_out[layer], block.attn, sites.z[layer])
        if cross is not None:
            assert block.cross_norm is not None
            out, z = cross.out[layer], cross.z[layer]
            yield _Sublayer(crossing, block.cross_norm, out, block.cross_attn, z)
        yield _Sublayer(("mlp_out", "", ""), block.mlp_norm, sites.mlp_out[layer])


def decompose_stack(
    stack: StackParts,
    sites: StackSites,
    direction: Directions,
    cross: CrossSites | None = None,
) -> tuple[Parts, Float[torch.Tensor, "row metric layer d_model"] | None]:
    """Contribution of each part of a stack to a reading, and of each cross-attention."""
    sublayers = list(_sublayers(stack, sites, cross))
    entered = _entering_norms(sublayers, sites.embedding) if stack.post_norm else []
    read, norm_bias = before_norm(stack.final_norm, sites.final, direction)
    nothing = torch.zeros_like(norm_bias)
    by_name: dict[str, list[torch.Tensor]] = defaultdict(list)
    norms: dict[str, list[torch.Tensor]] = defaultdict(list)
    crossing: list[torch.Tensor] = []
    # Backwards: a direction that is read of a norm's output becomes one that is read of its input.
    for number in reversed(range(len(sublayers))):
        one = sublayers[number]
        out, heads, out_bias = one.names
        if stack.post_norm:
            read, bias = before_norm(one.norm, entered[number], read)
            norms[out].append(bias)
        by_name[out].append(project(one.out, read))
        if one.attention is None:
            continue
        assert one.z is not None
        weight, bias = output_weight(one.attention).double(), one.attention.out.bias
        by_name[heads].append(project_heads(one.z.double(), weight, read))
        by_name[out_bias].append(nothing if bias is None else read @ bias.double())
        if out == CROSS:
            crossing.append(read)
    parts = {name: _by_layer(values) for name, values in by_name.items()}
    if stack.post_norm:
        parts["layer_norm_bias"] = torch.stack([_by_layer(b) for b in norms.values()]).sum(0)
    parts |= {"embedding": project(sites.embedding, read), "norm_bias": norm_bias}
    return parts, _by_layer(crossing) if crossing else None


def _by_layer(last_first: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(last_first[::-1], dim=2)


def _entering_norms(
    sublayers: Sequence[_Sublayer], stream: Float[torch.Tensor, "row d_model"]
) -> list[Float[torch.Tensor, "row d_model"]]:
    """Input of each norm of a post-norm stack: the sums of stream and sublayer, in order."""
    entered = []
    for one in sublayers:
        entered.append(stream + one.out)
        stream = one.norm(entered[-1])
    return entered


def output_weight(attention: Seq2SeqAttentionParts) -> Float[torch.Tensor, "head d_head d_model"]:
    """Each head's own rows of the output projection."""
    weight = attention.out.weight
    return rearrange(weight, "d_model (head d) -> head d d_model", head=attention.n_heads)


def _at_memory(
    decoder: StackParts,
    sites: Seq2SeqSites,
    reads: Float[torch.Tensor, "item metric layer d_model"],
) -> tuple[Float[torch.Tensor, "token metric d_model"], Float[torch.Tensor, "item metric layer"]]:
    """Reading of the encoder's output through cross-attention whose patterns are held."""
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
