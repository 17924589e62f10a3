"""GGUF files: converted once to a folder in hub format, which is kept in the cache folder.

The reading of the format and the dequantization are transformers' own.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.errors import UserError, one_line
from layerwise.models.files.cache import cache_dir, complete_or_nothing, discard, file_sha256
from layerwise.models.files.manifest import is_conversion, write_manifest
from layerwise.models.huggingface.quiet import quiet

from .gguf_header import GgufHeader, read_gguf_header

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


_NAME = "model.gguf"


def folder_of_gguf(path: Path, *, expected_sha256: str | None = None) -> Path:
    """The folder in hub format that ``path`` was converted to, now or earlier."""
    # The weights are dequantized to float32 and held against the file's own tensors. The folder is
    # named by the file's hash and appears only when it is complete; a manifest in it tells the
    # hashes of its files (see ``manifest``).
    if expected_sha256 is not None:
        _refuse_another_file(path, expected_sha256)
    header = read_gguf_header(path)
    digest = file_sha256(path)
    folder = cache_dir() / "gguf" / digest
    if not is_conversion(folder):
        discard(folder)
        with complete_or_nothing(folder) as partial:
            _convert(path, header, partial)
            write_manifest(partial)
    return folder


def _refuse_another_file(path: Path, expected_sha256: str) -> None:
    digest = file_sha256(path)
    if digest != expected_sha256:
        raise UserError(
            f"{path.name} is not the file it should be: expected SHA-256 {expected_sha256}, got "
            f"{digest}; reinstall the package it came with."
        )


def _convert(path: Path, header: GgufHeader, folder: Path) -> None:
    """Convert what the header says can be converted; refuse the rest before weights are read."""
    from safetensors.torch import save_model

    from .gguf_check import refuse_other_values, tensor_names

    # The bar of the conversion is not governed by transformers' own switch.
    with quiet(), contextlib.redirect_stderr(io.StringIO()), _alone(path, folder) as place:
        config = _config(path, header, folder, place)
        with _refusals(path):
            names = tensor_names(path, header, config)
            tokenizer, model = _read_by_transformers(place, config)
            refuse_other_values(path, header, model, names)
        # Newer transformers call the dequantized model quantized and refuse save_pretrained.
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


@contextlib.contextmanager
def _alone(path: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The file as the only one of a folder: transformers would read, or run, what is beside it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / _NAME).symlink_to(path.resolve())
        yield {"pretrained_model_name_or_path": place, "gguf_file": _NAME}


def _config(
    path: Path, header: GgufHeader, folder: Path, place: dict[str, str]
) -> PreTrainedConfig:
    """The configuration that the header tells, if such models can be run."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from layerwise.models.conversion.convert import NotConverted, hooked_config
    from layerwise.models.decoder.load import hooked_decoder, meta_model_of

    from .gguf_check import refuse_other_architectures
    from .gguf_settings import complete_settings, refuse_unread_settings

    refuse_other_architectures(path, header)
    with _refusals(path):
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False, local_files_only=True)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        complete_settings(header, config)
        config.save_pretrained(folder)
        refuse_unread_settings(path, header, config)
    try:
        hooked_config(folder, path.name, config, torch.float32)
    except NotConverted:
        hooked_decoder(meta_model_of(config), None, path.name)
    return config


def _read_by_transformers(
    place: dict[str, str], config: PreTrainedConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        **place, trust_remote_code=False, local_files_only=True
    )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **place,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model, report = loaded
    # transformers would fill a gap with random numbers.
    gaps = [*report["missing_keys"], *report["unexpected_keys"]]
    if gaps:
        raise ValueError(f"no tensor becomes {min(gaps)}")
    return tokenizer, model


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"{path.name} cannot be converted ({type(error).__name__}: {one_line(error)}): "
            "expected a GGUF file of an architecture that transformers reads; use the model's "
            "safetensors folder."
        ) from error
