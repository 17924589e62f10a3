"""A model folder in hub format without some of its layers, written from the original's files.

No weight is changed: tensors are copied as they are stored, and those of later layers get the
numbers that they have once the others are gone.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from layerwise.errors import UserError

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_COPIED = (".json", ".txt", ".model", ".tiktoken", ".jinja")
# What stands before the first part of a tensor's name that is a number, that number, the rest.
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(\d+)\.(.+)")


def write_pruned_folder(
    folder: Path, config: PreTrainedConfig, removed: Sequence[int], out: Path
) -> None:
    """Write the model in ``folder`` without some layers.

    Args:
        folder: the original, in hub format.
        config: its configuration.
        removed: the layers that are left out, from 0.
        out: an existing, empty folder.

    Raises:
        UserError: if the tensors of the layers cannot be told by their names.
    """
    kept = [layer for layer in range(config.num_hidden_layers) if layer not in removed]
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    fields |= _fields_without(config, fields, kept)
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    _write_weights(folder, config.num_hidden_layers, kept, out)
    for path in folder.iterdir():
        ours = path.name in ("config.json", _INDEX)
        if path.is_file() and not ours and (path.suffix in _COPIED or path.name == "LICENSE"):
            shutil.copyfile(path, out / path.name)


def _fields_without(
    config: PreTrainedConfig, fields: Mapping[str, Any], kept: Sequence[int]
) -> dict[str, Any]:
    """The fields of ``config.json`` that say how many layers there are, and what each is."""
    names = {config.attribute_map.get("num_hidden_layers", "num_hidden_layers")}
    names |= {"num_hidden_layers"} & fields.keys()
    changed: dict[str, Any] = dict.fromkeys(names, len(kept))
    # From the loaded configuration, which has also what is only implied in the file.
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == config.num_hidden_layers:
            changed[name] = [value[layer] for layer in kept]
    if "attention_types" in fields:  # GPT-Neo's short form of attention_layers
        changed["attention_types"] = [[changed["attention_layers"], 1]]
    return changed


def _write_weights(folder: Path, n_layers: int, kept: Sequence[int], out: Path) -> None:
    """Copy the kept tensors, file by file, so that no more than one file is in memory."""
    shards = _shards(folder)
    prefix = _layers_prefix(folder, n_layers, (name for names in shards.values() for name in names))
    numbers = {layer: i for i, layer in enumerate(kept)}
    placed, size = {}, 0
    for shard in shards:
        tensors, metadata = _kept_tensors(folder / shard, prefix, numbers)
        if tensors:
            save_file(tensors, out / shard, metadata)
        placed |= dict.fromkeys(tensors, shard)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if list(shards) != [_WEIGHTS]:
        index = {"metadata": {"total_size": size}, "weight_map": placed}
        (out / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _shards(folder: Path) -> dict[str, list[str]]:
    """The files with weights, and the names of the tensors in each."""
    files = [_WEIGHTS]
    if not (folder / _WEIGHTS).is_file():
        mapped = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"]
        files = sorted(set(mapped.values()))
    found = {}
    for name in files:
        with safe_open(folder / name, "pt") as stored:
            found[name] = list(stored.keys())
    return found


def _kept_tensors(
    path: Path, prefix: str, numbers: Mapping[int, int]
) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    with safe_open(path, "pt") as stored:
        renamed = {name: _renumbered(name, prefix, numbers) for name in stored.keys()}  # noqa: SIM118
        tensors = {new: stored.get_tensor(name) for name, new in renamed.items() if new}
        return tensors, stored.metadata()


def _renumbered(name: str, prefix: str, numbers: Mapping[int, int]) -> str | None:
    """A tensor's name in the written model; None if its layer is left out."""
    match = _NUMBERED.fullmatch(name)
    if match is None or match[1] != prefix:
        return name
    layer = numbers.get(int(match[2]))
    return None if layer is None else f"{prefix}{layer}.{match[3]}"


def _layers_prefix(folder: Path, n_layers: int, names: Iterator[str]) -> str:
    """What the names of all layers' tensors begin with, e.g. ``"model.layers."``."""
    found: dict[str, set[int]] = {}
    for match in map(_NUMBERED.fullmatch, names):
        if match is not None:
            found.setdefault(match[1], set()).add(int(match[2]))
    prefixes = [prefix for prefix, layers in found.items() if layers == set(range(n_layers))]
    if len(prefixes) != 1:
        raise UserError(
            f"The tensors in {folder} do not tell the layer that they are of: expected names such "
            f"as model.layers.0.mlp.weight, with numbers from 0 to {n_layers - 1}; layers of this "
            "model cannot be left out of its files."
        )
    return prefixes[0]
