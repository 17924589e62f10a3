"""Refuses models whose modules do not compute what their classes say.

The engine reads a block's weights instead of calling its modules, so that it would not see what
was hung on them. Whether it computes the same numbers is measured in ``sweep.checks``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.dropout import _DropoutNd

from layerwise.errors import UserError
from layerwise.models.decoder import packed
from layerwise.models.instance.kinds import Model, hook_name, model_blocks
from layerwise.models.instance.structure import executed_modules
from layerwise.models.libraries.hooked import (
    Attention,
    Embed,
    GroupedQueryAttention,
    HookedTransformer,
    PosEmbed,
    TransformerBlock,
    Unembed,
)
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.weights.offload import blocks_on_disk

_LIBRARIES = ("transformer_lens", "torch", "transformers", "layerwise", *packed.LIBRARIES)
_GLOBAL_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
# What every call of a module goes through, whatever its class.
_CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "__getattr__")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NO_SUMS = ("__init__", "__repr__", "extra_repr")
# Functions of a whole model that its logits depend on; of a component it is all of them.
_OF_MODEL = (
    "input_to_embed", "get_residual", "encode", "decode", "unembed", "ln_final", "embed",
    "embed_at",
)  # fmt: skip


def refuse_for_reference(model: Model) -> None:
    """Accept only a model whose sites can be changed by hooks, one layer at a time."""
    if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()):
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
    _refuse_shared_sites(model)


def refuse_for_engine(model: Model) -> None:
    """Accept only a model whose modules compute what their classes say."""
    refuse_for_reference(model)
    change = next(_alterations(model), None)
    if change is not None:
        raise UserError(
            f"{change}, which the engine would not see: expected modules of the libraries as they "
            "are; undo that (method='reference', where there is one, runs the model itself)."
        )


def _refuse_shared_sites(model: Model) -> None:
    """Make sure that every layer has sites of its own, by which hooks find them."""
    for layer, block in enumerate(model_blocks(model)):
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


def _alterations(model: Model) -> Iterator[str]:
    """Alterations of modules, in words."""
    for name in _GLOBAL_HOOKS:
        if getattr(torch_modules, f"_global_{name}"):
            yield f"torch has {name.replace('_', ' ')} for all modules"
    on_disk = blocks_on_disk(model)
    forwards = () if on_disk is None else on_disk.forwards
    for part, forward in zip(() if on_disk is None else on_disk.parts, forwards, strict=True):
        if model.get_submodule(part).__dict__.get("forward") is not forward:
            yield f"{part} of the model had its forward replaced"
    if isinstance(model, HookedTransformer):  # what the engine reads of its settings and places
        if model.cfg.positional_embedding_type == "shortformer":
            yield "The model adds positions to queries and keys alone ('shortformer')"
        yield from _replaced_places(model)
    for module in executed_modules(model):
        fields, kind = module.__dict__, type(module)
        if any(fields[hooks] for hooks in _HOOKS):
            yield f"{_name(model, module)} has hooks of torch on it"
        if isinstance(module, _DropoutNd) and module.training and module.p:
            yield f"{_name(model, module)} drops activations at random until model.eval() is called"
        functions, replaced = _forward_functions(kind, kind.forward)
        if replaced is not None:
            yield f"{_name(model, module)} has a function of its own, {replaced}"
        for name in sorted(functions & fields.keys()):
            if fields[name] not in forwards:
                yield f"{_name(model, module)} had its {name} replaced"


def _replaced_places(model: Any) -> Iterator[str]:
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


@functools.cache
def _forward_functions(cls: Any, forward: Any) -> tuple[frozenset[str], str | None]:
    """The functions that a module's output depends on; one that is not its library's own."""
    base = next(base for base in cls.__mro__ if _library(base) in _LIBRARIES)
    if base is nn.Module:  # a user's own module, which is called like any other
        return frozenset(_CALLS), None
    functions = frozenset(_functions(base))
    before = cls.__mro__[: cls.__mro__.index(base)]
    replaced = [
        f"{base.__name__}.{name}" for base in before for name in functions & vars(base).keys()
    ]
    if not replaced and _library(forward) not in _LIBRARIES:
        replaced = [f"{cls.__name__}.forward"]
    return functions, min(replaced, default=None)


def _functions(base: type) -> Iterator[str]:
    """The functions that what a class computes depends on, by name."""
    yield from _CALLS
    if base.__name__ in ("HookedTransformer", "DecoderModel", "Seq2SeqModel"):
        yield from _OF_MODEL
        return
    for of in base.__mro__:
        if of is not nn.Module and _library(of) in _LIBRARIES:
            for name, value in vars(of).items():
                if (inspect.isfunction(value) or isinstance(value, property)) and (
                    name not in _NO_SUMS
                ):
                    yield name


def _library(owner: Any) -> str:
    """The package that a class or a function comes from."""
    return str(getattr(owner, "__module__", "")).split(".")[0]
