"""GGUF files: converted once to a folder in hub format, which is kept in the cache folder.

The reading of the format and the dequantization are transformers' own.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from layerwise.errors import UserError
from layerwise.models.cache import cache_dir, complete_or_nothing, file_sha256
from layerwise.models.quiet import quiet


def folder_of_gguf(path: Path, *, expected_sha256: str | None = None) -> Path:
    """The folder in hub format that ``path`` was converted to, now or earlier.

    The weights are dequantized to float32. The folder is named by the file's hash and appears
    only when it is complete.

    Args:
        path: a GGUF file.
        expected_sha256: what its hash must be, if that is known.

    Raises:
        UserError: if it is no GGUF file, not the expected one, of an architecture that
            transformers cannot read from GGUF, or if the cache folder cannot be written.
    """
    _refuse_other_formats(path)
    digest = file_sha256(path)
    if expected_sha256 not in (None, digest):
        raise UserError(
            f"{path.name} is not the file it should be: expected SHA-256 {expected_sha256}, got "
            f"{digest}; reinstall the package it came with."
        )
    folder = cache_dir() / "gguf" / digest
    if not folder.is_dir():
        with complete_or_nothing(folder) as partial:
            _convert(path, partial)
    return folder


def _refuse_other_formats(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): expected a GGUF file; check its "
            "permissions."
        ) from error
    if magic != b"GGUF":
        raise UserError(
            f"{path} is no GGUF file: expected one that begins with 'GGUF', or a model folder; "
            "give one of these, a hub id or an alias."
        )


def _convert(path: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from layerwise.models.folder import one_line

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # The bar of the conversion is not governed by transformers' own switch.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        try:
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        except OSError:
            raise
        except Exception as error:
            raise UserError(
                f"{path.name} cannot be converted ({type(error).__name__}: {one_line(error)}): "
                "expected a GGUF file of an architecture that transformers reads; use the model's "
                "safetensors folder."
            ) from error
        # Newer transformers call the dequantized model quantized and refuse save_pretrained.
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
