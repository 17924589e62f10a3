"""From a Hugging Face model to a hooked one, by TransformerLens's own conversion.

Nothing is folded or centred: activations mean what they mean in the original. Whether the
conversion is right is for the parity check to say.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, one_line
from layerwise.models.instance.loaded import TRANSFORMER_LENS
from layerwise.models.libraries.hooked import (
    HookedTransformer,
    HookedTransformerConfig,
    has_hooked_transformer,
)
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.models.weights.mapped_memory import mapped_memory_releaser


class NoConversionError(UserError):
    """TransformerLens has no conversion of a model."""


def refuse_absent_backend(backend: str) -> None:
    """Refuse TransformerLens's backend where the installed release has no models."""
    if backend == TRANSFORMER_LENS and not has_hooked_transformer():
        raise UserError(
            f"The installed TransformerLens {metadata.version('transformer-lens')} has no models "
            "of its own (HookedTransformer), which releases below 4 have: expected the backend "
            "'hugging-face' or 'auto'; choose one of these, or pip install 'transformer-lens<4'."
        )


# From these words in a path TransformerLens concludes what architecture the model has.
_TELLTALE = ("llama", "gemma", "wav2vec2")


def hooked_config(
    folder: Path, name: str, config: PreTrainedConfig, dtype: torch.dtype
) -> HookedTransformerConfig:
    """TransformerLens's configuration of the model in ``folder``."""
    if not has_hooked_transformer():
        raise NoConversionError(
            "The installed TransformerLens converts no models: expected a release below 4; pip "
            "install 'transformer-lens<4', or leave the backend to be chosen (`auto`)."
        )
    from transformer_lens import loading_from_pretrained as loading

    with _refusals(config), _neutral(folder) as place:
        cfg = loading.get_pretrained_model_config(
            place, device="cpu", dtype=dtype, trust_remote_code=False
        )
        cfg.n_ctx = _longest_context(config, cfg)
    cfg.model_name, cfg.tokenizer_name = name, str(folder)
    cfg.trust_remote_code = False
    return cfg


def hooked_model(
    cfg: HookedTransformerConfig, original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> HookedTransformer:
    """The hooked model with the original's weights, in the original's memory layout."""
    # The original has none afterwards: each weight is copied and let go before the next, so that
    # memory holds them once.
    from transformer_lens import loading_from_pretrained as loading

    with _refusals(original.config), torch.no_grad():
        state = loading.get_pretrained_state_dict(str(cfg.tokenizer_name), cfg, original)
        nn.Module.to(original, "meta")
        model = without_weights(cfg, tokenizer)
        own = {}
        with mapped_memory_releaser() as release:
            for key in list(state):
                weight = state.pop(key)
                own[key] = _own(weight, cfg.dtype)
                release(weight)
                del weight
        model.load_state_dict(model.fill_missing_keys(own), strict=False, assign=True)
    if cfg.positional_embedding_type == "alibi" and hasattr(model, "pos_embed"):
        # Nothing reads these, and TransformerLens leaves them as it found the memory.
        model.pos_embed.W_pos.data.zero_()
    return model


def without_weights(
    cfg: HookedTransformerConfig, tokenizer: PreTrainedTokenizerBase
) -> HookedTransformer:
    """The hooked model before its parameters have values."""
    with silence_deprecation("HookedTransformer"):
        # TransformerLens writes special tokens into the tokenizer it is given.
        model = HookedTransformer(cfg, copy.deepcopy(tokenizer), move_to_device=False)
    model.cfg.default_prepend_bos = _prepends_bos(tokenizer)
    return model.eval()


def _own(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # The original's memory is the mapped file, which somebody may write to; and tied embeddings
    # are two parameters here, so that one can be changed without the other.
    return tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


def _prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _longest_context(config: PreTrainedConfig, cfg: HookedTransformerConfig) -> int:
    # A limit that only shows in long texts cannot be seen by the parity check, so texts are
    # kept shorter: sliding windows that TransformerLens leaves out, and rotary embeddings
    # that change with the length of the text.
    limits = [getattr(config, "max_position_embeddings", None) or cfg.n_ctx]
    window = getattr(config, "sliding_window", None)
    if window and not (cfg.use_local_attn and cfg.window_size == window):
        limits.append(window)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope", "su"):
        original = getattr(config, "original_max_position_embeddings", None)
        limits.append(rope.get("original_max_position_embeddings") or original or limits[0])
    return int(min(limits))


def _is_neutral(place: str) -> bool:
    return not any(word in place.lower() for word in _TELLTALE)


@contextlib.contextmanager
def _neutral(folder: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="layerwise-") as place:
        fields = json.loads((folder / "config.json").read_text("utf-8"))
        # TransformerLens reads GPT-2's context length under a name that transformers has dropped.
        if "n_positions" in fields:
            fields.setdefault("n_ctx", fields["n_positions"])
        Path(place, "config.json").write_text(json.dumps(fields), "utf-8")
        # A working directory that is gone has no relative path; so it is asked for only if need be.
        neutral = place if _is_neutral(place) else os.path.relpath(place)
        if not _is_neutral(neutral):
            raise UserError(
                f"The folder for temporary files, {tempfile.gettempdir()}, has the name of a model "
                f"family in it: expected none of {', '.join(_TELLTALE)}; set TMPDIR to another."
            )
        yield neutral


@contextlib.contextmanager
def _refusals(config: PreTrainedConfig) -> Iterator[None]:
    # What the machine lacks (memory, a disk) says nothing about the model.
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        architecture = next(iter(config.architectures or []), config.model_type)
        raise NoConversionError(
            f"TransformerLens cannot convert this {architecture} model ({type(error).__name__}: "
            f"{one_line(error)}): expected an architecture such as Llama, Mistral, Qwen2, Qwen3, "
            "Phi-3, GPT-2, GPT-NeoX or OPT; use such a model."
        ) from error
