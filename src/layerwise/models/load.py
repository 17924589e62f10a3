"""``load_model``: one route from any name to a hooked model that equals its original.

The steps are elsewhere; their order is here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.ground.arguments import check_arguments
from layerwise.models import parity
from layerwise.models.cache import folder_sha256
from layerwise.models.convert import hooked_config, hooked_model
from layerwise.models.devices import parse_device, parse_dtype
from layerwise.models.facts import Origin, attach_origin, describe, origin_of, weights_hash
from layerwise.models.folder import read_config
from layerwise.models.generation import GenerationSettings, read_generation_settings
from layerwise.models.in_turn import own_state
from layerwise.models.kinds import Model, moved
from layerwise.models.loaded import WRITTEN
from layerwise.models.offload import offloaded_model, refuse_other_places
from layerwise.models.organisms.wired import wired_model
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.originals import (
    load_original,
    load_tokenizer,
    refuse_nonfinite,
    refuse_parameters_without_weights,
)
from layerwise.models.parity import Check
from layerwise.models.quiet import quiet
from layerwise.models.registry import WIRED_MODELS
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.load import checked, expected_logprobs, hooked_seq2seq
from layerwise.models.sources import Source, find_source
from layerwise.models.strides import restride
from layerwise.models.weight_files import WeightFiles, damaged, find_weights, write_weights


@own_state()
@check_arguments()
def load_model(
    name: str | os.PathLike[str] = "smollm2-135m",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    offload: str | None = None,
) -> Model:
    """Load a model and make sure that it is its original.

    The hooked model is compared with its Hugging Face original on a fixed text in several
    lengths, in float32 on the CPU, and again as it will be used if that is something else. The
    outcome is kept in the cache folder for the same files and versions of torch, transformers
    and TransformerLens.

    Args:
        name: a bundled alias, ``wired-decoder`` (see ``wired_model``), ``wired-seq2seq`` (see
            ``wired_seq2seq_model``), the path of a GGUF file, a folder in hub format, or a hub id
            ``owner/name``; looked up in this order.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        offload: ``disk`` leaves the weights of the layers in the cache folder, each but for the
            time that it runs; the first load writes them there, and needs memory for all. None
            keeps them in memory.

    Returns:
        The model, nothing folded or centred, its parameters re-strided (see ``restride``); an
        encoder-decoder as a ``Seq2SeqModel``.
        ``model_facts`` tells what it is, ``original_tokenizer`` gives its tokenizer.

    Raises:
        UserError: if there is no such model, its files are not whole or not safe, its
            architecture is not supported, or it differs from its original by more than 1e-3
            nats in float32 and by more than rounding explains.
    """
    wanted = _Wanted(parse_dtype(dtype), parse_device(device))
    refuse_other_places(offload)
    if name in WIRED_MODELS:
        return _written(os.fspath(name), wanted, offload)
    source = find_source(os.fspath(name))
    with quiet():
        config = read_config(source.folder)
        if config.is_encoder_decoder:
            return _encoder_decoder(source, config, wanted, offload)
        files = _read(source, config)
        key = parity.check_key(source.folder, wanted.dtype, wanted.device)
        check = parity.recorded_check(key)
        load = _in_memory if offload is None else _on_disk
        model, check, n_parameters = load(files, wanted, key, check)
    _attach_facts(model, files, check, n_parameters)
    return model


@dataclass(frozen=True)
class _Wanted:
    dtype: torch.dtype
    device: torch.device


def _written(name: str, wanted: _Wanted, offload: str | None) -> Model:
    """A wired model, which has neither files nor an original that it could differ from."""
    if offload is not None:
        raise UserError(
            f"{name!r} is written into memory and has no files: expected no offload; leave it out."
        )
    model = wired_seq2seq_model() if name == "wired-seq2seq" else wired_model()
    origin = origin_of(model)
    assert origin is not None, "wired models know where they come from"
    moved(model, wanted.dtype, wanted.device)
    facts = replace(
        origin.facts, source="bundled", hash=weights_hash(model), verified=WRITTEN,
        dtype=str(wanted.dtype).removeprefix("torch."), device=str(model.W_E.device),
    )  # fmt: skip
    attach_origin(model, replace(origin, facts=facts))
    return model


def _encoder_decoder(
    source: Source, config: PreTrainedConfig, wanted: _Wanted, offload: str | None
) -> Seq2SeqModel:
    """An encoder-decoder, over its original; compared at every load, in float32 first."""
    if offload is not None:
        raise UserError(
            f"Model {source.name!r} is an encoder-decoder, which stays in memory: expected no "
            "offload; leave it out."
        )
    tokenizer = load_tokenizer(source.folder, config)
    refuse_parameters_without_weights(source.folder, config)
    original = load_original(source.folder, config, torch.float32)
    refuse_nonfinite(source.name, original)
    model = hooked_seq2seq(original, tokenizer, source.name)
    expected = expected_logprobs(model, tokenizer)
    parity = checked(model, tokenizer, expected)
    if wanted != _Wanted(torch.float32, torch.device("cpu")):
        model.to(wanted.device).to(wanted.dtype)
        refuse_nonfinite(source.name, model)
        parity = checked(model, tokenizer, expected)
    facts = describe(
        model,
        digest=weights_hash(model),
        dtype=str(model.W_E.dtype).removeprefix("torch."),
        device=str(model.W_E.device),
    )
    known = replace(facts, parity=parity, **_identity(source))
    config_of_texts: Any = original.generation_config
    attach_origin(model, Origin(known, tokenizer, GenerationSettings.of(config_of_texts)))
    return model


def _identity(source: Source) -> dict[str, Any]:
    """What identifies the files that a model was made from, and how they were verified."""
    return {
        "source": source.kind,
        "source_hash": source.file_hash or folder_sha256(source.folder),
        "conversion_hash": source.conversion_hash,
        "verified": f"{source.verified}; log-probabilities compared with the original's",
    }


@dataclass(frozen=True)
class _Files:
    source: Source
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    def original(self, dtype: torch.dtype) -> PreTrainedModel:
        return load_original(self.source.folder, self.config, dtype)

    def hooked_config(self, dtype: torch.dtype) -> HookedTransformerConfig:
        return hooked_config(self.source.folder, self.source.name, self.config, dtype)


def _read(source: Source, config: PreTrainedConfig) -> _Files:
    # Refuse what cannot be converted before any weights are read.
    hooked_config(source.folder, source.name, config, torch.float32)
    return _Files(source, config, load_tokenizer(source.folder, config))


_Loaded = tuple[HookedTransformer, Check, int]  # the last: number of the original's parameters


def _in_memory(files: _Files, wanted: _Wanted, key: str, check: Check | None) -> _Loaded:
    if check is None:
        refuse_parameters_without_weights(files.source.folder, files.config)
        original = files.original(torch.float32)
        model, check = _checked(files, original, wanted)
        parity.record_check(key, check)
    else:
        original = files.original(wanted.dtype)
        model = _delivered(files, original, wanted)
    return model, check, original.num_parameters()


def _on_disk(files: _Files, wanted: _Wanted, key: str, check: Check | None) -> _Loaded:
    stored = None if check is None else find_weights(check.hash)
    if check is not None and stored is not None:
        return _offloaded(files, wanted, stored), check, stored.n_parameters
    whole, check, n_parameters = _in_memory(files, wanted, key, check)
    stored = find_weights(check.hash) or write_weights(whole, check.hash, n_parameters)
    model = _offloaded(files, wanted, stored)
    if weights_hash(model) != check.hash:
        raise damaged(stored.folder, "they are not those of the model in memory")
    return model, check, n_parameters


def _offloaded(files: _Files, wanted: _Wanted, stored: WeightFiles) -> HookedTransformer:
    cfg = files.hooked_config(wanted.dtype)
    return offloaded_model(cfg, files.tokenizer, stored, wanted.device)


def _checked(
    files: _Files, original: PreTrainedModel, wanted: _Wanted
) -> tuple[HookedTransformer, Check]:
    name = files.source.name
    refuse_nonfinite(name, original)
    plain = _Wanted(torch.float32, torch.device("cpu"))
    model = _delivered(files, original, plain)
    parity.refuse_other_tokens(name, model, files.tokenizer)
    ids = parity.token_ids(files.tokenizer, model.cfg.n_ctx)

    def from_exact() -> tuple[float, parity.Exact]:
        truth = parity.exact(original, lambda one: parity.reference(one, ids))
        return parity.largest_difference(model, truth.logprobs, ids), truth

    with parity.must_run(name):
        expected = parity.reference(original, ids)
        difference = parity.largest_difference(model, expected, ids)
    parity.refuse_difference(name, difference, plain.dtype, from_exact)
    if wanted != plain:
        model = _delivered(files, original, wanted)
        refuse_nonfinite(name, model)
        with parity.must_run(name):
            difference = parity.largest_difference(model, expected, ids)
        parity.refuse_difference(name, difference, wanted.dtype, from_exact)
    return model, Check(difference, weights_hash(model))


def _delivered(files: _Files, original: PreTrainedModel, wanted: _Wanted) -> HookedTransformer:
    model = hooked_model(files.hooked_config(wanted.dtype), original, files.tokenizer)
    if wanted.device.type != "cpu":
        model.to(wanted.device, print_details=False)
    restride(model)
    return model


def _attach_facts(model: HookedTransformer, files: _Files, check: Check, n_parameters: int) -> None:
    weights = model.embed.W_E
    facts = describe(
        model,
        digest=check.hash,
        dtype=str(weights.dtype).removeprefix("torch."),
        device=str(weights.device),
    )
    known = replace(
        facts, parity=check.parity, n_parameters=n_parameters, **_identity(files.source)
    )
    settings = read_generation_settings(files.source.folder)
    attach_origin(model, Origin(known, files.tokenizer, settings))
