"""Modules and weights of a model in memory, and its fingerprint."""

from __future__ import annotations

import functools
import hashlib
import types
from typing import Any

import numpy as np
import torch
from torch import nn

from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.packed import LIBRARIES
from layerwise.models.libraries.hooked import HookPoint
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.weights.offload import OnDisk

from .kinds import Model, original_model

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

Version = tuple[Any, ...]
"""A fingerprint of everything that a model's outputs depend on."""


def model_version(model: Model) -> Version:
    """The fingerprint of a model as it is now: its modules, weights, what shapes them, settings."""
    # Weights are told by their memory and by torch's count of changes in place, which does not
    # count those made through ``.data``.
    modules = executed_modules(model)
    weights = [w for module in modules for w in module._parameters.values() if w is not None]
    shaping = [module for module in modules if _may_shape(module)]
    fields = [module.__dict__ for module in shaping]
    values = [of[key] for of in fields for key in _shaping_fields(of)]
    buffers = [b for module in shaping for b in module._buffers.values() if b is not None]
    return (
        [(id(module), type(module), type(module).forward) for module in modules],
        list(map(_tensor_version, weights)),
        [value if type(value) in _PLAIN else id(value) for value in values],
        list(map(_tensor_version, buffers)),
        {key: value for key, value in vars(model.cfg).items() if type(value) in _PLAIN},
    )


def _tensor_version(weight: torch.Tensor) -> tuple[int, ...]:
    """Identity of a tensor, where its numbers lie, and how often they were changed."""
    if isinstance(weight, OnDisk):  # which has no memory
        return (id(weight),)
    # Of tensors made in inference mode torch counts nothing.
    changes = 0 if weight.is_inference() else weight._version
    return id(weight), weight.data_ptr(), changes


def settings_hash(model: Model) -> str:
    """SHA-256 of what shapes a model's numbers beside its weights."""
    # That is the classes of its modules, their numbers, functions and buffers (of large ones, some
    # numbers), and the settings in ``cfg``; the same in another process and on another device.
    digest = hashlib.sha256()
    for module in executed_modules(model):
        digest.update(f"{type(module).__module__}.{type(module).__qualname__}\n".encode())
        if not _may_shape(module):
            continue
        fields = module.__dict__
        for owner in (fields, getattr(fields.get("parts"), "__dict__", {})):
            for key in _shaping_fields(owner):
                digest.update(f"{key} {_stable_repr(owner[key])}\n".encode())
        for name, buffer in sorted(module._buffers.items()):
            if buffer is not None:
                known = buffer[:_GROWN_FROM] if name in _GROWING else buffer
                digest.update(f"{name} {tuple(known.shape)} {known.dtype}\n".encode())
                digest.update(sample_bytes(known))
    aside = ASIDE | _SWITCHES
    plain = {k: v for k, v in vars(model.cfg).items() if type(v) in _PLAIN and k not in aside}
    digest.update(repr(sorted(plain.items())).encode())
    return digest.hexdigest()


def _may_shape(module: nn.Module) -> bool:
    """True if numbers and buffers of a module stay as they are while it runs."""
    library = type(module).__module__.partition(".")[0]
    if isinstance(module, HookPoint) or library in LIBRARIES:
        return False
    kind = str(getattr(module, "rope_type", ""))
    return not any(word in kind for word in _MADE_ANEW)


def _shaping_fields(fields: dict[str, Any]) -> list[str]:
    return [key for key, value in fields.items() if isinstance(value, _SHAPING)]


def _stable_repr(value: Any) -> str:
    """A representation of a number or function that is stable across processes."""
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.items())
        return " ".join(map(_stable_repr, parts))
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return repr(value)
    code = getattr(value, "__code__", None)
    body = "" if code is None else f"{code.co_code.hex()} {code.co_names}"
    return f"{value.__module__}.{value.__qualname__} {body}"


def sample_bytes(buffer: torch.Tensor, most: int = _SAMPLED) -> bytes:
    """The bytes of a tensor; of one with more than ``most``, those of some numbers all over it."""
    if buffer.is_meta or not buffer.numel():
        return b""
    # In the order in which it lies in memory, so that nothing is copied.
    axes = sorted(range(buffer.dim()), key=buffer.stride, reverse=True)
    # An odd step meets every column of a table.
    some = buffer.detach().permute(axes).flatten()[:: buffer.nbytes // most | 1].cpu().contiguous()
    return some.view(torch.uint8).numpy().tobytes()


def executed_modules(model: Model) -> list[nn.Module]:
    """Every module that ``model(tokens)`` runs, each once, the model itself first."""
    # Of an original that it runs parts of, not the modules that hold them.
    starts: list[Any] = [model]
    if isinstance(model, Seq2SeqModel | DecoderModel):
        starts = [*model.parts.modules(), model]
    seen, modules = {id(original_model(model))}, []
    while starts:
        module = starts.pop()
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            modules.append(module)
            starts.extend(module._modules.values())
    return modules
