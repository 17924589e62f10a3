"""Refuses models whose modules do not compute what their classes say.

The engine reads a block's weights instead of calling its modules, so that it would not see what
was hung on them. Whether it computes the same numbers is measured in ``sweep.checks``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_modules

from layerwise.errors import UserError
from layerwise.models.conversion.hooked import (
    Attention,
    Embed,
    GroupedQueryAttention,
    HookedTransformer,
    PosEmbed,
    TransformerBlock,
    Unembed,
)
from layerwise.models.decoder import packed
from layerwise.models.instance.kinds import (
    Model,
    blocks_of,
    hook_name,
)
from layerwise.models.instance.structure import Structure
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.weights.offload import blocks_on_disk

_LIBRARIES = ("transformer_lens", "torch", "transformers", "layerwise", *packed.LIBRARIES)
_GLOBAL_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
# What every call of a module goes through, whatever its class.
_CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__")
# Functions of a whole model that its logits depend on; of a component it is all of them.
_OF_MODEL = (
    "input_to_embed", "get_residual", "encode", "decode", "unembed", "ln_final", "embed",
    "embed_at",
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """A class of modules."""

    forward: Any  # its forward function, when it was looked at
    functions: frozenset[str]  # names of functions that its output depends on
    replaced: str | None  # a function that stands in for one of the library's; None if none does


_KINDS: dict[type, _Kind] = {}


def refuse_for_reference(model: Model, structure: Structure) -> None:
    """Accept only a model whose sites can be changed by hooks, one layer at a time."""
    points = model.hook_dict.values() if structure.hooked else ()
    if any(point.fwd_hooks or point.bwd_hooks for point in points):
        raise UserError(
            "The model has hooks on it, which a sweep would not see; expected a model without "
            "hooks: call model.reset_hooks(including_permanent=True) first."
        )
    if not isinstance(model, Seq2SeqModel) and model.cfg.attention_dir != "causal":
        raise UserError(
            "The model attends in both directions (attention_dir='bidirectional'), so that a "
            "token's log-probability depends on the tokens behind it: expected causal attention; "
            "use a causal language model."
        )
    if structure.sites is not model.hook_dict:
        _refuse_shared_sites(model)
        structure.sites = model.hook_dict


def refuse_for_engine(model: Model, structure: Structure) -> None:
    """Accept only a model whose modules compute what their classes say."""
    refuse_for_reference(model, structure)
    change = next(_alterations(model, structure), None)
    if change is not None:
        raise UserError(
            f"{change}, which the engine would not see: expected modules of the libraries as they "
            "are; undo that (method='reference', where there is one, runs the model itself)."
        )


def _refuse_shared_sites(model: Model) -> None:
    """Make sure that every layer has sites of its own, by which hooks find them."""
    for layer, block in enumerate(blocks_of(model)):
        attn = getattr(block, "attn", None)
        for site, of, name in (
            ("resid_pre", block, "hook_resid_pre"),
            ("resid_post", block, "hook_resid_post"),
            ("z", attn, "hook_z"),
        ):
            point, full = getattr(of, name, None), hook_name(model, layer, site)
            if point is None or model.hook_dict.get(full) is not point:
                raise UserError(
                    f"The model has no {full} of its own: a module is used in two layers, or was "
                    "replaced; expected one module per layer. Copy a shared one with "
                    "copy.deepcopy, and call model.setup() after replacing one."
                )


def _alterations(model: Model, structure: Structure) -> Iterator[str]:
    """Alterations of modules, in words."""
    for name in _GLOBAL_HOOKS:
        if getattr(torch_modules, f"_global_{name}"):
            yield f"torch has {name.replace('_', ' ')} for all modules"
    if structure.hooked:
        yield f"{_name(model, structure.first_hooked())} has hooks of torch on it"
    for module in structure.dropouts:
        if module.training and module.p:
            yield f"{_name(model, module)} drops activations at random until model.eval() is called"
    on_disk = blocks_on_disk(model)
    parts = () if on_disk is None else zip(on_disk.parts, on_disk.forwards, strict=True)
    for part, forward in parts:
        if model.get_submodule(part).__dict__.get("forward") is not forward:
            yield f"{part} of the model had its forward replaced"
    if isinstance(model, HookedTransformer):  # what the engine reads of its settings and places
        if model.cfg.positional_embedding_type == "shortformer":
            yield "The model adds positions to queries and keys alone ('shortformer')"
        if not structure.looked_at:
            yield from _of_places(model)
    if not structure.looked_at:
        yield from _of_modules(model, structure)
    structure.looked_at = True  # what follows from modules and classes need not be looked at again


def _of_modules(model: Model, structure: Structure) -> Iterator[str]:
    """Functions that a module or its class has in place of the library's."""
    on_disk = blocks_on_disk(model)
    ours = () if on_disk is None else on_disk.forwards
    for module in structure.modules:
        fields, kind = module.__dict__, _kind(type(module))
        if kind.replaced is not None:
            yield f"{_name(model, module)} has a function of its own, {kind.replaced}"
        for name in sorted(kind.functions & fields.keys()):
            if fields[name] not in ours:
                yield f"{_name(model, module)} had its {name} replaced"


def _of_places(model: Any) -> Iterator[str]:
    """Places where the engine knows only the library's own modules."""
    expected: list[tuple[Any, Any]] = [(model.embed, Embed), (model.unembed, Unembed)]
    if model.cfg.positional_embedding_type == "standard":
        expected.append((model.pos_embed, PosEmbed))
    for block in model.blocks:
        expected.append((block, TransformerBlock))
        expected.append((block.attn, (Attention, GroupedQueryAttention)))
    for module, kinds in expected:
        if not isinstance(module, kinds):
            yield f"{_name(model, module)} is a {type(module).__name__} of your own"


def _name(model: Model, module: nn.Module) -> str:
    name = next((name for name, child in model.named_modules() if child is module), "")
    return f"{name} of the model" if name else "The model"


def _kind(cls: Any) -> _Kind:
    known = _KINDS.get(cls)
    if known is None or known.forward is not cls.forward:
        known = _KINDS[cls] = _looked_at(cls)
    return known


def _looked_at(cls: Any) -> _Kind:
    """Which functions of a class matter, and whether one is not its library's own."""
    forward = cls.forward
    base = next(base for base in cls.__mro__ if _library(base) in _LIBRARIES)
    if base is nn.Module:  # a user's own module, which is called like any other
        return _Kind(forward, frozenset(_CALLS), None)
    functions = frozenset(_functions(base))
    before = cls.__mro__[: cls.__mro__.index(base)]
    replaced = [
        f"{base.__name__}.{name}" for base in before for name in functions & vars(base).keys()
    ]
    if not replaced and _library(forward) not in _LIBRARIES:
        replaced = [f"{cls.__name__}.forward"]
    return _Kind(forward, functions, min(replaced, default=None))


def _functions(base: type) -> Iterator[str]:
    """The functions that what a class computes depends on, by name."""
    yield from _CALLS
    if base.__name__ in ("HookedTransformer", "DecoderModel", "Seq2SeqModel"):
        yield from _OF_MODEL
        return
    for base_class in base.__mro__:
        if base_class is nn.Module or _library(base_class) not in _LIBRARIES:
            continue
        for name, value in vars(base_class).items():
            if (inspect.isfunction(value) or isinstance(value, property)) and name not in (
                "__init__",
                "__repr__",
                "extra_repr",
            ):
                yield name


def _library(owner: Any) -> str:
    """The package that a class or a function comes from."""
    return str(getattr(owner, "__module__", "")).split(".")[0]
