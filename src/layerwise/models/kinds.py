"""The two kinds of models: decoder-only ones of TransformerLens, and our encoder-decoders."""

from __future__ import annotations

from transformer_lens import HookedTransformer

from layerwise.models.seq2seq.model import Seq2SeqModel

Model = HookedTransformer | Seq2SeqModel
"""Either kind."""


def n_encoder_layers(model: Model) -> int:
    """Layers of the encoder; 0 for a decoder-only model."""
    return model.cfg.n_encoder_layers if isinstance(model, Seq2SeqModel) else 0
