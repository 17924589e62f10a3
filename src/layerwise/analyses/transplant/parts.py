"""Which weights are exchanged at a site: of layers, their parts and norms, of single heads.

What a block consists of is in ``shared.blocks``. Nothing is exchanged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerwise.analyses.shared.blocks import norms_of_block, parts_of_block
from layerwise.errors import UserError
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.parts import AttentionParts
from layerwise.models.instance.kinds import (
    DecoderOnly,
    Model,
    blocks_of,
    by_kind,
    heads_per_key,
    n_heads_of,
    over_original,
)  # fmt: skip
from layerwise.models.seq2seq.model import Seq2SeqModel

from .names import BY_HEAD, EMBED, FINAL_NORM, KV_GROUP, NORMS, OF_NO_LAYER, RELATIVE, TIED, UNEMBED


def weights_outside(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters outside of the layers by what they are; what a model lacks is absent.

    ``embed`` has the token embedding, learned or fixed positions, and a norm of both;
    ``ln_final`` the final norms of all stacks; ``rel_pos`` T5's relative position biases, which
    all layers of a stack share; ``tied_embed`` embeddings and unembedding together.
    """
    by_site = by_kind(model, _of_decoder_only, _of_seq2seq)
    once = {id(weight): weight for site in (EMBED, UNEMBED) for weight in by_site[site]}
    by_site[TIED] = list(once.values())
    return {site: weights for site, weights in by_site.items() if weights}


def _of_decoder_only(model: DecoderOnly) -> dict[str, list[nn.Parameter]]:
    if isinstance(model, DecoderModel):
        parts = model.parts
        positions = [] if parts.positions is None else [*parts.positions.parameters()]
        return {
            EMBED: [*parts.embedding.parameters(), *positions],
            FINAL_NORM: [*parts.final_norm.parameters()],
            UNEMBED: [*parts.unembed.parameters()],
        }
    by_name: dict[str, list[nn.Parameter]] = {EMBED: [], FINAL_NORM: [], UNEMBED: []}
    for name, weight in model.named_parameters():
        first = name.partition(".")[0]
        site = EMBED if first == "pos_embed" else first
        if site in by_name:
            by_name[site].append(weight)
    return by_name


def _of_seq2seq(model: Seq2SeqModel) -> dict[str, list[nn.Parameter]]:
    stacks = (model.parts.encoder, model.parts.decoder)
    tables = [stack.relative.table for stack in stacks if stack.relative is not None]
    by_site = {
        FINAL_NORM: [w for stack in stacks for w in stack.final_norm.parameters()],
        UNEMBED: list(model.parts.unembed.parameters()),
        RELATIVE: [w for table in tables for w in table.parameters()],
    }
    known = {id(w) for block in blocks_of(model) for w in parts_of_block(model, block)["layer"]}
    known |= {id(w) for site in (FINAL_NORM, RELATIVE) for w in by_site[site]}
    if not _is_one(model):
        known |= {id(w) for w in by_site[UNEMBED]}
    return by_site | {EMBED: [w for w in model.parameters() if id(w) not in known]}


def _is_one(model: Seq2SeqModel) -> bool:
    return model.parts.unembed.weight is model.parts.embedding.weight


def are_tied(model: Model) -> bool:
    """Whether a model's unembedding is its token embedding, in memory or number by number."""

    def same_numbers(one: DecoderOnly) -> bool:
        embedding, unembedding = one.W_E.data, one.W_U.data.T
        return embedding.shape == unembedding.shape and torch.equal(embedding, unembedding)

    return by_kind(model, same_numbers, _is_one)


def site_outside(base: Model, other: Model, site: str) -> str:
    """What is exchanged outside of the layers: of tied embeddings always both ends."""
    known = weights_outside(base)
    if site not in known:
        raise UserError(
            f"Outside of its layers the model has no {site!r}: expected one of "
            f"{', '.join(name for name in known if name != TIED)}; name another site."
        )
    if not (are_tied(base) and are_tied(other)):
        return site
    if site == UNEMBED:
        raise UserError(
            "In both models the unembedding is the token embedding, so that moving one moves the "
            "other: expected site 'embed', which exchanges both ends."
        )
    return TIED if site == EMBED else site


@dataclass(frozen=True)
class WeightPart:
    """A weight, or the slice of it that belongs to some heads."""

    weight: nn.Parameter  # the parameter
    rows: slice | None = None  # which indices of ``dim``; None is the whole weight
    dim: int = 0  # the dimension in which heads lie one after the other

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
    apart = not over_original(model) or linears_of(block.parts.attn) is not None
    heads = [site for site in BY_HEAD if apart and by_head[site] in parts]
    norms = [NORMS] if norms_of_block(model, block) else []
    return (*parts, *heads, *norms)


def n_heads_at(model: Model, site: str, layer: int) -> int:
    """How many heads, or key/value groups, a layer has at ``z``, ``kv_group`` or ``cross_z``."""
    n_heads = n_heads_of(model, layer)
    return n_heads // heads_per_key(model.cfg) if site == KV_GROUP else n_heads


def parts_at(
    model: Model, site: str, layers: Sequence[int], heads: Sequence[int] = ()
) -> list[WeightPart]:
    """The weights of a part of some layers, in an order that is the same in both models."""
    blocks = blocks_of(model)
    if site in OF_NO_LAYER:
        return [WeightPart(weight) for weight in weights_outside(model)[site]]
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
    """
    n_shared = heads_per_key(model.cfg)
    if site == KV_GROUP:
        queries, keys = slice(head * n_shared, (head + 1) * n_shared), slice(head, head + 1)
    else:
        queries = slice(head, head + 1)
        keys = queries if n_shared == 1 else None
    if over_original(model):
        return _of_original(block.parts.attn, queries, keys)

    def of_seq2seq(_: Any) -> list[WeightPart]:
        attention = block.parts.cross_attn if site == "cross_z" else block.parts.attn
        linears = (attention.q, attention.k, attention.v, attention.out)
        return _of_linears(linears, queries, keys, attention.d_head)

    return by_kind(
        model, lambda one: _of_attention(block.attn, queries, keys, one.cfg.d_head), of_seq2seq
    )


def _of_attention(attn: Any, queries: slice, keys: slice | None, width: int) -> list[WeightPart]:
    """Of an attention of TransformerLens, whose weights have a dimension of heads in front."""
    parts = [WeightPart(weight, queries) for weight in (attn.W_Q, attn.b_Q, attn.W_O)]
    sinks = getattr(attn, "sinks", None)
    if isinstance(sinks, nn.Parameter):
        parts.append(WeightPart(sinks, queries))
    if keys is not None:
        under = "_" if hasattr(attn, "_W_K") else ""
        weights = (getattr(attn, under + name) for name in ("W_K", "b_K", "W_V", "b_V"))
        parts += [WeightPart(weight, keys) for weight in weights]
    return [*parts, *_of_wide_norms(attn.q_norm, attn.k_norm, queries, keys, width)]


def linears_of(attn: AttentionParts) -> list[nn.Linear] | None:
    """What makes queries, keys, values and the output of a decoder over its own modules.

    None where heads do not lie side by side in a matrix for each: where one product makes several,
    or heads are made of something else first.
    """
    given = (getattr(attn.module, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    linears = [linear for linear in (*given, attn.out) if isinstance(linear, nn.Linear)]
    numbers = (attn.n_heads, attn.n_key_value_heads, attn.n_key_value_heads)
    fits = [linear.out_features for linear in linears[:3]] == [n * attn.d_head for n in numbers]
    return linears if fits and len(linears) == 4 and attn.d_value == attn.d_head else None


def _of_original(attn: AttentionParts, queries: slice, keys: slice | None) -> list[WeightPart]:
    linears = linears_of(attn)
    assert linears is not None, "layers whose heads are not told apart have no such site"
    of_queries, of_keys = (getattr(attn.module, name, None) for name in ("q_norm", "k_norm"))
    sinks: Any = attn.sinks
    return [
        *_of_linears(linears, queries, keys, attn.d_head),
        *([] if sinks is None else [WeightPart(sinks, queries)]),
        *_of_wide_norms(of_queries, of_keys, queries, keys, attn.d_head),
    ]


def _of_linears(
    linears: Sequence[Any], queries: slice, keys: slice | None, width: int
) -> list[WeightPart]:
    """Of what makes queries, keys, values and the output, where heads lie side by side."""
    *inputs, out = linears
    parts = [
        WeightPart(weight, _wide(heads, width))
        for linear, heads in zip(inputs, (queries, keys, keys), strict=True)
        if heads is not None
        for weight in linear.parameters()
    ]
    return [*parts, WeightPart(out.weight, _wide(queries, width), dim=1)]


def _of_wide_norms(
    query_norm: nn.Module | None,
    key_norm: nn.Module | None,
    queries: slice,
    keys: slice | None,
    width: int,
) -> list[WeightPart]:
    """Of norms over all heads side by side; those of one head's width are no head's."""
    return [
        WeightPart(weight, _wide(heads, width))
        for norm, heads in ((query_norm, queries), (key_norm, keys))
        if norm is not None and heads is not None
        for weight in norm.parameters()
        if weight.numel() > width
    ]


def _wide(heads: slice, width: int) -> slice:
    return slice(heads.start * width, heads.stop * width)
