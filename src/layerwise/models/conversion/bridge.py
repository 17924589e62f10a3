"""A ``TransformerBridge`` of TransformerLens that was handed over, as a decoder over its original.

A bridge puts modules of its own into a Hugging Face model, around the model's own. Here the
weights are taken out again, into a model of the same class, and what that says is compared with
what the bridge says.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, short_repr
from layerwise.models.decoder.load import hooked_decoder, is_tested, refuse_wrong_sites
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.huggingface.originals import fits, read_tokenizer
from layerwise.models.huggingface.parity_text import Text, batches, token_ids
from layerwise.models.instance.exclusive import model_lock, own_state
from layerwise.models.instance.facts import Origin, attach_origin, describe, weights_hash
from layerwise.models.instance.generation import GenerationSettings
from layerwise.models.seq2seq.model import Seq2SeqModel

from . import parity

VERIFIED = "handed over as a TransformerBridge; log-probabilities compared with the bridge's"
_WRAPPED = "._original_component"
Versions = tuple[tuple[int, int], ...]
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
            plain = model.W_E.dtype == torch.float32
            parity_of = {"parity": difference if plain else None, "verified": VERIFIED}
            facts = describe(model, weights_hash(model), **parity_of)
            original: Any = model.original
            settings = GenerationSettings.from_generation_config(original.generation_config)
            assert model.tokenizer is not None
            attach_origin(model, Origin(facts, model.tokenizer, settings))
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


def weight_versions(wrapped: nn.Module) -> Versions:
    """Identities of the weight tensors with torch's version counters."""
    return tuple(
        (id(parameter), 0 if parameter.is_inference() else parameter._version)
        for parameter in wrapped.parameters()
    )


def _hook_wrapped_model(bridge: Any, wrapped: PreTrainedModel, name: str) -> DecoderModel:
    original = copy_over_weights(wrapped, f"The TransformerBridge {short_repr(name)} wraps")
    model = hooked_decoder(original, _bridge_tokenizer(bridge, original, name), name)
    if not is_tested(original):
        refuse_wrong_sites(model)
    return model


def _difference(bridge: Any, model: DecoderModel, name: str) -> float:
    """Largest difference of the bridge's log-probabilities from the model's, in nats."""
    assert model.tokenizer is not None
    texts = batches(token_ids(model.tokenizer, model.cfg.n_ctx))
    with parity.refuse_crash(name):
        logprobs = _logprobs_of_bridge(bridge, model.W_E.device, texts)
        difference = parity.largest_difference(model, logprobs, texts)
    if not difference <= largest_accepted(model, logprobs, texts, difference):
        raise UserError(
            f"The TransformerBridge {short_repr(name)} does not say what the model that it "
            f"wraps says: "
            f"log-probabilities differ by up to {difference:.3g} nats, expected at most "
            f"{parity.TOLERANCE:g} or what rounding explains; make it again with "
            "boot_transformers(...), or load the model by its name."
        )
    return difference


def largest_accepted(
    model: DecoderModel | Seq2SeqModel,
    logprobs: list[parity.LogProbs],
    texts: list[Text],
    difference: float,
) -> float:
    """The largest difference that is accepted, in nats; asks for float64 only if it must."""
    if model.W_E.dtype != torch.float32:
        return parity.ABSURD
    if difference <= parity.TOLERANCE or model.W_E.device.type != "cpu":
        return parity.TOLERANCE
    original: Any = model.original
    truth = parity.exact(original, lambda network: parity.reference(network, texts))
    near = parity.farthest(logprobs, truth.logprobs) <= truth.limit
    return 2 * truth.limit if near else parity.TOLERANCE


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


def copy_over_weights(wrapped: PreTrainedModel, what: str) -> Any:
    """A fresh Hugging Face model over the weights of one, which stays as it is.

    A refusal begins with ``what``, a subject with its verb.
    """
    with torch.device("meta"):
        original: Any = type(wrapped)(copy.deepcopy(wrapped.config))
    weights, tables = (
        {name.replace(_WRAPPED, ""): tensor for name, tensor in named(remove_duplicate=False)}
        for named in (wrapped.named_parameters, wrapped.named_buffers)
    )
    wanted = dict(original.named_parameters(remove_duplicate=False))
    # There may be more: copies that the bridge computes with, cut out of larger ones.
    missing = next((missing for missing in wanted if missing not in weights), None)
    if missing is not None:
        raise UserError(
            f"{what} a changed {type(wrapped).__name__}, which "
            f"has no {short_repr(missing)}: expected the weights of its class; save the model with "
            "save_pretrained, and load that folder."
        )
    _set_tensors(original, weights, wanted)
    _set_tensors(original, tables, dict(original.named_buffers(remove_duplicate=False)))
    original.generation_config = copy.deepcopy(wrapped.generation_config)
    return original.eval()


def _set_tensors(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    """Replace a model's parameters or buffers; ties are kept."""
    same: dict[int, nn.Parameter] = {}
    for full, place in wanted.items():
        tensor = tensors[full]
        owner, _, own = full.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(place, nn.Parameter):
            # The bridge's own say whether they want gradients, which is not to be changed there.
            kept = nn.Parameter(tensor.detach(), requires_grad=False)
            module._parameters[own] = same.setdefault(id(tensor), kept)
        else:
            module._buffers[own] = tensor


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


def tokenizer_folder(name: str) -> Path | None:
    """The folder that a tokenizer was read from, if it is on this machine."""
    if name and Path(name).is_dir():
        return Path(name)
    try:
        path = try_to_load_from_cache(name, "tokenizer_config.json")
    except ValueError:  # not the name of anything on the hub
        return None
    return Path(path).parent if isinstance(path, str) else None
