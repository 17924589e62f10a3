"""GGUF files: converted once to a folder in hub format, which is kept in the cache folder.

The reading of the format and the dequantization are transformers' own.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import PreTrainedConfig

from layerwise.errors import UserError, one_line, short_repr
from layerwise.models.files.cache import cached_folder, file_sha256
from layerwise.models.files.gguf_header import GgufHeader, read_gguf_header, refuse_other_files
from layerwise.models.libraries.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ROTARY = (
    "gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "stablelm",
    "starcoder2",
)  # fmt: skip
_BASE_UNREAD = ("stablelm", "starcoder2")
_EXPERTS = ("qwen2moe", "qwen3moe")
# Not all files say how wide their experts are, but all have them.
_WIDTHS = {
    "moe_intermediate_size": "blk.0.ffn_up_exps.weight",
    "shared_expert_intermediate_size": "blk.0.ffn_up_shexp.weight",
}
_BASE = 10_000.0  # of llama.cpp, where a file has none
# Of Gemma's largest models (46 and 62 layers) llama.cpp scales attention by another width.
_BY_HEADS = {"gemma2": 46, "gemma3": 62}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def complete_settings(header: GgufHeader, config: Any) -> None:
    """Set configuration fields that transformers leaves at their defaults despite the file."""
    architecture = header.metadata["general.architecture"]
    fields = _Fields(header, architecture)
    rope = config.rope_parameters if architecture in _BASE_UNREAD else {}
    if architecture in _BASE_UNREAD:
        rope["rope_theta"] = float(fields("rope.freq_base", _BASE))
    if "partial_rotary_factor" in rope:
        width = config.hidden_size // config.num_attention_heads
        rope["partial_rotary_factor"] = fields("rope.dimension_count", width) / width
        config.partial_rotary_factor = rope["partial_rotary_factor"]
    for field, tensor in _WIDTHS.items():
        if architecture in _EXPERTS and tensor in header.tensors and hasattr(config, field):
            setattr(config, field, header.shape(tensor)[-2])


# What a setting is, its value by the file, and by the configuration.
_Setting = tuple[str, Any, Any]


def refuse_unread_settings(path: Path, header: GgufHeader, config: PreTrainedConfig) -> None:
    """Refuse a configuration that differs from the header."""
    fields = _Fields(header, header.metadata["general.architecture"])
    settings = [*_rotation(fields, config)] if fields.architecture in _ROTARY else []
    if fields.architecture in _BY_HEADS:
        settings += _attention_of_gemma(fields, config, _BY_HEADS[fields.architecture])
    for what, of_file, of_config in settings:
        same = of_file == of_config
        if isinstance(of_file, float) and isinstance(of_config, int | float):
            same = isclose(of_file, of_config, rel_tol=1e-6)
        if not same:
            raise UserError(
                f"{path.name} cannot be converted: its header says {short_repr(of_file)} "
                f"of {what}, "
                f"transformers reads {short_repr(of_config)}; expected the same; use the model's "
                "safetensors folder."
            )


class _Fields(NamedTuple):
    """The settings of the architecture in a header."""

    header: GgufHeader
    architecture: str

    def __call__(self, key: str, default: Any = None) -> Any:
        return self.header.metadata.get(f"{self.architecture}.{key}", default)


def _rotation(fields: _Fields, config: PreTrainedConfig) -> Iterator[_Setting]:
    read = _rope(config, _GLOBAL)
    yield "the rotary base", float(fields("rope.freq_base", _BASE)), read["rope_theta"]
    kind, factor = fields("rope.scaling.type"), float(fields("rope.scaling.factor") or 1)
    if kind is None:  # llama.cpp scales linearly by a factor that stands alone
        kind = "none" if factor == 1 else "linear"
    of_config = read.get("rope_type", "default").replace("default", "none")
    yield "rotary scaling", kind, of_config
    if kind != "none":
        yield "the factor of rotary scaling", factor, read.get("factor")


def _rope(config: Any, kind: str) -> dict[str, Any]:
    """The rotary parameters of a kind of layers; the same for all where they are not told apart."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return {"rope_theta": _BASE} | parameters.get(kind, parameters)


def _attention_of_gemma(fields: _Fields, config: Any, largest: int) -> Iterator[_Setting]:
    heads, width = fields("attention.head_count"), fields("embedding_length")
    by_heads = fields("block_count") == largest
    scaled_by = width // heads if by_heads else fields("attention.key_length")
    yield "the width that attention is scaled by", scaled_by, config.query_pre_attn_scalar
    if fields.architecture == "gemma2":
        capped = float(fields("attn_logit_softcapping", 50.0))
        yield "the soft-cap of attention", capped, config.attn_logit_softcapping
        capped = float(fields("final_logit_softcapping", 30.0))
        yield "the soft-cap of logits", capped, config.final_logit_softcapping
    else:
        base = float(fields("rope.freq_base_swa", _BASE))
        yield "the rotary base of windows", base, _rope(config, _LOCAL)["rope_theta"]
    yield "the window", fields("attention.sliding_window"), config.sliding_window
    every = 2 if fields.architecture == "gemma2" else 6
    every = fields("attention.sliding_window_pattern", every)
    n_layers = config.num_hidden_layers
    kinds = [_LOCAL if (layer + 1) % every else _GLOBAL for layer in range(n_layers)]
    yield "which layers have windows", kinds, list(config.layer_types)


_NAME = "model.gguf"


def folder_of_gguf(path: Path, *, expected_sha256: str | None = None) -> Path:
    """The folder in hub format that ``path`` was converted to, now or earlier."""
    # The weights are dequantized to float32 and held against the file's own tensors. The folder is
    # named by the file's hash and appears only when it is complete; a manifest in it tells the
    # hashes of its files (see ``manifest``).
    digest = None if expected_sha256 is None else file_sha256(path)
    if digest != expected_sha256:
        raise UserError(
            f"{path.name} is not the file it should be: expected SHA-256 {expected_sha256}, got "
            f"{digest}; reinstall the package it came with."
        )
    refuse_other_files(path)
    return cached_folder("gguf", digest or file_sha256(path), lambda folder: _convert(path, folder))


def _convert(path: Path, folder: Path) -> None:
    """Convert what the header says can be converted; refuse the rest before weights are read."""
    from safetensors.torch import save_model

    from layerwise.models.files.gguf_check import refuse_other_values, tensor_names

    # The bar of the conversion is not governed by transformers' own switch.
    header = read_gguf_header(path)
    with quiet(), contextlib.redirect_stderr(io.StringIO()), _isolate_file(path, folder) as place:
        config = _config(path, header, folder, place)
        with _refusals(path):
            names = tensor_names(path, header, config)
            tokenizer, model = _read_by_transformers(place, config)
            refuse_other_values(path, header, model, names)
        # Newer transformers call the dequantized model quantized and refuse save_pretrained.
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


@contextlib.contextmanager
def _isolate_file(path: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The file as the only one of a folder: transformers would read, or run, what is beside it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / _NAME).symlink_to(path.resolve())
        yield {"pretrained_model_name_or_path": place, "gguf_file": _NAME}


def _config(
    path: Path, header: GgufHeader, folder: Path, place: dict[str, str]
) -> PreTrainedConfig:
    """The configuration that the header tells, if such models can be run."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from layerwise.models.conversion.convert import NoConversionError, hooked_config
    from layerwise.models.decoder.load import hooked_decoder
    from layerwise.models.files.gguf_check import refuse_other_architectures
    from layerwise.models.huggingface.originals import meta_original

    refuse_other_architectures(path, header)
    _refuse_no_size(path, header)
    with _refusals(path):
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False, local_files_only=True)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        complete_settings(header, config)
        config.save_pretrained(folder)
        refuse_unread_settings(path, header, config)
    try:
        hooked_config(folder, path.name, config, torch.float32)
    except NoConversionError:
        hooked_decoder(meta_original(config), None, path.name)
    return config


# Sizes that no model can be without.
_SIZES = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length")


def _refuse_no_size(path: Path, header: GgufHeader) -> None:
    """Refuse a header whose model would have no layers, heads or width."""
    fields = _Fields(header, header.metadata["general.architecture"])
    for key in _SIZES:
        if fields(key, 1) == 0:
            raise UserError(
                f"{path.name} cannot be converted: its header says that {key} is 0; expected 1 or "
                "more; get the file again, or use the model's safetensors folder."
            )


def _read_by_transformers(
    place: dict[str, str], config: PreTrainedConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        **place, trust_remote_code=False, local_files_only=True
    )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **place,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model, report = loaded
    # transformers would fill a gap with random numbers.
    gaps = [*report["missing_keys"], *report["unexpected_keys"]]
    if gaps:
        raise ValueError(f"no tensor becomes {min(gaps)}")
    return tokenizer, model


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"{path.name} cannot be converted ({type(error).__name__}: {one_line(error)}): "
            "expected a GGUF file of an architecture that transformers reads; use the model's "
            "safetensors folder."
        ) from error
