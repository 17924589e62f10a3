"""A user's model that is in memory: of transformers, or a bridge, as a hooked model.

A model of transformers is left as it is. A fresh model of its class shares its weights, gets the
hook points, and is compared with it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, short_repr
from layerwise.models.huggingface.originals import fits, read_tokenizer
from layerwise.models.instance.exclusive import model_lock, own_state
from layerwise.models.seq2seq.families import PARTS_OF
from layerwise.models.seq2seq.load import hooked_seq2seq

from . import parity
from .bridge import from_bridge, is_bridge
from .over_weights import (
    Hooked,
    Versions,
    attach_facts,
    compare_with_given,
    copy_over_weights,
    hook_decoder,
    tokenizer_folder,
    weight_versions,
)

VERIFIED = "a model of transformers in memory; log-probabilities compared with its own"
Modules = dict[str, type[nn.Module]]
State = tuple[Versions, Modules]
# Of each model the hooked one over its weights, and which weights and modules these were.
_KNOWN: WeakKeyDictionary[PreTrainedModel, tuple[Hooked, State]] = WeakKeyDictionary()


def hook_in_memory(model: Any) -> Any:
    """The hooked model of a bridge or of a model of transformers; any other value itself."""
    if isinstance(model, PreTrainedModel):
        return from_transformers(model)
    return from_bridge(model) if is_bridge(model) else model


def from_transformers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> Hooked:
    """The hooked model over the weights of a model of transformers that is in memory.

    Your model is left as it is, and the memory of its weights is shared. Both are compared each
    time: log-probabilities of a fixed text in several lengths. The same model gives the same hooked
    model again, until its weights or modules are replaced or changed.

    Args:
        model: a decoder or an encoder-decoder of transformers, in evaluation mode.
        tokenizer: its tokenizer; if None, that of the folder or the hub's cache that the model
            was loaded from (``model.name_or_path``).

    Raises:
        UserError: if there is no tokenizer, the model gives no logits of next tokens, is in
            training mode or has no weights in memory, or its class cannot be run over its own
            modules; if it has other modules than its class (adapters, quantized or exchanged
            modules), or is changed in another way (hooks), so that log-probabilities differ by
            more than 1e-3 nats in float32 and by more than rounding explains.
    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"Argument 'model' is of type {type(model).__name__}: expected a model of "
            "transformers (PreTrainedModel); give any other model as it is."
        )
    name = model.name_or_path or type(model).__name__
    what = f"The model {short_repr(name)} in memory"
    if not model.can_generate():
        raise UserError(
            f"{what} is a {type(model).__name__}, which gives no logits of next tokens: expected a "
            "decoder or an encoder-decoder with its head; load it with AutoModelForCausalLM or "
            "AutoModelForSeq2SeqLM."
        )
    if model.training:
        raise UserError(
            f"{what} is in training mode, where it may draw at random: expected evaluation mode; "
            "call its eval() first."
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise UserError(
            f"{what} has weights on the device 'meta', where they have no values: expected them in "
            "memory; load the model without device_map, or by its name."
        )
    with model_lock(model), own_state():
        known, state = _KNOWN.get(model), (weight_versions(model), _modules(model))
        fresh = known is None or known[1] != state
        if known is not None and tokenizer is None:
            tokenizer = known[0].tokenizer
        elif known is not None:
            fresh = fresh or known[0].tokenizer is not tokenizer
        hooked = _hook(model, tokenizer, name, what) if known is None or fresh else known[0]
        difference = compare_with_given(
            hooked,
            lambda texts: parity.reference(model, texts),
            name,
            f"{what} does not say what a {type(model).__name__} with its weights says",
            "undo what was changed (hooks, adapters, modules), or save the model with "
            "save_pretrained and load that folder",
        )
        if fresh:
            attach_facts(hooked, difference, model, VERIFIED)
            _KNOWN[model] = hooked, state
    return hooked


def _hook(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, name: str, what: str
) -> Hooked:
    tokenizer = _tokenizer(model, tokenizer, what)
    two_stacks = bool(model.config.is_encoder_decoder)
    if two_stacks and type(model).__name__ not in PARTS_OF:
        raise UserError(
            f"{what} is a {type(model).__name__}, which layerwise does not know: expected one of "
            f"{', '.join(sorted(PARTS_OF))}; use such a model."
        )
    original = copy_over_weights(model, f"{what} is")
    _refuse_exchanged_modules(_modules(model), _modules(original), type(model).__name__, what)
    if two_stacks:
        return hooked_seq2seq(original, tokenizer, name)
    return hook_decoder(original, tokenizer, name)


def _modules(model: PreTrainedModel) -> Modules:
    """Types of a model's modules by their names."""
    return {name: type(module) for name, module in model.named_modules()}


def _refuse_exchanged_modules(given: Modules, wanted: Modules, name: str, what: str) -> None:
    """Refuse modules that a new model of the same class and configuration has not."""
    place = next((one for one in given | wanted if given.get(one) is not wanted.get(one)), None)
    if place is None:
        return
    here, there = (
        f"the module {kinds[place].__name__}" if place in kinds else "no module"
        for kinds in (given, wanted)
    )
    raise UserError(
        f"{what} is a changed {name}, which has {here} at {short_repr(place)}: expected {there}, "
        "as its class has; undo the change (merge adapters, put modules back), or save the model "
        "with save_pretrained and load that folder."
    )


def _tokenizer(
    model: PreTrainedModel, given: PreTrainedTokenizerBase | None, what: str
) -> PreTrainedTokenizerBase:
    """The tokenizer that was given, or that of the folder where the model came from."""
    folder = None if given is not None else tokenizer_folder(model.name_or_path or "")
    tokenizer = given if folder is None else read_tokenizer(folder)
    if tokenizer is None:
        raise UserError(
            f"{what} has no tokenizer on this machine: expected one to turn text into tokens; give "
            "it with layerwise.models.from_transformers(model, tokenizer)."
        )
    embeddings: Any = model.get_input_embeddings()
    if not fits(tokenizer, embeddings.weight.shape[0]):
        raise UserError(
            f"The tokenizer of {what[:1].lower()}{what[1:]} has tokens that the model has no "
            "embedding for: expected the tokenizer that the model was trained with; give that."
        )
    return tokenizer
