"""The original: model and tokenizer as Hugging Face loads them from a folder, checked.

Nothing hooked here; TransformerLens comes after.
"""

from __future__ import annotations

import contextlib
import copy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerwise.errors import UserError, count_noun, one_line
from layerwise.models.decoder.packed import (
    cast_unpacked,
    dequantize_modules,
    packed_buffers,
    packed_weights,
    use_plain_kernels,
)
from layerwise.models.files.stored_weights import refuse_too_large, stored_weights
from layerwise.models.libraries.quiet import no_notes_of_gptqmodel
from layerwise.models.libraries.toy_tokenizer import is_toy, read_toy_tokenizer
from layerwise.models.libraries.untrusted_tokenizer import distrust, refuse_costly_file, try_texts
from layerwise.models.weights.offload import in_pieces, named_weights
from layerwise.models.weights.quantization import quantization_settings, read_quantization

from .folder import must_be_usable
from .parity_text import TEXT


def load_tokenizer(
    folder: Path, config: PreTrainedConfig, *, trusted: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; an untrusted one tries its texts in a limited process first."""
    tokenizer = read_tokenizer(folder, trusted=trusted)
    if not fits(tokenizer, config.vocab_size):
        raise UserError(
            f"Model and tokenizer in {folder} do not match: the tokenizer has token id "
            f"{_largest_id(tokenizer)}, expected ids below the model's vocabulary size "
            f"{config.vocab_size}; use the tokenizer that the model was trained with."
        )
    return tokenizer


def read_tokenizer(folder: Path, *, trusted: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, whatever model it is for."""
    if not trusted:
        refuse_costly_file(folder)
    try:
        tokenizer = (
            read_toy_tokenizer(folder)
            if is_toy(folder)
            else AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        )
        if not trusted:
            distrust(tokenizer, folder)
        # Used once, so that lazily raised errors appear now.
        try_texts(tokenizer, "a", TEXT)  # all that a load encodes
        tokenizer("a")
        for special in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
            getattr(tokenizer, special)
    except UserError:
        raise
    except BaseException as error:
        # What the tokenizers library, written in Rust, raises where it did not foresee an error.
        panic = type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not panic:
            raise
        raise UserError(
            f"The tokenizer in {folder} cannot be loaded ({type(error).__name__}: "
            f"{one_line(error)}): expected files that transformers reads without running code of "
            "theirs; restore them."
        ) from error
    return tokenizer


def fits(tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> bool:
    """True if a model of so many tokens has an embedding for each token of a tokenizer."""
    return _largest_id(tokenizer) < n_tokens


def _largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return max(tokenizer.get_vocab().values(), default=-1)


def load_original(
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    kept_on: torch.device | None = None,
) -> PreTrainedModel:
    """The model of a folder, in ``dtype``, from safetensors alone."""
    quantization, where, quietly = read_quantization(folder), {}, contextlib.nullcontext()
    if quantization is not None:
        quantization.refuse_missing_packages(folder)
        config = quantization.settings(config, quantization_settings(folder), dtype)
        kept_on = kept_on if quantization.kept else None
        where, quietly = {"device_map": {"": kept_on or "cpu"}}, no_notes_of_gptqmodel()
    try:
        with quietly:
            loaded: Any = _auto_class(config).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="eager",
                output_loading_info=True,
                **where,
            )
    except Exception as error:
        raise UserError(
            f"The weights in {folder} cannot be loaded ({type(error).__name__}: "
            f"{one_line(error)}): expected whole safetensors files that fit config.json; delete "
            "that folder and fetch the model again."
        ) from error
    model, report = loaded
    _refuse_gaps(folder, report["missing_keys"], report["unexpected_keys"])
    if quantization is not None:
        use_plain_kernels(model)
        if kept_on is None:
            model = dequantize_modules(model)
        cast_unpacked(model, dtype)
    return model.requires_grad_(False).eval()


def _auto_class(config: PreTrainedConfig) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def refuse_parameters_without_weights(folder: Path, config: PreTrainedConfig) -> None:
    """Check that a folder may hold what its configuration needs, before memory is taken."""
    quantization = read_quantization(folder)
    stored = stored_weights(folder, quantized=quantization is not None)
    with must_be_usable(folder):
        meta_model = meta_original(config)
    refuse_too_large(
        folder, meta_model, stored, None if quantization is None else quantization.n_bits
    )


def meta_original(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a configuration on the device ``meta``, without weights."""
    with torch.device("meta"):
        model = _auto_class(config).from_config(
            copy.deepcopy(config), trust_remote_code=False, attn_implementation="eager"
        )
    return model.to(dtype).requires_grad_(False).eval()


def _refuse_gaps(folder: Path, missing: set[str], unexpected: set[str]) -> None:
    # transformers would fill a gap with random numbers, and drop what it has no place for.
    for names, what in ((missing, "lack"), (unexpected, "have, against config.json,")):
        if names:
            raise UserError(
                f"The weights in {folder} {what} {count_noun(len(names), 'tensor')}, "
                f"{min(names)}{' among them' * (len(names) > 1)}: expected exactly those that "
                "config.json calls for; use the files that belong together."
            )


def refuse_nonfinite(name: str, model: torch.nn.Module) -> None:
    """Refuse weights that are NaN or infinite."""
    packed = packed_weights(model)
    for tensor, weight in chain(named_weights(model), packed_buffers(model)):
        if tensor not in packed and not all(
            torch.isfinite(piece).all() for piece in in_pieces(weight)
        ):
            raise UserError(
                f"Model {name!r} has NaN or infinite weights in {tensor} as {weight.dtype}: "
                "expected finite numbers; fetch the model again, or choose dtype float32 or "
                "bfloat16 if float16 was too narrow."
            )
