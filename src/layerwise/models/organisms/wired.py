"""The wired model: a decoder whose weights are written by hand, so that every answer is known.

Where its mechanisms are is told in ``layout``; the weights are written in ``_wiring``.
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from layerwise.models.convert import without_weights
from layerwise.models.facts import Origin, attach_origin, model_facts
from layerwise.models.hooked import HookedTransformer, HookedTransformerConfig
from layerwise.models.organisms._wiring import Rooms, write_weights
from layerwise.models.organisms.language import WIRED, Language
from layerwise.models.organisms.layout import WiredLayout
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.strides import restride


def wired_model(
    layout: WiredLayout | None = None,
    language: Language = WIRED,
    *,
    seed: int = 0,
    n_ctx: int = 64,
) -> HookedTransformer:
    """A decoder that looks up, knows facts and takes two steps, all in planted places.

    The residual stream consists of one-hot subspaces, turned by a random rotation so that
    nothing can be read off single coordinates. Heads attend by large query-key products, and
    relu neurons are AND gates. Layers and heads without a mechanism have random inputs and zero
    output weights. Where the model doesn't know, it says the end of an answer, and ranks the
    values by a fixed order of its own.

    Args:
        layout: where the mechanisms are; the default layout if None.
        language: the words and facts; brackets are not understood.
        seed: decides the rotation, the weights that do nothing, and the order of values.
        n_ctx: longest context, in tokens.

    Returns:
        A float32 model on the CPU that takes prompts as its tokenizer makes them: ``<s>`` first.
    """
    layout = WiredLayout() if layout is None else layout
    rng = np.random.default_rng([seed, *b"wired"])
    rooms = Rooms.drawn(layout, language, n_ctx, rng)
    tokenizer = toy_tokenizer(language)
    model = _unwritten(_config(layout, language, rooms), tokenizer)
    write_weights(model, layout, language, rooms, rng)
    restride(model)
    attach_origin(model, Origin(model_facts(model), tokenizer))
    return model


def _unwritten(
    cfg: HookedTransformerConfig, tokenizer: PreTrainedTokenizerBase
) -> HookedTransformer:
    # TransformerLens reads the tokenizer again from where it came from.
    with tempfile.TemporaryDirectory(prefix="layerwise-") as place:
        tokenizer.save_pretrained(place)
        return without_weights(cfg, AutoTokenizer.from_pretrained(place))


def _config(layout: WiredLayout, language: Language, rooms: Rooms) -> HookedTransformerConfig:
    return HookedTransformerConfig(
        model_name="wired-decoder",
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        n_key_value_heads=None if layout.n_shared == 1 else layout.n_heads // layout.n_shared,
        d_model=len(rooms.basis),
        d_head=max(map(len, (rooms.place, rooms.before, rooms.found, rooms.subject))),
        d_mlp=max(len(language.facts), 2 * language.n_values),
        d_vocab=len(language.words),
        n_ctx=len(rooms.place),
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
        use_attn_scale=False,
        device="cpu",
        dtype=torch.float32,
    )
