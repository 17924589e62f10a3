"""A meta model: configuration and tokenizer without weights, enough to plan a run.

Anything that needs a number from the weights fails on a meta model.
"""

from __future__ import annotations

import copy
import os

import torch

from layerwise.errors import UserError
from layerwise.models.conversion.backends import Files, choose_backend
from layerwise.models.conversion.convert import refuse_absent_backend
from layerwise.models.decoder.packed import with_packed_sizes
from layerwise.models.huggingface.folder import must_be_usable, read_any_config
from layerwise.models.huggingface.originals import load_tokenizer
from layerwise.models.instance.facts import Origin, attach_origin, describe, model_origin
from layerwise.models.instance.generation import read_generation_settings
from layerwise.models.instance.kinds import Model, model_blocks
from layerwise.models.instance.loaded import HUGGING_FACE, META_MODEL, LoadedFacts
from layerwise.models.libraries.hooked import HookedTransformer
from layerwise.models.libraries.quiet import quiet, silence_deprecation
from layerwise.models.load import load_model
from layerwise.models.names.registry import DEFAULT_MODEL, WIRED_MODELS
from layerwise.models.names.sources import find_without_weights
from layerwise.models.weights.devices import parse_device, parse_dtype


def load_meta_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    backend: str = "auto",
) -> Model:
    """The hooked model of that name without its weights; of a hub model none are downloaded."""
    # Wired models are quickly written, so they are given whole.
    if name in WIRED_MODELS:
        return load_model(name, dtype=dtype, device=device, backend=backend)
    refuse_absent_backend(backend)
    number_format, place = parse_dtype(dtype), parse_device(device)
    source = find_without_weights(os.fspath(name))
    with quiet():
        config = read_any_config(source.folder)
        tokenizer = load_tokenizer(source.folder, config, trusted=source.is_trusted)
        files = Files(source, config, tokenizer, choose_backend(source, config, backend))
        model = _without_weights(files, number_format)
    facts = describe(model, "", source=source.kind, verified=META_MODEL, device=str(place))
    settings = read_generation_settings(source.folder)
    attach_origin(model, Origin(facts, tokenizer, settings, folder=source.folder))
    return model


def _without_weights(files: Files, dtype: torch.dtype) -> Model:
    if files.backend == HUGGING_FACE:
        model = files.hook_original(files.meta_original(dtype))
        if files.kept_quantization is not None:
            for block in model_blocks(model):
                for module in block.parts.modules():
                    with_packed_sizes(module, files.kept_quantization.n_bits)
        return model
    cfg = files.hooked_config(dtype)
    cfg.device, cfg.init_weights = "meta", False
    quietly = silence_deprecation("HookedTransformer")
    with must_be_usable(files.source.folder), quietly, torch.device("meta"):
        return HookedTransformer(cfg, copy.deepcopy(files.tokenizer), move_to_device=False).eval()


def is_meta_model(model: Model) -> bool:
    """True if a model is a meta model, without weights."""
    return model.W_E.is_meta


def meta_model_facts(model: Model) -> LoadedFacts:
    """Facts of a meta model: all but hash and parity."""
    origin = model_origin(model)
    if origin is None:
        raise UserError(
            "The model's weights are on the device 'meta', where they have no values: expected "
            "them in memory; give the weights values, or load the model with load_model."
        )
    return origin.facts
