"""The two kinds of models: decoder-only ones of TransformerLens, and our encoder-decoders."""

from __future__ import annotations

from typing import Any

from transformer_lens import HookedTransformer

from layerwise.models.seq2seq.model import Seq2SeqModel

Model = HookedTransformer | Seq2SeqModel
"""Either kind."""


def n_encoder_layers(model: Model) -> int:
    """Layers of the encoder; 0 for a decoder-only model."""
    return model.cfg.n_encoder_layers if isinstance(model, Seq2SeqModel) else 0


def n_heads_of(model: Model, layer: int) -> int:
    """Heads of a layer; the stacks of an encoder-decoder may differ in that."""
    return model.cfg.heads_of(layer) if isinstance(model, Seq2SeqModel) else model.cfg.n_heads


def vocabularies(model: Model) -> tuple[int, int]:
    """How many tokens a model can read in a prompt, and how many it can say."""
    if isinstance(model, Seq2SeqModel):
        return model.parts.embedding.num_embeddings, model.cfg.d_vocab
    return model.cfg.d_vocab, model.cfg.d_vocab_out


_WITHIN = {
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "cross_z": "cross_attn.hook_z",
    "cross_pattern": "cross_attn.hook_pattern",
    "cross_k": "cross_attn.hook_k",
    "cross_v": "cross_attn.hook_v",
}


def hook_name(model: Model, layer: int, site: str) -> str:
    """The full name of a site's hook."""
    within = _WITHIN.get(site, f"hook_{site}")
    if isinstance(model, Seq2SeqModel):
        return model.hook_name(layer, within)
    return f"blocks.{layer}.{within}"


def heads_per_key(cfg: Any) -> int:
    """How many query heads share a key/value head."""
    return cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
