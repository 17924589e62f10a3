"""Which weights are exchanged at a site: of layers, their parts and norms, of single heads.

What a block consists of is told in ``blocks``, what stands outside of the layers in ``outside``.
Nothing is exchanged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerwise.models.decoder.parts import AttentionParts
from layerwise.models.kinds import (
    Model,
    blocks_of,
    by_kind,
    heads_per_key,
    n_heads_of,
    over_original,
)  # fmt: skip

from .blocks import norms_of_block, parts_of_block
from .names import BY_HEAD, KV_GROUP, NORMS, OF_NO_LAYER
from .outside import weights_outside


@dataclass(frozen=True)
class WeightPart:
    """A weight, or the slice of it that belongs to some heads.

    Attributes:
        weight: the parameter.
        rows: which indices of ``dim``; None is the whole weight.
        dim: the dimension in which heads lie one after the other.
    """

    weight: nn.Parameter
    rows: slice | None = None
    dim: int = 0

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that is shaped like the weight, as a view."""
        if self.rows is None:
            return values
        return values.narrow(self.dim, self.rows.start, self.rows.stop - self.rows.start)


def sites_of_layer(model: Model, layer: int) -> tuple[str, ...]:
    """What of a layer can be exchanged."""
    block = blocks_of(model)[layer]
    parts = parts_of_block(model, block)
    by_head = {"z": "attn_out", KV_GROUP: "attn_out", "cross_z": "cross_attn_out"}
    if over_original(model) and linears_of(block.parts.attn) is None:
        by_head = dict.fromkeys(by_head, "")  # heads are not told apart
    norms = [NORMS] if norms_of_block(model, block) else []
    return (*parts, *(site for site in BY_HEAD if by_head[site] in parts), *norms)


def n_heads_at(model: Model, site: str, layer: int) -> int:
    """How many heads, or key/value groups, a layer has at ``z``, ``kv_group`` or ``cross_z``."""
    n_heads = n_heads_of(model, layer)
    return n_heads // heads_per_key(model.cfg) if site == KV_GROUP else n_heads


def parts_at(
    model: Model, site: str, layers: Sequence[int], heads: Sequence[int] = ()
) -> list[WeightPart]:
    """The weights of a part of some layers, in an order that is the same in both models.

    Args:
        model: the model.
        site: the part.
        layers: the layers; each has it. Of single heads the layer of each; none of what is
            outside of the layers.
        heads: of ``z``, ``kv_group`` and ``cross_z``, the head or group in each of the layers.
    """
    blocks = blocks_of(model)
    if site in OF_NO_LAYER:
        return [WeightPart(one) for one in weights_outside(model)[site]]
    if site in BY_HEAD:
        return [
            part
            for layer, head in zip(layers, heads, strict=True)
            for part in head_parts(model, blocks[layer], site, head)
        ]
    return [
        WeightPart(one)
        for layer in layers
        for one in (
            norms_of_block(model, blocks[layer])
            if site == NORMS
            else parts_of_block(model, blocks[layer])[site]
        )
    ]


def head_parts(model: Model, block: Any, site: str, head: int) -> list[WeightPart]:
    """The slices of a block's weights that belong to one head, or to one key/value group.

    A head has its query and output rows, their biases and its attention sink, and its key and
    value rows where it shares them with no other head. A key/value group has all of its query
    heads with the keys and values that they share. The output projection's bias, the norm before
    the sublayer and norms of queries and keys of a head's width are the whole sublayer's, and no
    head's; of norms over all heads side by side a head has its own slice of the scale.

    Args:
        model: the model.
        block: one of its blocks.
        site: ``z``, ``kv_group`` or ``cross_z``.
        head: which head or group.
    """
    n_shared = heads_per_key(model.cfg)
    if site == KV_GROUP:
        queries, keys = slice(head * n_shared, (head + 1) * n_shared), slice(head, head + 1)
    else:
        queries = slice(head, head + 1)
        keys = queries if n_shared == 1 else None
    if over_original(model):
        return _of_original(block.parts.attn, queries, keys)
    return by_kind(
        model,
        lambda one: _of_attention(block.attn, queries, keys, one.cfg.d_head),
        lambda _: _of_linears(
            block.parts.cross_attn if site == "cross_z" else block.parts.attn, queries
        ),
    )


def _of_attention(attn: Any, queries: slice, keys: slice | None, width: int) -> list[WeightPart]:
    """Of an attention of TransformerLens, whose weights have a dimension of heads in front."""
    found = [WeightPart(one, queries) for one in (attn.W_Q, attn.b_Q, attn.W_O)]
    sinks = getattr(attn, "sinks", None)
    if isinstance(sinks, nn.Parameter):
        found.append(WeightPart(sinks, queries))
    norms = [(attn.q_norm, queries)]
    if keys is not None:
        under = "_" if hasattr(attn, "_W_K") else ""
        weights = (getattr(attn, under + name) for name in ("W_K", "b_K", "W_V", "b_V"))
        found += [WeightPart(one, keys) for one in weights]
        norms.append((attn.k_norm, keys))
    for norm, rows in norms:
        if norm is not None and norm.w.numel() > width:
            found.append(WeightPart(norm.w, _wide(rows, width)))
    return found


def linears_of(attn: AttentionParts) -> list[nn.Linear] | None:
    """What makes queries, keys and values of a decoder over its own modules, heads side by side.

    None where one product makes several of them, or heads are made of something else first.
    """
    given = (getattr(attn.module, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    made = [one for one in given if isinstance(one, nn.Linear)]
    numbers = (attn.n_heads, attn.n_key_value_heads, attn.n_key_value_heads)
    alike = attn.d_value == attn.d_head and isinstance(attn.out, nn.Linear)
    fits = [one.out_features for one in made] == [n * attn.d_head for n in numbers]
    return made if alike and fits else None


def _of_original(attn: AttentionParts, queries: slice, keys: slice | None) -> list[WeightPart]:
    linears, width = linears_of(attn), attn.d_head
    assert linears is not None, "layers whose heads are not told apart have no such site"
    heads = {"q": queries} | ({} if keys is None else {"k": keys, "v": keys})
    found = [
        WeightPart(weight, _wide(heads[name], width))
        for name, made in zip("qkv", linears, strict=True)
        if name in heads
        for weight in made.parameters()
    ]
    (out,) = (w for name, w in attn.out.named_parameters() if name == "weight")
    found.append(WeightPart(out, _wide(queries, width), dim=1))
    for name in heads:
        for weight in getattr(attn.module, f"{name}_norm", nn.Identity()).parameters():
            if weight.numel() > width:
                found.append(WeightPart(weight, _wide(heads[name], width)))
    return found


def _of_linears(attention: Any, heads: slice) -> list[WeightPart]:
    """Of an attention of Hugging Face, where heads lie side by side."""
    rows = _wide(heads, attention.d_head)
    found = [
        WeightPart(weight, rows)
        for made in (attention.q, attention.k, attention.v)
        for weight in (made.weight, made.bias)
        if weight is not None
    ]
    return [*found, WeightPart(attention.out.weight, rows, dim=1)]


def _wide(heads: slice, width: int) -> slice:
    return slice(heads.start * width, heads.stop * width)
