"""A model folder in hub format with some tensors of another, written from the files of both.

No number is changed: every tensor is copied as it is stored in one of the two.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedConfig

from layerwise.errors import UserError
from layerwise.models.seq2seq.parts import StoredStack

from .pruned_folder import INDEX, copy_others, layers_prefix, shards_of

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
