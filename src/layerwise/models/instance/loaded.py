"""Facts about a loaded model, as plain values.

How the values are found is not here, so that reading them needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SourceKind = Literal["bundled", "gguf", "folder", "hub", "user"]

TRANSFORMER_LENS, HUGGING_FACE = "transformer-lens", "hugging-face"
"""Backends that run a model: TransformerLens's modules, or those of the original."""

MADE_BY_USER = "not verified: made by the user"
WRITTEN = "written by layerwise; there is no original"
META_MODEL = "not verified: no weights were read"
CHANGED = "not verified: weights or settings were changed after loading"


@dataclass(frozen=True)
class LoadedFacts:
    """Identity of a loaded model, and how closely it follows its original.

    Attributes:
        name: the name it was asked for by; for a user's own model its ``cfg.model_name``.
        source: where the weights came from; ``user`` if the user made the model himself.
        hash: SHA-256 over the parameters' names, shapes, number formats and values; where settings
            were changed after loading, over these, too.
        n_layers: number of layers, of both stacks of an encoder-decoder.
        n_heads: attention heads per layer.
        n_key_value_heads: heads that have keys and values of their own, per layer.
        d_model: width of the residual stream.
        d_vocab: size of the vocabulary.
        n_ctx: longest context for which the model is right, in tokens.
        n_parameters: number of parameters of the original, shared ones counted once.
        dtype: number format of the weights, e.g. ``float32``.
        device: where the weights are, e.g. ``cpu`` or ``cuda:0``.
        parity: largest difference of log-probabilities from the original in float32, in
            nats, on a fixed text; None if these weights were not compared.
        n_encoder_layers: how many of the layers are the encoder's, which come first in the
            numbering of layers; 0 for a decoder-only model.
        source_hash: SHA-256 of the file that the model was asked for by (of a folder: over names
            and contents of its files; of an adapter: over its and its base's); empty where there
            is none.
        conversion_hash: SHA-256 over the files that a GGUF file was converted to, or that an
            adapter and its base were merged to; empty where nothing was converted.
        verified: what was compared with what, in a few words, or that nothing was.
        backend: what runs it: ``transformer-lens``, or ``hugging-face`` for the original's modules.
        adapter: what was merged into which base, in a few words; empty where nothing was.
        quantization: how the files' weights are quantized, and whether they stay so in memory, in
            a few words; empty where they are not.
        gguf: name of the GGUF file without its ending; empty where there is none.
    """

    name: str
    source: SourceKind
    hash: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_vocab: int
    n_ctx: int
    n_parameters: int
    dtype: str
    device: str
    parity: float | None
    n_encoder_layers: int = 0
    source_hash: str = ""
    conversion_hash: str = ""
    verified: str = MADE_BY_USER
    backend: str = TRANSFORMER_LENS
    adapter: str = ""
    quantization: str = ""
    gguf: str = ""
