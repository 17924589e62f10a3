"""The wired model: a decoder whose weights are written by hand, so that every answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from layerwise.models.conversion.convert import without_weights
from layerwise.models.conversion.hooked import (
    HookedTransformerConfig,
    has_hooked_transformer,
    refuse_absent_backend,
)
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.instance.facts import Origin, attach_origin, model_facts
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.instance.loaded import HUGGING_FACE
from layerwise.models.weights.strides import restride

from ._wiring import Subspaces, WiredDecoder, WiredWeights, subspaces, write_weights
from .language import WIRED, Language
from .layout import WiredLayout
from .tokenizer import toy_tokenizer

NAME = "wired-decoder"


def wired_model(
    layout: WiredLayout | None = None,
    language: Language = WIRED,
    *,
    seed: int = 0,
    n_ctx: int = 64,
    backend: str = "auto",
) -> DecoderOnly:
    """A decoder that looks up, knows facts and takes two steps, all in planted places.

    The residual stream consists of one-hot subspaces, turned by a random rotation so that
    nothing can be read off single coordinates. Heads attend by large query-key products, and
    relu neurons are AND gates. Layers and heads without a mechanism have random inputs and zero
    output weights. Where the model doesn't know, it says the end of an answer, and ranks the
    values by a fixed order of its own.
    """
    refuse_absent_backend(backend)
    layout = WiredLayout() if layout is None else layout
    rng = np.random.default_rng([seed, *b"wired"])
    spaces = subspaces(layout, language, n_ctx, rng)
    tokenizer = toy_tokenizer(language)
    sizes = _sizes(layout, language, spaces)
    model: DecoderOnly
    if backend != HUGGING_FACE and has_hooked_transformer():
        model = without_weights(_config(sizes), tokenizer)
        write_weights(model, layout, language, spaces, rng)
        restride(model)
    else:
        written = WiredWeights(SimpleNamespace(**sizes))
        write_weights(written, layout, language, spaces, rng)
        own = WiredDecoder(written)
        model = DecoderModel(own, own.parts(), name=NAME, tokenizer=tokenizer)
    attach_origin(model, Origin(model_facts(model), tokenizer))
    return model


def _sizes(layout: WiredLayout, language: Language, spaces: Subspaces) -> dict[str, Any]:
    return {
        "n_layers": layout.n_layers,
        "n_heads": layout.n_heads,
        "n_key_value_heads": None if layout.n_shared == 1 else layout.n_heads // layout.n_shared,
        "d_model": len(spaces.basis),
        "d_head": max(map(len, (spaces.place, spaces.before, spaces.found, spaces.subject))),
        "d_mlp": max(len(language.facts), 2 * language.n_values),
        "d_vocab": len(language.words),
        "n_ctx": len(spaces.place),
    }


def _config(sizes: dict[str, Any]) -> HookedTransformerConfig:
    return HookedTransformerConfig(
        **sizes,
        model_name=NAME,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
        use_attn_scale=False,
        device="cpu",
        dtype=torch.float32,
    )
