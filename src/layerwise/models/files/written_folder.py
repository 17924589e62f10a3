"""Model folders in hub format that are written from others' files: fewer layers, other tensors.

No number is changed: tensors are copied as they are stored, and those of later layers get the
numbers that they have once the layers before them are gone.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from layerwise.errors import UserError

from .cache import BESIDE_WEIGHTS
from .stored_weights import INDEX, WEIGHTS, weight_files

# What stands before the first part of a tensor's name that is a number, that number, the rest.
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(\d+)\.(.+)")


@dataclass(frozen=True)
class StoredStack:
    """Names by which the files of a model tell the layers of a stack."""

    n_layers: str  # the field of ``config.json`` that says how many there are
    blocks: str  # what stands before a layer's number in the names of its tensors
    # What follows the number in the names of tensors that the first layer has for all of them,
    # whichever layer that is.
    of_first: tuple[str, ...] = ()


_ONE_STACK = (StoredStack("num_hidden_layers", ""),)


class LayerTensorName(NamedTuple):
    """Name of a layer's tensor, in its parts."""

    layer: int  # in the order of computation
    first: int  # the first layer of its stack
    prefix: str  # what stands before its number, e.g. ``model.layers.``
    rest: str  # what follows the number


def write_pruned_folder(
    folder: Path,
    config: PreTrainedConfig,
    removed: Container[int],
    out: Path,
    stored: Sequence[StoredStack] = (),
) -> None:
    """Write the model in ``folder`` without some layers."""
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    fields |= _config_without_layers(config, fields, removed, stored or _ONE_STACK)
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    shards = tensor_names_by_file(folder)
    placed = _by_layer(folder, config, [n for of in shards.values() for n in of], stored)
    written, size = {}, 0
    for shard, names in shards.items():  # no more than one file is in memory
        with safe_open(folder / shard, "pt") as weights:
            renamed = {name: _renumber(name, placed.get(name), removed) for name in names}
            tensors = {new: weights.get_tensor(name) for name, new in renamed.items() if new}
            metadata = weights.metadata()
        if tensors:
            save_file(tensors, out / shard, metadata)
        written |= dict.fromkeys(tensors, shard)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if list(shards) != [WEIGHTS]:
        index = {"metadata": {"total_size": size}, "weight_map": written}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    copy_other_files(folder, out)


def copy_other_files(folder: Path, out: Path, but: Sequence[str] = ()) -> None:
    """Copy what stands beside configuration and weights: tokenizer, settings, license."""
    for path in folder.iterdir():
        ours = path.name in ("config.json", INDEX, *but) or (out / path.name).exists()
        kept = path.suffix in BESIDE_WEIGHTS or path.name == "LICENSE"
        if path.is_file() and kept and not ours:
            shutil.copyfile(path, out / path.name)


def _stacks(
    config: PreTrainedConfig, stored: Sequence[StoredStack]
) -> list[tuple[StoredStack, range]]:
    """The stacks, each with its layers in the order of computation."""
    stacks, first = [], 0
    for stack in stored or _ONE_STACK:
        n_layers = getattr(config, stack.n_layers)
        stacks.append((stack, range(first, first + n_layers)))
        first += n_layers
    return stacks


def _config_without_layers(
    config: PreTrainedConfig,
    fields: dict[str, Any],
    removed: Container[int],
    stored: Sequence[StoredStack],
) -> dict[str, Any]:
    """The fields of ``config.json`` that say how many layers there are, and what each is."""
    kept = {
        config.attribute_map.get(stack.n_layers, stack.n_layers): [
            place for place, layer in enumerate(layers) if layer not in removed
        ]
        for stack, layers in _stacks(config, stored)
    }
    first, *others = kept.values()
    # Encoder-decoders say the encoder's once more under this name.
    again = dict.fromkeys({"num_hidden_layers"} & fields.keys(), len(first))
    changed: dict[str, Any] = {name: len(of) for name, of in kept.items()} | again
    if others:
        return changed
    # From the loaded configuration, which has also what is only implied in the file.
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == config.num_hidden_layers:
            changed[name] = [value[layer] for layer in first]
    if "attention_types" in fields:  # GPT-Neo's short form of attention_layers
        changed["attention_types"] = [[changed["attention_layers"], 1]]
    return changed


def tensor_names_by_file(folder: Path) -> dict[str, list[str]]:
    """The files with weights, and the names of the tensors in each."""
    shards = {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as stored:
            shards[path.name] = list(stored.keys())
    return shards


def _renumber(name: str, of: LayerTensorName | None, removed: Container[int]) -> str | None:
    """A tensor's name in the written model; None if its layer is left out."""
    if of is None:
        return name
    if of.layer in removed:
        return None
    number = sum(layer not in removed for layer in range(of.first, of.layer))
    return f"{of.prefix}{number}.{of.rest}"


def layers_prefix(folder: Path, n_layers: int, names: Iterable[str], ending: str = "") -> str:
    """Prefix of the names of all layers' tensors, e.g. ``"model.layers."``."""
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


def _by_layer(
    folder: Path, config: PreTrainedConfig, names: Sequence[str], stored: Sequence[StoredStack]
) -> dict[str, LayerTensorName]:
    """Parts of the names of layers' tensors, but of those that a first layer has for all."""
    by_name = {}
    for stack, layers in _stacks(config, stored):
        prefix = layers_prefix(folder, len(layers), names, stack.blocks)
        for name in names:
            match = _NUMBERED.fullmatch(name)
            if match is not None and match[1] == prefix and match[3] not in stack.of_first:
                layer = layers.start + int(match[2])
                by_name[name] = LayerTensorName(layer, layers.start, prefix, match[3])
    return by_name


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
"""Parts of a model that its tensors' names identify; heads are parts of tensors."""


def tensor_names(
    folder: Path,
    config: PreTrainedConfig,
    site: str,
    layers: Sequence[int],
    stored: Sequence[StoredStack] = (),
) -> list[str]:
    """The names of the tensors of some layers, of their parts, or of what is outside of them."""
    names = [name for of in tensor_names_by_file(folder).values() for name in of]
    placed = _by_layer(folder, config, names, stored)
    if site in _OUTSIDE:
        chosen = [n for n in names if n not in placed and _OUTSIDE[site].search(n)]
    else:
        pattern = {"attn_out": _ATTENTION, "mlp_out": _MLP}.get(site)
        chosen = [
            name
            for name, of in placed.items()
            if of.layer in layers and (pattern is None or pattern.match(of.rest))
        ]
    if not chosen:
        raise UserError(
            f"No tensors in {folder} are known to be those of site {site!r}: expected names as "
            "Llama, Qwen or GPT-2 have them; exchange whole layers, or do not write the model."
        )
    return chosen


def write_exchanged_folder(host: Path, donor: Path, names: Sequence[str], out: Path) -> None:
    """Write the model in one folder with some tensors of another."""
    places = {name: shard for shard, of in tensor_names_by_file(donor).items() for name in of}
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
        for shard in tensor_names_by_file(host):
            with safe_open(host / shard, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = stored.metadata()
            for name in tensors.keys() & set(names):
                tensors[name] = given[places[name]].get_tensor(name)
            save_file(tensors, out / shard, metadata)
    for name in (INDEX, "config.json"):
        if (host / name).is_file():
            shutil.copyfile(host / name, out / name)
    copy_other_files(host, out)
