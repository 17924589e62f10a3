"""``load_model``: one route from any name to a hooked model that equals its original.

The steps are elsewhere; their order is here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from layerwise.errors import UserError
from layerwise.ground.argument_types import Backend, Offload
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import ModelName
from layerwise.models.conversion.backends import (
    Files,
    Placement,
    build_checked,
    build_hooked,
    read_files,
    refuse_transformer_lens,
    second_choice,
)
from layerwise.models.conversion.convert import NoConversionError, refuse_absent_backend
from layerwise.models.conversion.offloading import offloaded_model, part_by_name, weights_by_part
from layerwise.models.conversion.parity import Check, NotItsOriginal, record_check, recorded_check
from layerwise.models.files.cache import folder_sha256
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import refuse_parameters_without_weights
from layerwise.models.instance.exclusive import own_state
from layerwise.models.instance.facts import (
    Origin,
    attach_origin,
    describe,
    model_origin,
    weights_hash,
)
from layerwise.models.instance.generation import read_generation_settings
from layerwise.models.instance.kinds import DecoderOnly, Model, to_dtype_device
from layerwise.models.instance.loaded import HUGGING_FACE, WRITTEN
from layerwise.models.libraries.quiet import quiet
from layerwise.models.names.registry import WIRED_MODELS
from layerwise.models.names.sources import find_source
from layerwise.models.organisms.wired import wired_model
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.weights.devices import parse_device, parse_dtype
from layerwise.models.weights.offload import (
    leave_blocks_on_disk,
    put_buffers,
    refuse_other_places,
)
from layerwise.models.weights.quantization import dequantize_advice
from layerwise.models.weights.weight_files import (
    WeightFiles,
    damage_error,
    find_weights,
    write_weights,
)


@own_state()
@check_arguments()
def load_model(
    name: ModelName = "smollm2-135m",
    *,
    dtype: str = "float32",
    device: str = "cpu",
    offload: Offload | None = None,
    backend: Backend = "auto",
) -> Model:
    """Load a model and compare it with its Hugging Face original.

    The hooked model is compared with its Hugging Face original on a fixed text in several
    lengths, in float32 on the CPU, and again as it will be used if that is something else. The
    outcome is kept in the cache folder for the same files and versions of torch, transformers
    and TransformerLens.

    Args:
        name: a bundled alias, ``wired-decoder`` (see ``wired_model``), ``wired-seq2seq`` (see
            ``wired_seq2seq_model``), the path of a GGUF file, a folder in hub format, or a hub id
            ``owner/name``; looked up in this order. A folder or hub id may be an adapter, such as
            LoRA, which is merged into the base that it names.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        offload: ``disk`` leaves the weights of a decoder's layers in the cache folder, each but
            for the time that it runs; the first load writes them there, and needs memory for all.
            None keeps them in memory.
        backend: what runs a decoder: ``transformer-lens``, ``hugging-face`` (its own modules, see
            ``DecoderModel``), or ``auto``: the first where it converts the model and equals the
            original, else the second.

    Returns:
        The model, nothing folded or centred, its parameters re-strided (see ``restride``); over
        the modules of Hugging Face a ``DecoderModel``; an encoder-decoder as a ``Seq2SeqModel``.
        ``model_facts`` tells what it is, ``original_tokenizer`` gives its tokenizer.

    Raises:
        UserError: if there is no such model, its files are not whole or not safe, its
            architecture is not supported by the backend, or it differs from its original by more
            than 1e-3 nats in float32 and by more than rounding explains.
    """
    wanted = Placement(parse_dtype(dtype), parse_device(device))
    refuse_other_places(offload)
    refuse_absent_backend(backend)
    if name in WIRED_MODELS:
        return _load_wired_model(os.fspath(name), wanted, offload, backend)
    source = find_source(os.fspath(name))
    with quiet():
        files = read_files(source, read_config(source.folder), backend)
        try:
            model, check, n_parameters = _load_files(files, wanted, offload)
        except (NoConversionError, NotItsOriginal) as refusal:
            if backend != "auto" or files.backend == HUGGING_FACE:
                raise
            files = second_choice(files, refusal)
            model, check, n_parameters = _load_files(files, wanted, offload)
    known = _identity(files) | {"parity": check.parity, "n_parameters": n_parameters}
    facts, settings = describe(model, check.hash, **known), read_generation_settings(source.folder)
    attach_origin(model, Origin(facts, files.tokenizer, settings))
    return model


def _load_wired_model(name: str, wanted: Placement, offload: str | None, backend: str) -> Model:
    """A wired model, which has neither files nor an original that it could differ from."""
    if offload is not None:
        raise UserError(
            f"{name!r} is written into memory and has no files: expected no offload; leave it out."
        )
    if name == "wired-seq2seq":
        refuse_transformer_lens(name, backend)
        model = wired_seq2seq_model()
    else:
        model = wired_model(backend=backend)
    origin = model_origin(model)
    assert origin is not None, "wired models know where they come from"
    to_dtype_device(model, wanted.dtype, wanted.device)
    facts = describe(model, weights_hash(model), source="bundled", verified=WRITTEN)
    attach_origin(model, replace(origin, facts=facts))
    return model


def _identity(files: Files) -> dict[str, Any]:
    """Identity of the files that a model was made from, and how they were verified."""
    source, quantization = files.source, files.quantization
    became = "widened when loaded" if files.kept_quantization is None else "kept in memory"
    return {
        "source": source.kind,
        "source_hash": source.file_hash or folder_sha256(source.folder),
        "conversion_hash": source.conversion_hash,
        "adapter": source.adapter,
        "gguf": source.gguf,
        "quantization": "" if quantization is None else f"{quantization.words}, {became}",
        "verified": f"{source.verified}; log-probabilities compared with the original's",
    }


_Loaded = tuple[Any, Check, int]  # the model, the check, number of the original's parameters


def _load_files(files: Files, wanted: Placement, offload: str | None) -> _Loaded:
    name = files.source.name
    if files.quantization is not None:
        files.quantization.refuse_missing_packages(files.source.folder)
    if files.kept_quantization is not None:
        files.kept_quantization.refuse_format(name, wanted.dtype)
    if offload is None:
        return _in_memory(files, wanted)
    if files.two_stacks:
        raise UserError(
            f"Model {name!r} is an encoder-decoder, which stays in memory: expected no offload; "
            "leave it out."
        )
    if files.kept_quantization is not None:
        raise UserError(
            f"The weights of {name!r} stay quantized ({files.kept_quantization.words}), "
            f"and only numbers are "
            f"off-loaded: expected no offload; leave it out, or {dequantize_advice()}."
        )
    if files.backend == HUGGING_FACE:
        part_by_name(
            files.hook_original(files.meta_original())
        )  # what is not cut by layers is refused
    return _on_disk(files, wanted)


def _in_memory(files: Files, wanted: Placement) -> _Loaded:
    key = files.check_key(wanted)
    check = None if files.two_stacks else recorded_check(key)
    if check is None:
        refuse_parameters_without_weights(files.source.folder, files.config)
        model, check = build_checked(files, wanted)
        record_check(key, check)
    else:
        model = build_hooked(files, files.original(wanted), wanted)
    return model, check, files.n_parameters(model)


def _on_disk(files: Files, wanted: Placement) -> _Loaded:
    check = recorded_check(files.check_key(wanted))
    stored = None if check is None else find_weights(check.hash)
    if check is not None and stored is not None:
        return _load_offloaded_model(files, wanted, stored), check, stored.n_parameters
    whole, check, n_parameters = _in_memory(files, wanted)
    stored = find_weights(check.hash)
    if stored is None:
        weights = weights_by_part(whole)
        stored = write_weights(weights, whole.W_E, check.hash, n_parameters)
    model = _load_offloaded_model(files, wanted, stored)
    if weights_hash(model) != check.hash:
        raise damage_error(stored.folder, "they are not those of the model in memory")
    return model, check, n_parameters


def _load_offloaded_model(files: Files, wanted: Placement, stored: WeightFiles) -> DecoderOnly:
    if files.backend == HUGGING_FACE:
        model = files.hook_original(files.meta_original(wanted.dtype))
        put_buffers(model, files.computed_buffers(wanted))
        leave_blocks_on_disk(model, stored, wanted.device)
        return model
    cfg = files.hooked_config(wanted.dtype)
    return offloaded_model(cfg, files.tokenizer, stored, wanted.device)
