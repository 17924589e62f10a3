"""Which modules and weights a model in memory consists of, and its fingerprint."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from layerwise.models.conversion.hooked import HookPoint
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.packed import LIBRARIES
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.weights.offload import OnDisk

from .kinds import Model, original_of

_ATTRIBUTE = "layerwise_structure"
_HOOKS = itemgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
_FORWARD, _PRE = itemgetter("_forward_hooks"), itemgetter("_forward_pre_hooks")
_CHILDREN, _PARAMETERS = itemgetter("_modules"), itemgetter("_parameters")
_CHANGES = attrgetter("_version")
_PLAIN = frozenset({bool, int, float, str, torch.dtype, type(None)})
# Of a module's own attributes, what enters its sums: scales, epsilons, activation functions.
_SHAPING = (
    float, np.floating, types.FunctionType, types.BuiltinFunctionType, functools.partial,
)  # fmt: skip
# Rotary embeddings that are made anew, as texts get longer.
_MADE_ANEW = ("dynamic", "longrope")
_SAMPLED = 2**20  # bytes
ASIDE = frozenset(
    {
        "model_name", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos", "device",
        "n_devices", "seed", "init_mode", "init_weights", "initializer_range", "n_params",
        "checkpoint_index", "checkpoint_label_type", "checkpoint_value", "from_checkpoint",
        "load_in_4bit", "trust_remote_code", "dtype", "architectures", "transformers_version",
        "use_cache",
    }
)  # fmt: skip
"""Settings that say where a model comes from or lies, and not what it computes."""
# Tables that TransformerLens makes longer for longer prompts; what they begin with stays.
_GROWING, _GROWN_FROM = ("rotary_sin", "rotary_cos"), 2048
# What TransformerLens keeps of a pass; the numbers stay.
_SWITCHES = frozenset({
    "use_attn_result", "use_attn_in", "use_split_qkv_input", "use_hook_mlp_in",
    "ungroup_grouped_query_attention",
})  # fmt: skip


@dataclass(frozen=True)
class Version:
    """A fingerprint of everything that a model's outputs depend on."""

    # Weights are told by their memory and by torch's count of changes in place, which does not
    # count those made through ``.data``.

    modules: int  # hash of the modules and of the functions of their classes
    # Which tensors are the parameters, their memory and their changes.
    weights: tuple[tuple[int, ...], ...]
    shaping: tuple[Any, ...]  # numbers, functions and buffers of modules
    settings: dict[str, Any]  # the plain values of ``cfg``


class Structure:
    """The modules that a model runs."""

    # Kept on the model, so that the next look at a thousand modules takes a third of a millisecond.
    # A copy of the model begins with an empty one.

    def __init__(self, model: Model | None = None) -> None:
        # Every module that the model runs, each once, the model itself first.
        self.modules = [] if model is None else modules_run(model)
        self._fields = [module.__dict__ for module in self.modules]
        self._hooks = list(chain.from_iterable(map(_HOOKS, self._fields)))
        self._parents = [children for children in map(_CHILDREN, self._fields) if children]
        self._owners = [children for children in map(_PARAMETERS, self._fields) if children]
        self._counted = [weight for weight in self._weights() if _has_count(weight)]
        shaping = [module.__dict__ for module in self.modules if _may_shape(module)]
        self._shaping = [(fields, key) for fields in shaping for key in _shaping_of(fields)]
        self._buffers = [fields["_buffers"] for fields in shaping if fields["_buffers"]]
        self._shape = self._shape_now()
        # Those that drop activations in training mode.
        self.dropouts = [module for module in self.modules if isinstance(module, _DropoutNd)]
        # hooked: whether a module has hooks of torch; looked_at: whether they were found to be what
        # their classes say (see ``altered``).
        self.hooked, self.looked_at = any(self._hooks), False
        # The hook points that were found to be those of the layers.
        self.sites: dict[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        return Structure()

    def __reduce__(self) -> tuple[type[Structure], tuple[()]]:
        return Structure, ()

    @cached_property
    def classes(self) -> dict[type, Any]:
        """The classes of the modules, with the functions that they had."""
        kinds: list[Any] = list(dict.fromkeys(map(type, self.modules)))
        return {kind: kind.forward for kind in kinds}

    @property
    def current(self) -> bool:
        """Whether these are still the modules, with the same fields and classes, and no hooks."""
        self.hooked = any(self._hooks)
        known = all(kind.forward is forward for kind, forward in self.classes.items())
        same = known and not self.hooked and self._shape == self._shape_now()
        return bool(self.modules) and same

    def first_hooked(self) -> nn.Module:
        """A module that has hooks of torch; there must be one."""
        return next(module for module in self.modules if any(_HOOKS(module.__dict__)))

    def _shape_now(self) -> tuple[list[Any], ...]:
        fields, children = self._fields, chain.from_iterable(map(dict.values, self._parents))
        return (
            list(map(type, self.modules)),
            list(map(len, fields)),
            list(map(id, children)),
            list(map(id, map(_FORWARD, fields))),
            list(map(id, map(_PRE, fields))),
            list(map(id, self._weights())),
        )

    def _weights(self) -> Iterator[Any]:
        return filter(_is_there, chain.from_iterable(map(dict.values, self._owners)))

    @cached_property
    def _hash(self) -> int:
        return hash((*map(id, self.modules), *self._shape[0], *self.classes.items()))

    def version(self, cfg: Any) -> Version:
        """The fingerprint now, given the model's settings."""
        weights = (
            tuple(self._shape[-1]),
            tuple(map(torch.Tensor.data_ptr, self._counted)),
            tuple(map(_CHANGES, self._counted)),
        )
        values = [fields.get(key) for fields, key in self._shaping]
        buffers = list(filter(_is_there, chain.from_iterable(map(dict.values, self._buffers))))
        shaping = (
            *(value if type(value) in _PLAIN else id(value) for value in values),
            *map(id, buffers),
            *map(torch.Tensor.data_ptr, buffers),
            *map(_CHANGES, filter(_has_count, buffers)),
        )
        settings = {key: value for key, value in vars(cfg).items() if type(value) in _PLAIN}
        return Version(self._hash, weights, shaping, settings)


def structure_of(model: Model) -> Structure:
    """The structure of a model as it is now."""
    kept = model.__dict__.get(_ATTRIBUTE)
    if isinstance(kept, Structure) and kept.current:
        return kept
    model.__dict__[_ATTRIBUTE] = None  # so that its place is counted among the fields
    structure = model.__dict__[_ATTRIBUTE] = Structure(model)
    return structure


def version_of(model: Model) -> Version:
    """The fingerprint of a model as it is now."""
    return structure_of(model).version(model.cfg)


def settings_hash(model: Model) -> str:
    """SHA-256 of what shapes a model's numbers beside its weights."""
    # That is the classes of its modules, their numbers, functions and buffers (of large ones, some
    # numbers), and the settings in ``cfg``; the same in another process and on another device.
    digest = hashlib.sha256()
    for module in modules_run(model):
        digest.update(f"{type(module).__module__}.{type(module).__qualname__}\n".encode())
        if _may_shape(module):
            fields = module.__dict__
            parts = getattr(fields.get("parts"), "__dict__", {})
            for owner in (fields, parts):
                for key in _shaping_of(owner):
                    digest.update(f"{key} {_spelled(owner[key])}\n".encode())
            for name, buffer in sorted(fields["_buffers"].items()):
                if buffer is not None:
                    if name in _GROWING:
                        buffer = buffer[:_GROWN_FROM]
                    digest.update(f"{name} {tuple(buffer.shape)} {buffer.dtype}\n".encode())
                    digest.update(sample_of(buffer))
    aside = ASIDE | _SWITCHES
    plain = {k: v for k, v in vars(model.cfg).items() if type(v) in _PLAIN and k not in aside}
    digest.update(repr(sorted(plain.items())).encode())
    return digest.hexdigest()


def _may_shape(module: nn.Module) -> bool:
    """Whether numbers and buffers of a module stay as they are while it runs."""
    library = type(module).__module__.partition(".")[0]
    kind = str(getattr(module, "rope_type", ""))
    return not (
        isinstance(module, HookPoint)
        or library in LIBRARIES
        or any(word in kind for word in _MADE_ANEW)
    )


def _shaping_of(fields: dict[str, Any]) -> list[str]:
    return [key for key, value in fields.items() if isinstance(value, _SHAPING)]


def _spelled(value: Any) -> str:
    """A representation of a number or function that is stable across processes."""
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.items())
        return " ".join(map(_spelled, parts))
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return repr(value)
    code = getattr(value, "__code__", None)
    body = "" if code is None else f"{code.co_code.hex()} {code.co_names}"
    return f"{value.__module__}.{value.__qualname__} {body}"


def sample_of(buffer: torch.Tensor, most: int = _SAMPLED) -> bytes:
    """The bytes of a tensor; of one with more than ``most``, those of some numbers all over it."""
    if buffer.is_meta or not buffer.numel():
        return b""
    # In the order in which it lies in memory, so that nothing is copied.
    axes = sorted(range(buffer.dim()), key=buffer.stride, reverse=True)
    # An odd step meets every column of a table.
    some = buffer.detach().permute(axes).flatten()[:: buffer.nbytes // most | 1].cpu().contiguous()
    return some.view(torch.uint8).numpy().tobytes()


def modules_run(model: Model) -> list[nn.Module]:
    """Every module that ``model(tokens)`` runs, each once, the model itself first."""
    # Of an original that it runs parts of, not the modules that hold them.
    starts: list[Any] = [model]
    if isinstance(model, Seq2SeqModel | DecoderModel):
        starts = [*model.parts.modules(), model]
    seen, modules = {id(original_of(model))}, []
    while starts:
        module = starts.pop()
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            modules.append(module)
            starts.extend(module.__dict__["_modules"].values())
    return modules


def _is_there(weight: Any) -> bool:
    return weight is not None


def _has_count(weight: torch.Tensor) -> bool:
    """Whether torch counts the changes of a parameter; one on disk has no memory either."""
    return not isinstance(weight, OnDisk) and not weight.is_inference()
