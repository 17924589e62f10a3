"""Which part of a decoder, a block or a module outside of them, a weight of its original is in."""

from __future__ import annotations

from itertools import takewhile

import torch

from layerwise.errors import UserError

from .model import DecoderModel
from .parts import BlockParts


def part_by_name(model: DecoderModel) -> dict[str, str]:
    """The part of each parameter, by its full name: ``blocks.7``, or the module that holds it."""
    # A parameter that several modules outside of the blocks share has several names.
    names = {id(weight): name for name, weight in model.named_parameters()}
    layers = [_layer_of(block, names) for block in model.parts.blocks]
    parts: dict[str, str] = {}
    holders: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = next((n for n, of in enumerate(layers) if name.startswith(f"{of}.")), None)
        parts[name] = _owner(name) if layer is None else f"blocks.{layer}"
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


def _layer_of(block: BlockParts, names: dict[int, str]) -> str:
    """The module that has all of a block's weights, by its name."""
    own = [names[id(weight)].split(".") for of in block.modules() for weight in of.parameters()]
    shared = takewhile(lambda steps: len(set(steps)) == 1, zip(*own, strict=False))
    return ".".join(steps[0] for steps in shared)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _not_by_layer(model: DecoderModel, why: str) -> UserError:
    return UserError(
        f"Model {model.cfg.model_name!r} cannot be off-loaded layer by layer, since it {why}: "
        "expected layers whose weights are their own; leave offload out."
    )
