"""Folders with quantized weights, each with a twin whose weights are the numbers they stand for.

What no package is needed for is packed here, by the formats' own rules.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.tiny import tiny_folder

WEIGHTS, GROUP = "model.safetensors", 32
GPTQ = {
    "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False,
    "true_sequential": True, "damp_percent": 0.01, "dataset": None,
}  # fmt: skip
AWQ = {
    "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
    "modules_to_not_convert": None,
}  # fmt: skip
FP8 = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
    "weight_block_size": [128, 128],
}  # fmt: skip
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                               "model.embed_tokens", "lm_head"],
}  # fmt: skip
_MXFP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Tensors = dict[str, torch.Tensor]
# What the files hold in the place of a weight, and the numbers it stands for.
Packed = tuple[Tensors, torch.Tensor]


def llama(root: Path, **fields: Any) -> Path:
    """A folder with numbers, wide enough for any way of packing."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 1024}
    return tiny_folder(root, "llama", **{**sizes, **fields})


def by_bitsandbytes(folder: Path, out: Path, kind: str) -> Path:
    """A folder quantized by transformers with bitsandbytes.

    In ``nf4 double`` scales are quantized too, in ``nf4 in bfloat16`` a number holds four weights.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_8bit=kind == "int8", load_in_4bit=kind != "int8",
        bnb_4bit_quant_type="nf4" if kind == "int8" else kind[:3],
        bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant="double" in kind,
        bnb_4bit_quant_storage=torch.bfloat16 if "bfloat16" in kind else torch.uint8,
    )  # fmt: skip
    fields = json.loads((folder / "config.json").read_text())
    of = AutoModelForSeq2SeqLM if fields.get("is_encoder_decoder") else AutoModelForCausalLM
    model: Any = of.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    )
    model.save_pretrained(out)
    for path in folder.glob("token*"):
        shutil.copyfile(path, out / path.name)
    return out


def packed_folder(
    folder: Path,
    out: Path,
    settings: dict[str, Any],
    pack: Callable[[torch.Tensor, str], Packed],
    endings: tuple[str, ...] = ("_proj.weight",),
) -> tuple[Path, Path]:
    """A folder with packed weights and its twin with the numbers that they stand for.

    ``pack`` gives tensors, by names that begin with the weight's, and the numbers.
    """
    packed, twin = out / "packed", out / "twin"
    for place in (packed, twin):
        shutil.copytree(folder, place)
    tensors, numbers = {}, {}
    for name, weight in load_file(folder / WEIGHTS).items():
        if name.endswith(endings):
            made, numbers[name] = pack(weight.float(), name)
            tensors |= made
        else:
            tensors[name] = numbers[name] = weight
    for place, held in ((packed, tensors), (twin, numbers)):
        whole = {name: one.contiguous().clone() for name, one in held.items()}
        save_file(whole, place / WEIGHTS, {"format": "pt"})
    fields = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**fields, "quantization_config": settings}))
    return packed, twin


def _round_weights(
    weight: torch.Tensor, groups: torch.Tensor, bits: int = 4
) -> tuple[torch.Tensor, ...]:
    """Whole numbers by input and output, scales and zeros by group of inputs, and the numbers."""
    most, inputs = 2**bits - 1, weight.T
    by_group = [inputs[groups == group] for group in range(int(groups.max()) + 1)]
    low, high = (torch.stack([fn(one, 0) for one in by_group]) for fn in (torch.amin, torch.amax))
    scale = ((high - low) / most).half()
    zero = (-low / scale.float()).round().clamp(1, most)
    whole = (inputs / scale.float()[groups] + zero[groups]).round().clamp(0, most)
    # In half precision, as the library's modules do.
    numbers = ((whole - zero[groups]).half() * scale[groups]).T.float()
    return whole.int(), scale, zero.int(), numbers


def _pack_bits(
    whole: torch.Tensor, dim: int, bits: int = 4, order: tuple[int, ...] | None = None
) -> torch.Tensor:
    """As many whole numbers as there is room for in each of 32 bits, the first one lowest."""
    room = 32 // bits
    several = whole.movedim(dim, -1).unflatten(-1, (-1, room)).long()
    places = order or range(room)
    packed = sum(several[..., place] << (bits * n) for n, place in enumerate(places))
    assert isinstance(packed, torch.Tensor)
    signed = torch.where(packed >= 2**31, packed - 2**32, packed)
    return signed.int().movedim(-1, dim)


def gptq(bits: int = 4, *, mixed: bool = False) -> Callable[[torch.Tensor, str], Packed]:
    """Pack weights as GPTQ's files have them: zeros are stored less 1.

    ``mixed``: groups are of inputs all over (``desc_act``), not of neighbours.
    """

    def pack(weight: torch.Tensor, name: str) -> Packed:
        n_in = weight.shape[1]
        groups = torch.arange(n_in) // GROUP
        if mixed:
            groups = groups[torch.randperm(n_in, generator=torch.Generator().manual_seed(n_in))]
        whole, scale, zero, numbers = _round_weights(weight, groups, bits)
        of = name.removesuffix("weight")
        return {
            f"{of}qweight": _pack_bits(whole, 0, bits),
            f"{of}qzeros": _pack_bits(zero - 1, 1, bits),
            f"{of}scales": scale,
            f"{of}g_idx": groups.int(),
        }, numbers

    return pack


def awq(weight: torch.Tensor, name: str) -> Packed:
    """A weight as AWQ's files have it: outputs lie in an order of their own."""
    whole, scale, zero, numbers = _round_weights(weight, torch.arange(weight.shape[1]) // GROUP)
    of = name.removesuffix("weight")
    return {
        f"{of}qweight": _pack_bits(whole, 1, order=_AWQ_ORDER),
        f"{of}qzeros": _pack_bits(zero, 1, order=_AWQ_ORDER),
        f"{of}scales": scale,
    }, numbers


def fp8(weight: torch.Tensor, name: str) -> Packed:
    """A weight as FP8 in blocks of 128 by 128, each with a scale."""
    n_out, n_in = weight.shape
    blocks = weight.reshape(n_out // 128, 128, n_in // 128, 128)
    scale = blocks.abs().amax((1, 3)) / 448
    packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    numbers = (packed.float() * scale[:, None, :, None]).reshape(n_out, n_in)
    return {name: packed.reshape(n_out, n_in), f"{name}_scale_inv": scale}, numbers


def mxfp4(weight: torch.Tensor, name: str) -> Packed:
    """Experts as MXFP4: 32 inputs share a power of two."""
    experts, n_in, n_out = weight.shape
    blocks = weight.transpose(1, 2).reshape(experts, n_out, n_in // 32, 32)
    power = torch.floor(torch.log2(blocks.abs().amax(-1) / 6)) + 1
    scaled = blocks / 2 ** power[..., None]
    index = (scaled[..., None] - _MXFP4_VALUES).abs().argmin(-1)
    numbers = (_MXFP4_VALUES[index] * 2 ** power[..., None]).reshape(experts, n_out, n_in)
    packed = (index[..., 0::2] | (index[..., 1::2] << 4)).to(torch.uint8)
    scales = (power + 127).to(torch.uint8)
    return {f"{name}_blocks": packed, f"{name}_scales": scales}, numbers.transpose(1, 2)


def of_fp8(out: Path) -> tuple[Path, Path]:
    """A Llama in FP8 and its twin."""
    folder = llama(out, hidden_size=256, intermediate_size=256, head_dim=64)
    return packed_folder(folder, out, FP8, fp8)


def of_mxfp4(out: Path) -> tuple[Path, Path]:
    """A GPT-OSS as those that are published, and its twin."""
    folder = tiny_family_folder(
        "gpt-oss", out, hidden_size=64, intermediate_size=64, head_dim=16,
        max_position_embeddings=1024,
    )  # fmt: skip
    experts = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    return packed_folder(folder, out, MXFP4, mxfp4, experts)
