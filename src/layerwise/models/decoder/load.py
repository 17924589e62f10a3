"""From a Hugging Face decoder to a hooked one that runs its modules."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from .families import TESTED, WRITTEN, parts_of
from .model import DecoderModel
from .packed import has_packed, is_packed, widened
from .parts import Parts
from .reading import unknown


def hooked_decoder(
    original: nn.Module, tokenizer: PreTrainedTokenizerBase | None, name: str
) -> DecoderModel:
    """The hooked model over an original, whose modules it runs."""
    parts = parts_of(original)
    if is_packed(parts.unembed):
        raise unknown(parts.unembed, "stands for an unembedding whose weights are quantized")
    if not is_tested(original):
        parts = _within_windows(parts)
    return DecoderModel(original, parts, name=name, tokenizer=tokenizer)


def with_numbers(model: DecoderModel) -> DecoderModel:
    """The model with numbers for quantized weights, which it gives up; itself if it has none."""
    if not has_packed(model.original):
        return model
    return hooked_decoder(widened(model.original), model.tokenizer, model.cfg.model_name)


def is_tested(original: nn.Module) -> bool:
    """Whether tests hold models of this class to their originals, and the engine to them."""
    return type(original).__name__ in TESTED | WRITTEN


def _within_windows(parts: Parts) -> Parts:
    """Texts as short as the shortest window: no comparison of short texts sees one."""
    windows = [block.attn.window for block in parts.blocks if block.attn.window is not None]
    return replace(parts, n_ctx=min([parts.n_ctx, *windows]))


def meta_model_of(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The Hugging Face model of a configuration, without weights."""
    with torch.device("meta"):
        original: nn.Module = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), trust_remote_code=False
        )
    return original.to(dtype).eval()
