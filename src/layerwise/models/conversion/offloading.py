"""Decoders cut by layers: their weights by part, and models whose blocks are left on disk."""

from __future__ import annotations

from itertools import takewhile

import torch
from transformers import PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.parts import BlockParts
from layerwise.models.instance.kinds import DecoderOnly, kept_buffers
from layerwise.models.libraries.hooked import HookedTransformer, HookedTransformerConfig
from layerwise.models.weights.offload import leave_blocks_on_disk, no_values
from layerwise.models.weights.strides import Weight
from layerwise.models.weights.weight_files import BUFFERS, WeightFiles

from .convert import without_weights


def offloaded_model(
    cfg: HookedTransformerConfig,
    tokenizer: PreTrainedTokenizerBase,
    files: WeightFiles,
    device: torch.device,
) -> HookedTransformer:
    """The model of TransformerLens whose blocks are left on disk; the rest is in memory."""
    with no_values(device):
        model = without_weights(cfg, tokenizer)
    model.cfg.device = str(device)
    leave_blocks_on_disk(model, files, device)
    return model


def weights_by_part(model: DecoderOnly) -> dict[str, dict[str, Weight]]:
    """Weights of a model in memory, by part and full name."""
    by_part: dict[str, dict[str, Weight]] = {}
    parts = None if isinstance(model, HookedTransformer) else part_by_name(model)
    for name, weight in model.named_parameters():
        pieces = name.split(".")  # of TransformerLens: a block with its number, or a module
        part = ".".join(pieces[: 2 if pieces[0] == "blocks" else 1])
        part = part if parts is None else parts[name]
        by_part.setdefault(part, {})[name] = weight
    return by_part | ({BUFFERS: buffers} if (buffers := dict(kept_buffers(model))) else {})


def part_by_name(model: DecoderModel) -> dict[str, str]:
    """The part of each parameter, by its full name: ``blocks.7``, or the module that holds it."""
    # A parameter that several modules outside of the blocks share has several names.
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = [_block_module_name(block, names) for block in model.parts.blocks]
    parts: dict[str, str] = {}
    holders: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = next((n for n, of in enumerate(layers) if name.startswith(f"{of}.")), None)
        parts[name] = name.rpartition(".")[0] if layer is None else f"blocks.{layer}"
        holders.setdefault(id(parameter), set()).add(parts[name])
    shared = any(
        len(of) > 1 and any(part.startswith("blocks.") for part in of) for of in holders.values()
    )
    if shared or len(set(layers)) < len(layers):
        raise _not_by_layer(model, "uses weights of a layer in another place, too")
    for name, module in model.named_modules():
        if any(isinstance(value, torch.Tensor) for value in vars(module).values()):
            raise _not_by_layer(model, f"keeps numbers outside of its weights, in {name}")
    return parts


def _block_module_name(block: BlockParts, names: dict[int, str]) -> str:
    """The module that has all of a block's weights, by its name."""
    own = [names[id(weight)].split(".") for of in block.modules() for weight in of.parameters()]
    shared = takewhile(lambda steps: len(set(steps)) == 1, zip(*own, strict=False))
    return ".".join(steps[0] for steps in shared)


def _not_by_layer(model: DecoderModel, why: str) -> UserError:
    return UserError(
        f"Model {model.cfg.model_name!r} cannot be off-loaded layer by layer, since it {why}: "
        "expected layers whose weights are their own; leave offload out."
    )
