"""A conversion from GGUF held against its file: no tensor missing or left over, and its values.

Names are mapped by the gguf library's own table, values dequantized by it; the conversion that
is checked is made by transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from einops import rearrange
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from layerwise.errors import UserError, count_noun

from .gguf_header import GgufHeader, block_numbers

ARCHITECTURES = (
    "bloom", "gemma2", "gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
    "stablelm", "starcoder2",
)  # fmt: skip
"""Names in GGUF files of architectures that can be converted and checked; Mistral is llama."""

_SAMPLED_ROWS = 64
_NORMS_FROM_ONE = ("gemma2", "gemma3")  # which add 1 to them when they run
# Of which transformers makes one parameter, the gates first; and a matrix of one row.
_HALVES = ("ffn_gate_exps.weight", "ffn_up_exps.weight")
_ONE_ROW = "ffn_gate_inp_shexp.weight"
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")


def refuse_other_architectures(path: Path, header: GgufHeader) -> str:
    """The architecture that the header names, if such files can be converted."""
    architecture = header.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path.name} cannot be converted: its architecture is {str(architecture)[:60]!r}, "
            f"expected one of {', '.join(ARCHITECTURES)}; use the model's safetensors folder, or "
            "another model."
        )
    if header.number(f"{architecture}.expert_count") and not architecture.endswith("moe"):
        raise UserError(
            f"{path.name} cannot be converted: it is a mixture of experts of architecture "
            f"{architecture!r}, as Mixtral is, whose experts transformers leaves out; expected a "
            "file of a model without, or of qwen2moe or qwen3moe; use the model's safetensors "
            "folder."
        )
    n_layers, layers = header.number(f"{architecture}.block_count"), block_numbers(header.tensors)
    if n_layers is None or layers != set(range(min(n_layers, len(header.tensors) + 1))):
        raise UserError(
            f"{path.name} cannot be converted: its header has {n_layers} blocks, its tensors "
            f"have {len(layers)}; expected a file whose header and tensors belong together; "
            "fetch it again."
        )
    return architecture


def tensor_names(path: Path, header: GgufHeader, config: PreTrainedConfig) -> dict[str, str]:
    """The parameter that each tensor of a GGUF file becomes, by the tensor's name."""
    architecture = header.metadata["general.architecture"]
    with torch.device("meta"):
        meta_model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    known = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(known, config.num_hidden_layers)
    wanted = {
        stored: name for name in meta_model.state_dict() for stored in _names_in_file(table, name)
    }
    # The libraries know no tensor for an output that is always tied, as Gemma's is.
    tied = {"output.weight", _no_tensor("lm_head.weight")} if config.tie_word_embeddings else set()
    _refuse_gaps(path, "lacks", wanted.keys() - header.tensors.keys() - tied)
    _refuse_gaps(path, "has, against its header,", _surplus(header, wanted))
    shapes = {name: tuple(weight.shape) for name, weight in meta_model.state_dict().items()}
    for stored, name in wanted.items():
        expected = _shape_in_file(architecture, stored, shapes[name])
        if stored in header.tensors and header.shape(stored) != expected:
            raise UserError(
                f"{path.name} cannot be converted: tensor {stored} has shape "
                f"{header.shape(stored)}, expected {expected} by the header; fetch the file again."
            )
    return {stored: name for stored, name in wanted.items() if stored in header.tensors}


def refuse_other_values(
    path: Path, header: GgufHeader, model: PreTrainedModel, names: dict[str, str]
) -> None:
    """Make sure that a converted model has the file's own values, in some rows of each tensor."""
    weights = model.state_dict()
    architecture = header.metadata["general.architecture"]
    for stored, name in names.items():
        tensor, weight = header.tensors[stored], weights[name]
        if _is_transposed(architecture, stored):
            weight = weight.T
        if stored.endswith(_HALVES):
            weight = weight.chunk(2, dim=1)[stored.endswith(_HALVES[1])]
        # A vector has rows of one number.
        data = _rows(tensor)
        n_rows = data.shape[1] if len(tensor.shape) == 1 else len(data)
        places = _origins(architecture, stored, n_rows, model.config)
        rows = np.arange(n_rows)
        if len(tensor.shape) > 1:
            rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _SAMPLED_ROWS)).astype(int))
            data = data[rows]
        dequantized = gguf.dequantize(data, tensor.tensor_type).astype(np.float32)
        values = torch.from_numpy(dequantized).reshape(len(rows), -1)
        if architecture in _NORMS_FROM_ONE and stored.endswith("norm.weight"):
            values = values - 1
        given = weight.reshape(len(places), -1)[np.argsort(places)[rows]]
        if not torch.allclose(given, values, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise UserError(
                f"{path.name} was not converted rightly: {name} has other values than tensor "
                f"{stored} of the file; expected the same; use the model's safetensors folder."
            )


def _names_in_file(table: gguf.TensorNameMap, name: str) -> list[str]:
    """The tensors that a parameter is made of."""
    block, _, of_block = name.partition(".mlp.experts.")
    if of_block not in ("gate_up_proj", "down_proj"):
        return [_name_in_file(table, name)]
    down = _name_in_file(table, f"{block}.mlp.experts.down_proj.weight")
    if of_block == "down_proj":
        return [down]
    return [down.replace("ffn_down_exps.weight", half) for half in _HALVES]


def _name_in_file(table: gguf.TensorNameMap, name: str) -> str:
    # Some were converted from the model without its head, whose names are shorter.
    for spelling in (name, name.partition(".")[2]):
        file_name = table.get_name(spelling, try_suffixes=(".weight", ".bias"))
        if file_name is not None:
            return file_name
    return _no_tensor(name)


def _no_tensor(name: str) -> str:
    return f"a tensor for {name}"


def _surplus(header: GgufHeader, wanted: Iterable[str]) -> set[str]:
    surplus = header.tensors.keys() - set(wanted)
    # Factors of rotary frequencies, which transformers leaves out: they may be 1.
    factors = header.tensors.get("rope_freqs.weight")
    if factors is not None and (gguf.dequantize(_rows(factors), factors.tensor_type) == 1).all():
        surplus.discard("rope_freqs.weight")
    return surplus


def _refuse_gaps(path: Path, what: str, names: set[str]) -> None:
    if names:
        raise UserError(
            f"{path.name} cannot be converted: it {what} {count_noun(len(names), 'tensor')}, "
            f"{min(names)[:80]}{' among them' * (len(names) > 1)}; expected exactly those of its "
            "architecture and number of blocks; fetch the file again, or use the model's "
            "safetensors folder."
        )


def _is_transposed(architecture: str, stored: str) -> bool:
    return architecture == "gpt2" and stored.endswith(_TRANSPOSED)


def _shape_in_file(architecture: str, stored: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the tensor that becomes a parameter, or a part of it."""
    if stored.endswith(_HALVES):
        return (shape[0], shape[1] // 2, *shape[2:])
    if stored.endswith(_ONE_ROW):
        return shape[1:]
    return shape[::-1] if _is_transposed(architecture, stored) else shape


def _rows(tensor: gguf.ReaderTensor) -> Any:
    """The stored bytes or numbers of a tensor by row, of all experts together."""
    data = tensor.data
    return data.reshape(-1, data.shape[-1])


def _origins(architecture: str, stored: str, n_rows: int, config: PreTrainedConfig) -> Any:
    """The tensor row of each parameter row; some are stored in another order."""
    places = np.arange(n_rows)
    if architecture == "llama" and ".attn_q." in stored:
        return _unpair_rotary_rows(places, config.num_attention_heads)
    if architecture == "llama" and ".attn_k." in stored:
        return _unpair_rotary_rows(places, config.num_key_value_heads)
    if architecture == "bloom" and ".attn_qkv." in stored:
        return rearrange(places, "(qkv head d) -> (head qkv d)", qkv=3, head=config.n_head)
    return places


def _unpair_rotary_rows(places: Any, n_heads: int) -> Any:
    """Rows of each head in the order of Hugging Face, from pairs that are turned together."""
    return rearrange(places, "(head d half) -> (head half d)", head=n_heads, half=2)
