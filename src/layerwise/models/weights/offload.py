"""A model whose blocks stay on disk: the weights of one are in memory while it runs, only then."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from layerwise.errors import UserError, unknown_name

from .strides import Stored, Weight
from .weight_files import BUFFERS, WeightFiles

PLACES = ("disk",)
_PIECE = 2**24  # bytes
_ATTRIBUTE = "layerwise_blocks_on_disk"
# What can be asked of a tensor that has no values.
_GETTERS = ("shape", "dtype", "device", "ndim", "nbytes", "is_meta", "requires_grad", "grad")
_METHODS = ("numel", "size", "dim", "element_size", "is_floating_point", "requires_grad_")
_HARMLESS = {
    *(getattr(torch.Tensor, name).__get__ for name in (*_GETTERS, "grad_fn")),
    *(getattr(torch.Tensor, name) for name in (*_METHODS, "__repr__")),
}


class OnDisk(nn.Parameter):
    """Stands for a parameter whose values are not in memory; on the ``meta`` device."""

    # torch itself would let most changes to it pass without a word.

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _HARMLESS:
            return super().__torch_function__(func, types, args, kwargs or {})
        raise UserError(
            "The weights of an off-loaded model's blocks are on disk, and in memory only while a "
            "block runs: expected them not to be read, changed, copied or moved; load the model "
            "without offload for that."
        )


class BlocksOnDisk:
    """The blocks of an off-loaded model."""

    # Invariant: a block has its weights in memory as long as it is held, and no longer. Whoever
    # calls a block as a module holds it for that time.

    def __init__(self, model: Any, files: WeightFiles, device: torch.device) -> None:
        self.model, self.files, self.device = model, files, device
        self.parts = [f"blocks.{layer}" for layer in range(model.cfg.n_layers)]
        self.absent: list[dict[str, OnDisk]] = []
        for part in self.parts:
            named = ((place.name, model.get_parameter(place.name)) for place in files.places[part])
            self.absent.append({name: OnDisk(w, w.requires_grad) for name, w in named})
        self.part_with = {
            name: part
            for part, weights in zip(self.parts, self.absent, strict=True)
            for name in weights
        }
        self.holders = [0] * len(self.parts)
        self.forwards: list[Callable[..., Any]] = []
        for layer, block in enumerate(model.blocks):
            put_parameters(model, self.absent[layer])
            self.forwards.append(self._with_weights(layer, block.forward))
            block.forward = self.forwards[-1]

    def _with_weights(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def forward_with_weights(*args: Any, **named: Any) -> Any:
            self.hold(layer)
            try:
                return forward(*args, **named)
            finally:
                self.drop(layer)

        return forward_with_weights

    def hold(self, layer: int) -> None:
        """Have a block's weights in memory until ``drop`` is called as often."""
        if self.holders[layer] == 0:
            self._fill(layer)
        self.holders[layer] += 1

    def drop(self, layer: int) -> None:
        """Undo one ``hold``."""
        self.holders[layer] -= 1
        if self.holders[layer] == 0:
            put_parameters(self.model, self.absent[layer])

    def hold_while_used(self, user: object, layer: int) -> Any:
        """The block, with its weights in memory until ``user`` is gone."""
        self.hold(layer)
        weakref.finalize(user, self.drop, layer).atexit = False
        return self.model.blocks[layer]

    # A sweep runs in inference mode, and tensors that are made there are of no use outside.
    @torch.inference_mode(False)
    def _fill(self, layer: int) -> None:
        for name, stand_in in self.absent[layer].items():
            if self.model.get_parameter(name) is not stand_in:
                raise UserError(
                    f"Parameter {name} of an off-loaded model was replaced: expected the weights "
                    "that are on disk; load the model without offload to change them."
                )
        try:
            put_parameters(self.model, self.files.read(self.parts[layer], self.device))
        except BaseException:
            put_parameters(self.model, self.absent[layer])
            raise
        self.files.prefetch(self.parts[(layer + 1) % len(self.parts)])


def put_parameters(model: nn.Module, weights: Mapping[str, Weight]) -> None:
    """Let ``weights``, by full name, be parameters of ``model``."""
    for name, weight in weights.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        if not isinstance(weight, nn.Parameter):
            weight = nn.Parameter(weight, getattr(module, own).requires_grad)
        setattr(module, own, weight)


def leave_blocks_on_disk(model: Any, files: WeightFiles, device: torch.device) -> None:
    """Give a model without weights those outside of its blocks, and let its blocks read theirs."""
    # Buffers that follow from the configuration it must have.
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shared = {group[0]: group for group in names.values()}
    for part in files.places:
        if part == BUFFERS:
            put_buffers(model, files.read(part, device))
        elif not part.startswith("blocks."):
            for name, weight in files.read(part, device).items():
                one = nn.Parameter(weight, model.get_parameter(name).requires_grad)
                put_parameters(model, dict.fromkeys(shared[name], one))
    setattr(model, _ATTRIBUTE, BlocksOnDisk(model, files, device))


def put_buffers(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let copies of ``tensors``, by full name, be buffers of ``model``."""
    for name, tensor in tensors.items():
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = tensor.clone()


@contextlib.contextmanager
def no_values(device: torch.device) -> Iterator[None]:
    """Modules that are made meanwhile have no weights, and share tables that are equal."""
    # Those that other threads make are not touched.
    tables: dict[str, torch.Tensor] = {}
    here = threading.get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or threading.get_ident() != here:
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    def share_equal(module: nn.Module, name: str, table: torch.Tensor | None) -> Any:
        if table is None or threading.get_ident() != here:
            return None
        first = tables.setdefault(name, table.to(device))
        same = first.shape == table.shape and torch.equal(first, table.to(device))
        return first if same else table.to(device)

    hooks = (
        torch_modules.register_module_parameter_registration_hook(on_meta),
        torch_modules.register_module_buffer_registration_hook(share_equal),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def blocks_on_disk(model: nn.Module) -> BlocksOnDisk | None:
    """The blocks of an off-loaded model; None if the model is all in memory."""
    return getattr(model, _ATTRIBUTE, None)


def named_weights(model: nn.Module) -> Iterator[tuple[str, Stored]]:
    """Names and values of all parameters in alphabetical order, those on disk one by one."""
    blocks = blocks_on_disk(model)
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        if blocks is not None and isinstance(parameter, OnDisk):
            yield name, blocks.files.read(blocks.part_with[name], blocks.device)[name]
        else:
            yield name, parameter.detach()


def in_pieces(weight: Stored) -> Iterator[Stored]:
    """A weight cut along its first dimension, so that copies of pieces stay small."""
    whole = torch.atleast_1d(weight)
    row = max(1, whole[:1].nbytes)
    yield from whole.split(max(1, _PIECE // row))


def refuse_other_places(name: str | None) -> None:
    """Accept only places to which weights can be off-loaded, and None."""
    if name is not None and name not in PLACES:
        raise unknown_name("place to off-load to", name, PLACES)
