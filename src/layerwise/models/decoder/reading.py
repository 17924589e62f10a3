"""Parts of a Hugging Face decoder, read by the names that most of its classes share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from layerwise.errors import UserError, one_line

from .capture import IMPLEMENTATION, QueriesKeysValues, capture_qkv
from .parts import AttentionParts, BlockParts, DecoderParts, Rotary


class UnknownArchitecture(UserError):
    """It is not known how the modules of a model are to be run."""


_ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
_OUTPUTS = ("o_proj", "dense", "out_proj", "c_proj")
_MLPS = ("mlp", "block_sparse_moe", "feed_forward")
_KINDS = ("full_attention", "sliding_attention")
_LONGEST = 2048  # where a configuration does not say
_NORMS_BEFORE = (
    "input_layernorm", "ln_1", "norm_1", "ln_attn", "self_attn_layer_norm", "attention_layernorm",
)  # fmt: skip
_SECOND_NORMS = (
    "post_attention_layernorm", "ln_2", "norm_2", "ln_mlp", "final_layer_norm",
    "feedforward_layernorm", "pre_feedforward_layernorm",
)  # fmt: skip
_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "layer_norm")
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "word_embeddings")


@dataclass(frozen=True)
class FamilyTraits:
    """Differences of a family from the usual module layout."""

    # Numbers that it multiplies embeddings, outputs of sublayers and logits by outside of modules.
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    # Makes, of an attention module that does not use transformers' attention interface, one that
    # does with the same weights.
    handing_over: Callable[[Any], nn.Module] = lambda module: module
    # Finds the module that has embeddings and layers in the model within the original.
    within: Callable[[Any], Any] = lambda base: base
    # Makes, of that module, one that embeds tokens and has the table as its weight.
    embedding: Callable[[Any], Any] = lambda base: _module(base, _EMBEDDINGS, "token embedding")
    # Makes, of that module, one that gives what is added to embeddings at positions.
    positions: Callable[[Any], nn.Module | None] = lambda base: _table_of_positions(base)
    # Makes, of that module, one that gives the turns of positions; None where keys and queries that
    # are handed over know their positions otherwise.
    rotary: Callable[[Any], nn.Module | None] = lambda base: _module(
        base, ("rotary_emb",), "rotary embedding"
    )
    # Makes, of a layer without a module for its MLP, one with the same weights.
    mlp: Callable[[Any], nn.Module] = lambda layer: _module(layer, _MLPS, "MLP")


def read_parts(original: nn.Module, how: FamilyTraits | None = None) -> DecoderParts:
    """The parts of a decoder whose modules have the usual names."""
    # Its attention is made to go through ``capture`` from then on.
    model: Any = original
    how = how or FamilyTraits()
    config, base = model.config, model.base_model
    if base is model:
        raise unknown(model, "has no model within it")
    model.set_attn_implementation(IMPLEMENTATION)
    n_ctx, base = longest_text(config), how.within(base)
    positions = how.positions(base)
    layers = _module(base, ("layers", "h", "blocks"), "layers")
    return DecoderParts(
        embedding=how.embedding(base),
        embed_scale=how.embed_scale,
        blocks=tuple(
            _block(layer, _Place(number, base, config, n_ctx, positions is not None, how))
            for number, layer in enumerate(layers)
        ),
        final_norm=_module(base, _FINAL_NORMS, "final norm"),
        unembed=model.get_output_embeddings(),
        logit_scale=how.logit_scale,
        logit_cap=getattr(config, "final_logit_softcapping", None),
        n_ctx=n_ctx,
        positions=positions,
    )


def _table_of_positions(base: Any) -> nn.Embedding | None:
    """Vectors that are added to embeddings by position, if the model does so."""
    table = getattr(base, "wpe", None)
    return table if isinstance(table, nn.Embedding) else None


def longest_text(config: Any) -> int:
    """Longest text in tokens; rotary embeddings that change with its length end it earlier."""
    named = ("max_position_embeddings", "max_seq_len")
    longest = next((int(n) for name in named if (n := getattr(config, name, None))), _LONGEST)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        before = rope.get("original_max_position_embeddings")
        return int(before or getattr(config, "original_max_position_embeddings", None) or longest)
    return longest


def _module(owner: Any, names: tuple[str, ...], what: str) -> Any:
    for name in names:
        module = getattr(owner, name, None)
        if isinstance(module, nn.Module):
            return module
    raise unknown(owner, f"has no {what} by the name of {' or '.join(names)}")


def unknown(module: nn.Module, how: str) -> UnknownArchitecture:
    """The error that says what of a module is not known, and what is."""
    return UnknownArchitecture(
        f"Its own modules cannot be run, since {type(module).__name__} {how}: expected a decoder "
        "whose layers have norms, an MLP, and attention that goes through transformers' attention "
        "interface, with rotary positions or a table of them; use another model."
    )


class _Place(NamedTuple):
    """A layer's context: its number, the inner model, and shared modules."""

    number: int
    base: Any
    config: Any
    n_ctx: int
    has_positions: bool
    how: FamilyTraits


def _block(layer: Any, place: _Place) -> BlockParts:
    names = (
        *_NORMS_BEFORE, *_SECOND_NORMS, "post_feedforward_layernorm", "post_self_attn_layernorm",
        "post_mlp_layernorm",
    )  # fmt: skip
    modules = ((name, getattr(layer, name, None)) for name in names)
    norms = {name: norm for name, norm in modules if isinstance(norm, nn.Module)}
    before, second = _first(norms, *_NORMS_BEFORE), _first(norms, *_SECOND_NORMS)
    after = norms.get("post_feedforward_layernorm", norms.get("post_mlp_layernorm"))
    parallel = after is None and (
        second is None or "ln_mlp" in norms or bool(getattr(layer, "use_parallel_residual", False))
    )
    if after is None:
        attn_after, mlp_norm = None, before if second is None else second
    elif "post_self_attn_layernorm" in norms:  # GLM-4 names that behind attention so
        attn_after, mlp_norm = norms["post_self_attn_layernorm"], second
    else:
        attn_after, mlp_norm = second, norms.get("pre_feedforward_layernorm")
    attn = _attention(layer, place)
    mlp, scale = place.how.mlp(layer), place.how.residual_scale
    return BlockParts(attn, before, attn_after, mlp, mlp_norm, after, parallel, scale)


def _first(norms: dict[str, nn.Module], *names: str) -> nn.Module | None:
    return next((norms[name] for name in names if name in norms), None)


def _attention(layer: Any, place: _Place) -> AttentionParts:
    number, base, config, n_ctx, has_positions, how = place
    module = _module(layer, _ATTENTIONS, "attention")
    # GPT-Neo has a module around it, which chooses its kind.
    inner = getattr(module, "attention", None)
    module = inner if isinstance(inner, nn.Module) else module
    handing = how.handing_over(module)
    if not getattr(module, "is_causal", True):
        raise unknown(module, "attends to what comes later")
    turns = None if has_positions else how.rotary(base)
    rotary = None if turns is None else Rotary(turns, None, n_ctx)
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[number] not in _KINDS:
        raise unknown(module, f"is of the kind {kinds[number]!r}")
    if rotary and kinds and "layer_type" in inspect.signature(rotary.module.forward).parameters:
        rotary = Rotary(rotary.module, kinds[number], n_ctx)
    seen = _trial_qkv(handing, rotary, base)
    n_kv, d_key = seen.keys.shape[2:]
    d_value = seen.values.shape[-1]
    known = {"scaling", "softcap", "sliding_window", "dropout", "position_ids"}
    sinks = seen.options.get("s_aux")
    has_sinks = sinks is not None and getattr(handing, "sinks", None) is sinks
    known |= {"s_aux"} if has_sinks else set()
    strange = [
        name for name, value in seen.options.items() if name not in known and value is not None
    ]
    if strange:
        raise unknown(module, f"attends with {', '.join(sorted(strange))}")
    if seen.values.shape[:-1] != seen.keys.shape[:-1]:
        raise unknown(module, "has another number of values than keys")
    scale, window = seen.options.get("scaling"), seen.options.get("sliding_window")
    if kinds is not None and kinds[number] != "sliding_attention":
        window = None
    return AttentionParts(
        handing,
        _module(module, _OUTPUTS, "output projection"),
        rotary,
        seen.queries.shape[2],
        n_kv,
        max(d_key, d_value),
        d_value,
        d_key**-0.5 if scale is None else float(scale),
        seen.options.get("softcap"),
        None if window is None else int(window),
        has_sinks,
    )


@torch.no_grad()
def _trial_qkv(module: nn.Module, rotary: Rotary | None, base: Any) -> QueriesKeysValues:
    """Queries, keys and values of one token, as a trial."""
    embedding = base.get_input_embeddings().weight
    x = embedding.new_zeros(1, 1, embedding.shape[1])
    position = torch.zeros(1, 1, dtype=torch.long, device=x.device)
    try:
        turns = None if rotary is None else rotary.cos_sin(position, 1, x)
        captured = capture_qkv(module, x, position_embeddings=turns, position_ids=position)
    except Exception as error:
        reason = one_line(error)
        raise unknown(module, f"cannot be called ({type(error).__name__}: {reason})") from error
    if captured is None:
        raise unknown(module, "does not use that interface")
    return captured
