"""A ``TransformerBridge`` of TransformerLens that was handed over, as a decoder over its original.

A bridge puts modules of its own into a Hugging Face model, around the model's own. Here the
weights are taken out again, into a model of the same class, and what that says is compared with
what the bridge says.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, short_repr
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.huggingface.originals import fits, read_tokenizer
from layerwise.models.huggingface.parity_text import Text
from layerwise.models.instance.exclusive import model_lock, own_state

from . import parity
from .over_weights import (
    Versions,
    attach_facts,
    compare_with_given,
    copy_over_weights,
    hook_decoder,
    tokenizer_folder,
    weight_versions,
)

VERIFIED = "handed over as a TransformerBridge; log-probabilities compared with the bridge's"
# Of each bridge the decoder over its weights, and which weights these were.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[DecoderModel, Versions]] = WeakKeyDictionary()


def is_bridge(value: Any) -> bool:
    """True if a value is a ``TransformerBridge``; imports nothing."""
    # Whoever has one has imported this module.
    kind = getattr(sys.modules.get("transformer_lens.model_bridge"), "TransformerBridge", None)
    return isinstance(kind, type) and isinstance(value, kind)


def from_bridge(bridge: Any) -> DecoderModel:
    """The decoder that a bridge wraps, over the modules of its Hugging Face class.

    Weights are the bridge's own memory. The tokenizer is the original's, where it can be read
    again from the folder or the hub's cache that the bridge's came from, since bridges have it
    put a BOS token before texts also where the original does not; else it is the bridge's. The
    same bridge gives the same decoder again, until its weights are replaced or changed; it is
    compared each time.

    Args:
        bridge: a ``transformer_lens.model_bridge.TransformerBridge``.

    Raises:
        UserError: if it was changed (weights processed, hooks on it, modules or weights
            replaced), so that it is not what it wraps: log-probabilities of a fixed text in
            several lengths differ by more than 1e-3 nats in float32, and by more than rounding
            explains; or if what it wraps is no decoder of transformers that can be run over its
            own modules.
    """
    if not is_bridge(bridge):
        raise UserError(
            f"Argument 'bridge' is of type {type(bridge).__name__}: expected a TransformerBridge; "
            "hand any other model over as it is."
        )
    name = str(getattr(bridge.cfg, "model_name", None) or "bridge")
    _refuse_changed_bridge(bridge, name)
    wrapped = bridge.original_model
    if not isinstance(wrapped, PreTrainedModel) or wrapped.config.is_encoder_decoder:
        raise UserError(
            f"The TransformerBridge {short_repr(name)} wraps a {type(wrapped).__name__}: "
            f"expected a "
            "decoder of transformers; load the model by its name, with layerwise.load_model(...)."
        )
    with model_lock(bridge), own_state():
        known, state = _KNOWN.get(bridge), weight_versions(wrapped)
        fresh = known is None or known[1] != state
        model = _hook_wrapped_model(bridge, wrapped, name) if known is None or fresh else known[0]
        difference = _difference(bridge, model, name)
        if fresh:
            original: Any = model.original
            attach_facts(model, difference, original, VERIFIED)
            _KNOWN[bridge] = model, state
    return model


def _refuse_changed_bridge(bridge: Any, name: str) -> None:
    if getattr(bridge, "_weights_processed", False):
        raise UserError(
            f"The weights of the TransformerBridge {short_repr(name)} were processed "
            f"(norms folded, "
            "weights centred), which changes its activations; expected a bridge as "
            "boot_transformers(...) makes it. Make it again without enable_compatibility_mode() "
            "and process_weights(), or load the model by its name."
        )
    if any(point.fwd_hooks or point.bwd_hooks for point in bridge.hook_dict.values()):
        raise UserError(
            f"The TransformerBridge {short_repr(name)} has hooks on it, which would not be seen: "
            "expected one without hooks; call its reset_hooks(including_permanent=True) first."
        )


def _hook_wrapped_model(bridge: Any, wrapped: PreTrainedModel, name: str) -> DecoderModel:
    original = copy_over_weights(wrapped, f"The TransformerBridge {short_repr(name)} wraps")
    return hook_decoder(original, _bridge_tokenizer(bridge, original, name), name)


def _difference(bridge: Any, model: DecoderModel, name: str) -> float:
    """Largest difference of the bridge's log-probabilities from the model's, in nats."""
    device = model.W_E.device
    return compare_with_given(
        model,
        lambda texts: _logprobs_of_bridge(bridge, device, texts),
        name,
        f"The TransformerBridge {short_repr(name)} does not say what the model that it wraps says",
        "make it again with boot_transformers(...), or load the model by its name",
    )


@torch.inference_mode()
def _logprobs_of_bridge(
    bridge: Any, device: torch.device, texts: list[Text]
) -> list[parity.LogProbs]:
    """Log-probabilities of the bridge, of the fixed texts."""
    said = []
    for text in texts:
        tokens = text["input_ids"].to(device)
        logits = bridge(tokens, return_type="logits", attention_mask=torch.ones_like(tokens))
        said.append(parity.to_logprobs(logits))
    return said


def _bridge_tokenizer(bridge: Any, original: Any, name: str) -> PreTrainedTokenizerBase:
    """The original's tokenizer where it can be read again, else the bridge's."""
    tokenizer = bridge.tokenizer
    if tokenizer is None:
        raise UserError(
            f"The TransformerBridge {short_repr(name)} has no tokenizer: expected one to "
            f"turn text into "
            "tokens; give it one (bridge.tokenizer = ...)."
        )
    folder = tokenizer_folder(str(tokenizer.name_or_path))
    if folder is not None:
        try:
            stored = read_tokenizer(folder)
        except UserError:
            return tokenizer
        if fits(stored, original.config.vocab_size):
            return stored
    if not fits(tokenizer, original.config.vocab_size):
        raise UserError(
            f"The tokenizer of the TransformerBridge {short_repr(name)} has tokens that "
            f"the model has "
            "no embedding for: expected the tokenizer that the model was trained with; give it "
            "that (bridge.tokenizer = ...)."
        )
    return tokenizer
