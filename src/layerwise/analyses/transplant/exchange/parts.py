"""Weights exchanged at a site: of layers, their parts and norms, of single heads.

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
    by_kind,
    heads_per_key,
    is_seq2seq,
    model_blocks,
    n_layer_heads,
    runs_original_modules,
)  # fmt: skip
from layerwise.models.seq2seq.model import Seq2SeqModel

from .names import BY_HEAD, EMBED, FINAL_NORM, KV_GROUP, NORMS, OF_NO_LAYER, RELATIVE, TIED, UNEMBED


def weights_outside(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters outside of the layers by what they are; what a model lacks is absent.

    ``rel_pos`` is T5's relative position biases; ``tied_embed`` embeddings and unembedding.
    """
    by_site = by_kind(model, _decoder_only_outer_weights, _seq2seq_outer_weights)
    once = {id(weight): weight for site in (EMBED, UNEMBED) for weight in by_site[site]}
    by_site[TIED] = list(once.values())
    return {site: weights for site, weights in by_site.items() if weights}


def _decoder_only_outer_weights(model: DecoderOnly) -> dict[str, list[nn.Parameter]]:
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


def _seq2seq_outer_weights(model: Seq2SeqModel) -> dict[str, list[nn.Parameter]]:
    stacks = (model.parts.encoder, model.parts.decoder)
    tables = [stack.relative.table for stack in stacks if stack.relative is not None]
    by_site = {
        FINAL_NORM: [w for stack in stacks for w in stack.final_norm.parameters()],
        UNEMBED: list(model.parts.unembed.parameters()),
        RELATIVE: [w for table in tables for w in table.parameters()],
    }
    known = {id(w) for block in model_blocks(model) for w in parts_of_block(model, block)["layer"]}
    known |= {id(w) for site in (FINAL_NORM, RELATIVE) for w in by_site[site]}
    if not _is_one(model):
        known |= {id(w) for w in by_site[UNEMBED]}
    return by_site | {EMBED: [w for w in model.parameters() if id(w) not in known]}


def _is_one(model: Seq2SeqModel) -> bool:
    return model.parts.unembed.weight is model.parts.embedding.weight


def are_tied(model: Model) -> bool:
    """True if a model's unembedding is its token embedding, in memory or number by number."""

    def same_numbers(one: DecoderOnly) -> bool:
        embedding, unembedding = one.W_E.data, one.W_U.data.T
        return embedding.shape == unembedding.shape and torch.equal(embedding, unembedding)

    return by_kind(model, same_numbers, _is_one)


def site_outside(base: Model, other: Model, site: str) -> str:
    """Site that is exchanged outside of the layers: of tied embeddings always both ends."""
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

    def view(self, values: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that is shaped like the weight, as a view."""
        if self.rows is None:
            return values
        return values.narrow(self.dim, self.rows.start, self.rows.stop - self.rows.start)


def sites_of_layer(model: Model, layer: int) -> tuple[str, ...]:
    """Sites of a layer that can be exchanged."""
    block = model_blocks(model)[layer]
    parts = parts_of_block(model, block)
    by_head = {"z": "attn_out", KV_GROUP: "attn_out", "cross_z": "cross_attn_out"}
    apart = not runs_original_modules(model) or attention_linears(block.parts.attn) is not None
    heads = [site for site in BY_HEAD if apart and by_head[site] in parts]
    norms = [NORMS] if norms_of_block(model, block) else []
    return (*parts, *heads, *norms)


def n_site_heads(model: Model, site: str, layer: int) -> int:
    """Number of heads, or key/value groups, of a layer at ``z``, ``kv_group`` or ``cross_z``."""
    n_heads = n_layer_heads(model, layer)
    return n_heads // heads_per_key(model.cfg) if site == KV_GROUP else n_heads


def site_weights(
    model: Model, site: str, layers: Sequence[int], heads: Sequence[int] = ()
) -> list[WeightPart]:
    """The weights of a part of some layers, in an order that is the same in both models."""
    blocks = model_blocks(model)
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

    Keys and values are a head's where it shares them with no other; the output's bias and norms
    of the stream or of one head's width are no head's.
    """
    attn: Any
    out: Any
    norms: Sequence[nn.Module | None]
    n_shared, is_group = heads_per_key(model.cfg), site == KV_GROUP
    queries = slice(head * n_shared, (head + 1) * n_shared) if is_group else slice(head, head + 1)
    keys = slice(head, head + 1) if is_group or n_shared == 1 else None
    if runs_original_modules(model):
        attn = block.parts.attn
        linears, sinks, width = attention_linears(attn), attn.sinks, attn.d_head
        assert linears is not None, "layers whose heads are not told apart have no such site"
        norms = [getattr(attn.module, name, None) for name in ("q_norm", "k_norm")]
    elif is_seq2seq(model):
        attn = block.parts.cross_attn if site == "cross_z" else block.parts.attn
        linears, sinks, width = [attn.q, attn.k, attn.v, attn.out], None, attn.d_head
        norms = ()
    else:
        attn = block.attn
        linears, sinks, width = None, getattr(attn, "sinks", None), model.cfg.d_head
        norms = [attn.q_norm, attn.k_norm]
    of_sinks = [WeightPart(sinks, queries)] if isinstance(sinks, nn.Parameter) else []
    if linears is None:  # TransformerLens's weights have a dimension of heads in front
        parts = [WeightPart(weight, queries) for weight in (attn.W_Q, attn.b_Q, attn.W_O)]
        parts += of_sinks
        if keys is not None:
            under = "_" if hasattr(attn, "_W_K") else ""
            names = ("W_K", "b_K", "W_V", "b_V")
            parts += [WeightPart(getattr(attn, under + name), keys) for name in names]
    else:  # heads lie side by side
        *inputs, out = linears
        parts = [
            WeightPart(weight, _wide(heads, width))
            for linear, heads in zip(inputs, (queries, keys, keys), strict=True)
            if heads is not None
            for weight in linear.parameters()
        ]
        parts += [WeightPart(out.weight, _wide(queries, width), dim=1), *of_sinks]
    # Of norms over all heads each has its own slice; those of one head's width are no head's.
    return parts + [
        WeightPart(weight, _wide(heads, width))
        for norm, heads in zip(norms, (queries, keys), strict=False)
        if norm is not None and heads is not None
        for weight in norm.parameters()
        if weight.numel() > width
    ]


def attention_linears(attn: AttentionParts) -> list[nn.Linear] | None:
    """Queries, keys, values and output; None where heads do not lie side by side in each."""
    given = (getattr(attn.module, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    linears = [linear for linear in (*given, attn.out) if isinstance(linear, nn.Linear)]
    numbers = (attn.n_heads, attn.n_key_value_heads, attn.n_key_value_heads)
    fits = [linear.out_features for linear in linears[:3]] == [n * attn.d_head for n in numbers]
    return linears if fits and len(linears) == 4 and attn.d_value == attn.d_head else None


def _wide(heads: slice, width: int) -> slice:
    return slice(heads.start * width, heads.stop * width)
