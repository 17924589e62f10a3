"""Weights that files hold in fewer bits: by which method, and what becomes of them in memory.

Judged by ``config.json`` alone.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from layerwise.errors import UserError
from layerwise.models.files.stored_weights import read_json_object
from layerwise.models.libraries.hooked import has_hooked_transformer

QUANTIZATION = "quantization_config"
"""The field of ``config.json`` that tells of it."""
BITSANDBYTES, GPTQ, AWQ, FP8, MXFP4 = "bitsandbytes", "gptq", "awq", "fp8", "mxfp4"
_PACKAGES = {BITSANDBYTES: ("bitsandbytes",), GPTQ: ("gptqmodel", "optimum"), AWQ: ("gptqmodel",)}
_WORDS = {
    BITSANDBYTES: "bitsandbytes", GPTQ: "GPTQ", AWQ: "AWQ", FP8: "FP8", MXFP4: "MXFP4",
}  # fmt: skip
_GPTQ_BITS = (2, 4, 8)


@dataclass(frozen=True)
class Quantization:
    """Quantization of the weights of a folder."""

    method: str  # as ``quant_method`` names it
    n_bits: int  # bits of a weight, without scales and the like
    # Whether weights can stay as they are in memory; else each becomes the number that it stands
    # for when it is loaded.
    kept: bool
    kind: str = ""  # of bitsandbytes with 4 bits, ``nf4`` or ``fp4``; otherwise empty

    @property
    def words(self) -> str:
        """The method in a few words."""
        kind = f" {self.kind.upper()}" if self.kind else ""
        return f"{_WORDS[self.method]}{kind}, {self.n_bits} bits a weight"

    @property
    def versions(self) -> list[str]:
        """Names and versions of the packages that read the weights."""
        return [f"{name} {metadata.version(name)}" for name in _PACKAGES.get(self.method, ())]

    def refuse_missing_packages(self, folder: Path) -> None:
        """Accept only a machine on which the weights can be read."""
        packages = _PACKAGES.get(self.method, ())
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"The weights in {folder} are quantized by {_WORDS[self.method]}: expected the "
                f"package{'s' * (len(packages) > 1)} {' and '.join(packages)}, which read"
                f"{'s' * (len(packages) == 1)} them; run pip install {' '.join(missing)}."
            )

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Number formats in which the library computes with weights that it keeps."""
        narrow = (torch.float16, torch.bfloat16)
        return narrow if self.method == AWQ else (torch.float32, *narrow)

    def refuse_format(self, name: str, dtype: torch.dtype) -> None:
        """Accept only number formats in which the library computes."""
        if self.kept and dtype not in self.formats:
            raise UserError(
                f"The weights of {name!r} are quantized by AWQ, whose modules compute in 16 bits "
                "whatever they are given: expected dtype float16 or bfloat16, or numbers; name one "
                f"of these formats, or {dequantize_advice()}."
            )

    def settings(self, config: PreTrainedConfig, given: Any, dtype: torch.dtype) -> Any:
        """A copy of a configuration that says how transformers is to load the weights."""
        # Weights are multiplied as the numbers that they stand for, in the number format that is
        # asked for, and by the same code on every device, so that what is computed of a text does
        # not depend on what else is in a batch.
        chosen: dict[str, Any] = {
            BITSANDBYTES: {"bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")},
            GPTQ: {"backend": "torch"},
            AWQ: {"backend": "torch_awq"},
        }.get(self.method, {"dequantize": True})
        config = copy.deepcopy(config)
        setattr(config, QUANTIZATION, {**given, **chosen})
        return config


def dequantize_advice() -> str:
    """Advice on kept weights where numbers are needed, in words."""
    if has_hooked_transformer():
        return "load the model with backend transformer-lens, which makes numbers of them"
    return "use the model's unquantized weights"


def read_quantization(folder: Path) -> Quantization | None:
    """Quantization of the weights in a folder; None if they are not quantized."""
    settings = quantization_settings(folder)
    return _parse_settings(folder, settings) if settings else None


def quantization_settings(folder: Path) -> Any:
    """``quantization_config`` as the ``config.json`` of a folder has it."""
    return read_json_object(folder / "config.json").get(QUANTIZATION)


def _parse_settings(folder: Path, settings: Any) -> Quantization:
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method == BITSANDBYTES:
        if settings.get("load_in_4bit") is True:
            kind = settings.get("bnb_4bit_quant_type", "fp4")
            if kind in ("nf4", "fp4"):
                return Quantization(BITSANDBYTES, 4, True, kind)
        elif settings.get("load_in_8bit") is True:
            return Quantization(BITSANDBYTES, 8, False)
    elif method == GPTQ and settings.get("bits") in _GPTQ_BITS:
        return Quantization(GPTQ, settings["bits"], True)
    elif method == AWQ and settings.get("bits", 4) == 4:
        return Quantization(AWQ, 4, True)
    elif method == FP8:
        return Quantization(FP8, 8, False)
    elif method == MXFP4:
        return Quantization(MXFP4, 4, False)
    by = f" by {method[:40]}" if isinstance(method, str) else ""
    raise UserError(
        f"The weights in {folder} are quantized{by} in a way that is not supported: expected "
        "bitsandbytes (NF4, FP4, 8 bits), GPTQ (2, 4, 8 bits), AWQ (4 bits), FP8 or MXFP4; use the "
        "model's unquantized weights, or a GGUF file."
    )
