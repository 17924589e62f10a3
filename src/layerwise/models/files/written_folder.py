"""Model folders in hub format that are written from others' files: fewer layers, other tensors.

No number is changed: tensors are copied as they are stored, and those of later layers get the
numbers that they have once the layers before them are gone.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from layerwise.errors import UserError
from layerwise.models.seq2seq.parts import StoredStack

from .cache import BESIDE_WEIGHTS
from .stored_weights import INDEX, WEIGHTS

# What stands before the first part of a tensor's name that is a number, that number, the rest.
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(\d+)\.(.+)")


@dataclass(frozen=True)
class StackToCut:
    """A stack of layers, and which of them stay."""

    stored: StoredStack  # how the files tell its layers
    n_layers: int  # how many it has
    kept: list[int]  # those that stay, from 0


def write_pruned_folder(
    folder: Path,
    config: PreTrainedConfig,
    removed: Sequence[int],
    out: Path,
    stored: Sequence[StoredStack] = (),
) -> None:
    """Write the model in ``folder`` without some layers."""
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    stacks = _stacks(config, removed, stored or [StoredStack("num_hidden_layers", "")])
    fields |= _fields_without(config, fields, stacks)
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    _write_weights(folder, stacks, out)
    copy_others(folder, out)


def copy_others(folder: Path, out: Path, but: Sequence[str] = ()) -> None:
    """Copy what stands beside configuration and weights: tokenizer, settings, license."""
    for path in folder.iterdir():
        ours = path.name in ("config.json", INDEX, *but) or (out / path.name).exists()
        kept = path.suffix in BESIDE_WEIGHTS or path.name == "LICENSE"
        if path.is_file() and kept and not ours:
            shutil.copyfile(path, out / path.name)


def _stacks(
    config: PreTrainedConfig, removed: Sequence[int], stored: Sequence[StoredStack]
) -> list[StackToCut]:
    stacks, first = [], 0
    for stack in stored:
        n_layers = getattr(config, stack.n_layers)
        kept = [layer for layer in range(n_layers) if first + layer not in removed]
        stacks.append(StackToCut(stack, n_layers, kept))
        first += n_layers
    return stacks


def _fields_without(
    config: PreTrainedConfig, fields: Mapping[str, Any], stacks: Sequence[StackToCut]
) -> dict[str, Any]:
    """The fields of ``config.json`` that say how many layers there are, and what each is."""
    named = {config.attribute_map.get(s.stored.n_layers, s.stored.n_layers): s for s in stacks}
    changed: dict[str, Any] = {name: len(stack.kept) for name, stack in named.items()}
    # Encoder-decoders say the encoder's once more under this name.
    kept = stacks[0].kept
    changed |= dict.fromkeys({"num_hidden_layers"} & fields.keys(), len(kept))
    if len(stacks) > 1:
        return changed
    # From the loaded configuration, which has also what is only implied in the file.
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == config.num_hidden_layers:
            changed[name] = [value[layer] for layer in kept]
    if "attention_types" in fields:  # GPT-Neo's short form of attention_layers
        changed["attention_types"] = [[changed["attention_layers"], 1]]
    return changed


def _write_weights(folder: Path, stacks: Sequence[StackToCut], out: Path) -> None:
    """Copy the kept tensors, file by file, so that no more than one file is in memory."""
    shards = shards_of(folder)
    names = [name for names in shards.values() for name in names]
    cuts = {layers_prefix(folder, s.n_layers, names, s.stored.blocks): s for s in stacks}
    placed, size = {}, 0
    for shard in shards:
        with safe_open(folder / shard, "pt") as stored:
            renamed = {name: _renumbered(name, cuts) for name in shards[shard]}
            tensors = {new: stored.get_tensor(name) for name, new in renamed.items() if new}
            metadata = stored.metadata()
        if tensors:
            save_file(tensors, out / shard, metadata)
        placed |= dict.fromkeys(tensors, shard)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if list(shards) != [WEIGHTS]:
        index = {"metadata": {"total_size": size}, "weight_map": placed}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def shards_of(folder: Path) -> dict[str, list[str]]:
    """The files with weights, and the names of the tensors in each."""
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        mapped = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
        files = sorted(set(mapped.values()))
    shards = {}
    for name in files:
        with safe_open(folder / name, "pt") as stored:
            shards[name] = list(stored.keys())
    return shards


def _renumbered(name: str, cuts: Mapping[str, StackToCut]) -> str | None:
    """A tensor's name in the written model; None if its layer is left out."""
    match = _NUMBERED.fullmatch(name)
    if match is None or match[1] not in cuts:
        return name
    prefix, layer, rest = match.groups()
    stack = cuts[prefix]
    if rest in stack.stored.of_first:
        return name
    return f"{prefix}{stack.kept.index(int(layer))}.{rest}" if int(layer) in stack.kept else None


def layers_prefix(folder: Path, n_layers: int, names: Iterable[str], ending: str = "") -> str:
    """What the names of all layers' tensors begin with, e.g. ``"model.layers."``."""
    layers_by_prefix: dict[str, set[int]] = {}
    for match in map(_NUMBERED.fullmatch, names):
        if match is not None and match[1].endswith(ending):
            layers_by_prefix.setdefault(match[1], set()).add(int(match[2]))
    prefixes = [
        prefix for prefix, layers in layers_by_prefix.items() if layers == set(range(n_layers))
    ]
    if len(prefixes) != 1:
        raise UserError(
            f"The tensors in {folder} do not tell the layer that they belong to; expected names "
            f"such as {ending or 'model.layers.'}0.mlp.weight, with numbers from 0 to "
            f"{n_layers - 1}. This model's layers cannot be written separately."
        )
    return prefixes[0]


# What follows a layer's number in the names of tensors of its self-attention and of its MLP, each
# with the norms before and after it.
_ATTENTION = re.compile(
    r"(self_attn|attn|attention|self_attention)\.|(input_layernorm|ln_1|self_attn_layer_norm"
    r"|post_self_attn_layernorm)\."
)
_MLP = re.compile(
    r"(mlp|feed_forward|block_sparse_moe|fc1|fc2)\.|(post_attention_layernorm|ln_2"
    r"|final_layer_norm|post_mlp_layernorm)\."
)
# What of a tensor's name outside of the layers tells what it is.
_OUTSIDE = {
    "embed": re.compile(r"emb|wte|wpe|shared"),
    "ln_final": re.compile(r"(^|\.)(norm|ln_f|final_layer_?norm)\."),
    "unembed": re.compile(r"lm_head|embed_out"),
}
_OUTSIDE["tied_embed"] = re.compile(f"{_OUTSIDE['embed'].pattern}|{_OUTSIDE['unembed'].pattern}")
WRITTEN = ("layer", "attn_out", "mlp_out", *_OUTSIDE)
"""What of a model can be told by its tensors' names; heads are parts of tensors."""


def tensors_of(
    folder: Path,
    config: PreTrainedConfig,
    site: str,
    layers: Sequence[int],
    stored: Sequence[StoredStack] = (),
) -> list[str]:
    """The names of the tensors of some layers, of their parts, or of what is outside of them."""
    names = [name for of in shards_of(folder).values() for name in of]
    placed = _by_layer(folder, config, names, stored)
    if site in _OUTSIDE:
        chosen = [n for n in names if n not in placed and _OUTSIDE[site].search(n)]
    else:
        pattern = {"attn_out": _ATTENTION, "mlp_out": _MLP}.get(site)
        chosen = [
            name
            for name, (layer, rest) in placed.items()
            if layer in layers and (pattern is None or pattern.match(rest))
        ]
    if not chosen:
        raise UserError(
            f"No tensors in {folder} are known to be those of site {site!r}: expected names as "
            "Llama, Qwen or GPT-2 have them; exchange whole layers, or do not write the model."
        )
    return chosen


def _by_layer(
    folder: Path, config: PreTrainedConfig, names: Sequence[str], stored: Sequence[StoredStack]
) -> dict[str, tuple[int, str]]:
    """By name of each tensor of a layer: the layer, and what follows its number in the name."""
    by_name, first = {}, 0
    for stack in stored or [StoredStack("num_hidden_layers", "")]:
        n_layers = getattr(config, stack.n_layers)
        prefix = layers_prefix(folder, n_layers, names, stack.blocks)
        for name in names:
            number, dot, rest = name.removeprefix(prefix).partition(".")
            inside = name.startswith(prefix) and dot and number.isdecimal()
            if inside and rest not in stack.of_first:
                by_name[name] = (first + int(number), rest)
        first += n_layers
    return by_name


def write_exchanged_folder(host: Path, donor: Path, names: Sequence[str], out: Path) -> None:
    """Write the model in one folder with some tensors of another."""
    places = {name: shard for shard, of in shards_of(donor).items() for name in of}
    lacking = sorted(set(names) - places.keys())
    if lacking:
        raise UserError(
            f"{donor} has no tensor {lacking[0]!r}, which the base's files have: expected two "
            "models that are stored alike; save both with save_pretrained and load these folders."
        )
    with contextlib.ExitStack() as opened:
        given = {
            shard: opened.enter_context(safe_open(donor / shard, "pt"))
            for shard in {places[name] for name in names}
        }
        for shard in shards_of(host):
            with safe_open(host / shard, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = stored.metadata()
            for name in tensors.keys() & set(names):
                tensors[name] = given[places[name]].get_tensor(name)
            save_file(tensors, out / shard, metadata)
    for name in (INDEX, "config.json"):
        if (host / name).is_file():
            shutil.copyfile(host / name, out / name)
    copy_others(host, out)
