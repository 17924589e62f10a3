"""A fresh hooked model over the weights of one in memory, and its comparison with that one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, short_repr
from layerwise.models.decoder.load import hooked_decoder, is_tested, refuse_wrong_sites
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.huggingface.parity_text import Text, batches, parity_texts, token_ids
from layerwise.models.instance.facts import Origin, attach_origin, describe, weights_hash
from layerwise.models.instance.generation import GenerationSettings
from layerwise.models.seq2seq.model import Seq2SeqModel

from . import parity

Hooked = DecoderModel | Seq2SeqModel
Versions = tuple[tuple[int, int], ...]
# A bridge puts the model's own modules behind this name.
_WRAPPED = "._original_component"


def weight_versions(wrapped: nn.Module) -> Versions:
    """Identities of the weight tensors with torch's version counters."""
    return tuple(
        (id(parameter), 0 if parameter.is_inference() else parameter._version)
        for parameter in wrapped.parameters()
    )


def hook_decoder(original: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> DecoderModel:
    """The hooked decoder over a fresh model; of an untested class its sites are compared."""
    hooked = hooked_decoder(original, tokenizer, name)
    if not is_tested(original):
        refuse_wrong_sites(hooked)
    return hooked


def attach_facts(hooked: Hooked, difference: float, original: PreTrainedModel, how: str) -> None:
    """Give a hooked model its facts: its hash, how it was compared, settings of generation."""
    parity_of = difference if hooked.W_E.dtype == torch.float32 else None
    facts = describe(hooked, weights_hash(hooked), parity=parity_of, verified=how)
    settings = GenerationSettings.from_generation_config(original.generation_config)
    assert hooked.tokenizer is not None
    attach_origin(hooked, Origin(facts, hooked.tokenizer, settings))


def compare_with_given(
    hooked: Hooked,
    logprobs_of: Callable[[list[Text]], list[parity.LogProbs]],
    name: str,
    claim: str,
    remedy: str,
) -> float:
    """Largest difference of log-probabilities of a fixed text from the given model's, in nats.

    Args:
        hooked: the hooked model over the weights of the given one.
        logprobs_of: log-probabilities of texts, by the given model.
        name: of the model, for a refusal of what the given model cannot run.
        claim: what a refusal says of the given model, without a stop.
        remedy: what it says to do.

    Raises:
        UserError: if the difference is larger than is accepted.
    """
    assert hooked.tokenizer is not None
    texts = (
        parity_texts(hooked, hooked.tokenizer)
        if isinstance(hooked, Seq2SeqModel)
        else batches(token_ids(hooked.tokenizer, hooked.cfg.n_ctx))
    )
    with parity.refuse_crash(name):
        logprobs = logprobs_of(texts)
        difference = parity.largest_difference(hooked, logprobs, texts)
    if not difference <= acceptance_limit(hooked, logprobs, texts, difference):
        raise UserError(
            f"{claim}: log-probabilities differ by up to {difference:.3g} nats, expected at most "
            f"{parity.TOLERANCE:g} or what rounding explains; {remedy}."
        )
    return difference


def acceptance_limit(
    model: Hooked,
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


def tokenizer_folder(name: str) -> Path | None:
    """The folder that a tokenizer was read from, if it is on this machine."""
    if name and Path(name).is_dir():
        return Path(name)
    try:
        path = try_to_load_from_cache(name, "tokenizer_config.json")
    except ValueError:  # not the name of anything on the hub
        return None
    return Path(path).parent if isinstance(path, str) else None
