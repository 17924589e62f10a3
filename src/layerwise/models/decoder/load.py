"""From a Hugging Face decoder to a hooked one that runs its modules, and a trial of its sites.

Sites of a family that no test knows are tried: what one changes is read from all behind and before
it; nothing is compared with the original here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from layerwise.errors import UserError

from .families import TESTED, WRITTEN, decoder_parts
from .model import DecoderModel
from .packed import dequantize_modules, has_packed, is_packed
from .reading import unknown

_TOKENS = 6


@torch.inference_mode()
def refuse_wrong_sites(model: DecoderModel) -> None:
    """Accept only a model whose sites change what is downstream of them, and nothing else."""
    # One layer of each kind is tried, and the last.
    clean = _record_activations(model)
    order = list(clean)
    tried = _layers(model)
    for name in order:
        if name.startswith("blocks.") and int(name.split(".")[1]) not in tried:
            continue
        same = _record_activations(model, name, lambda value, hook: value.clone())
        if not torch.equal(same["hook_logits"], clean["hook_logits"]):
            raise _wrong(model, name, "putting its own values there changes the logits")
        edited = _record_activations(model, name, _shift_activation)
        changed = [other for other in order if not torch.equal(edited[other], clean[other])]
        if not changed or order.index(changed[0]) < order.index(name):
            raise _wrong(model, name, "an edit there changes what is computed before it")
        behind = {"hook_logits"}
        if name.startswith("blocks."):
            behind.add(".".join((*name.split(".")[:2], "hook_resid_post")))
        if not behind <= set(changed):
            raise _wrong(model, name, "an edit there does not change what is computed behind it")


def _layers(model: DecoderModel) -> set[int]:
    """One layer of each kind, and the last."""
    kinds: dict[Any, int] = {}
    for number, block in enumerate(model.parts.blocks):
        attn = block.attn
        turns = None if attn.rotary is None else attn.rotary.layer_type
        kinds.setdefault((type(block.mlp), attn.window, turns), number)
    return {*kinds.values(), len(model.parts.blocks) - 1}


def _shift_activation(value: torch.Tensor, hook: Any) -> torch.Tensor:
    # Scores are shifted key by key: a constant would fall out of the softmax.
    steps = torch.arange(value.numel(), device=value.device, dtype=torch.float32)
    return value + 0.5 * torch.sin(steps).reshape(value.shape).to(value)


def _record_activations(
    model: DecoderModel, name: str | None = None, edit: Any = None
) -> dict[str, torch.Tensor]:
    """All activations, in the order in which they are computed."""
    activations: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        activations[hook.name] = value.clone()

    tokens = torch.arange(_TOKENS, device=model.W_E.device)[None] % model.cfg.d_vocab
    hooks: list[Any] = [] if name is None else [(name, edit)]
    model.run_with_hooks(tokens, fwd_hooks=[*hooks, *((point, keep) for point in model.hook_dict)])
    return activations


def _wrong(model: DecoderModel, name: str, what: str) -> UserError:
    return UserError(
        f"The sites of {model.cfg.model_name!r} are not what their names say: at {name}, {what}; "
        f"expected a decoder that computes layer by layer ({model.cfg.original_architecture} was "
        "tried without knowing it), so use another model."
    )


def hooked_decoder(
    original: nn.Module, tokenizer: PreTrainedTokenizerBase | None, name: str
) -> DecoderModel:
    """The hooked model over an original, whose modules it runs."""
    parts = decoder_parts(original)
    if is_packed(parts.unembed):
        raise unknown(parts.unembed, "stands for an unembedding whose weights are quantized")
    if not is_tested(original):
        # Texts as short as the shortest window: no comparison of short texts sees one.
        windows = [block.attn.window for block in parts.blocks if block.attn.window is not None]
        parts = replace(parts, n_ctx=min([parts.n_ctx, *windows]))
    return DecoderModel(original, parts, name=name, tokenizer=tokenizer)


def with_numbers(model: DecoderModel) -> DecoderModel:
    """The model with numbers for quantized weights, which it gives up; itself if it has none."""
    if not has_packed(model.original):
        return model
    return hooked_decoder(dequantize_modules(model.original), model.tokenizer, model.cfg.model_name)


def is_tested(original: nn.Module) -> bool:
    """True if tests compare models of this class with their originals, and the engine with them."""
    return type(original).__name__ in TESTED | WRITTEN
