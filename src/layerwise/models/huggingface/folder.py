"""A folder in hub format: is it a model that can be loaded, judged without loading weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from layerwise.errors import UserError, one_line
from layerwise.models.files.stored_weights import (
    read_json_object,
    refuse_too_many_layers,
    stored_weights,
    weight_files,
)
from layerwise.models.weights.quantization import QUANTIZATION, read_quantization

_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.spm", "*.tiktoken",
)  # fmt: skip
# Far more than any model was trained on; positions that are not rotary cost memory for each.
_LONGEST_ROTARY, _LONGEST = 2**24, 2**16
_MOST_LABELS = 10**5
_GENERATION = "generation_config.json"
_NESTED = ("vision_config", "audio_config", "text_config")
# They may name a kernel on the hub, whose code would be fetched and run.
_IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")
_TOKEN_IDS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
)  # fmt: skip


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a language model that can be loaded from ``folder``."""
    config = config_without_weights(folder)
    n_tensors = len(stored_weights(folder, quantized=read_quantization(folder) is not None))
    refuse_too_many_layers(folder / "config.json", _config_fields(folder), n_tensors)
    return config


def has_weights(folder: Path) -> bool:
    """True if the weights that a model folder calls for are in it."""
    try:
        weight_files(folder)
    except UserError:
        return False
    return True


def read_any_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a folder, held to its weights if they are there."""
    return read_config(folder) if has_weights(folder) else config_without_weights(folder)


def config_without_weights(folder: Path) -> PreTrainedConfig:
    """The configuration of a language model, whether or not its weights are there."""
    fields = _config_fields(folder)
    native = str(fields.get("model_type")) in CONFIG_MAPPING
    if fields.get("auto_map") and not native:
        raise UserError(
            f"The model in {folder} needs code of its own (auto_map in config.json), which "
            "layerwise never runs: expected an architecture that transformers has itself; use "
            "such a model."
        )
    _refuse_kinds(folder, fields)
    read_quantization(folder)  # refused if it is of another kind
    # transformers would read these instead of model.safetensors.
    sharded = sorted(path.name for path in folder.glob("shard-*-model-*-of-*.safetensors"))
    other = sharded[0] if sharded else fields.get("transformers_weights")
    if other is not None:
        raise UserError(
            f"The weights of {folder} are not in model.safetensors but in {str(other)[:80]!r}: "
            "expected model.safetensors or shards with an index; write the model with "
            "save_pretrained(folder), and give that folder."
        )
    refuse_too_many_layers(folder / "config.json", fields)
    # transformers makes a name for each, though a language model has none.
    labels = fields.get("num_labels") or 0
    if type(labels) is not int or not 0 <= labels <= _MOST_LABELS:
        raise UserError(
            f"{folder / 'config.json'} calls for {str(labels)[:40]} labels (num_labels): expected "
            f"at most {_MOST_LABELS}; leave the field out."
        )
    _refuse_strange_token_ids(folder / "config.json", fields)
    if (folder / _GENERATION).is_file():
        generation = read_json_object(folder / _GENERATION)
        _refuse_strange_token_ids(folder / _GENERATION, generation)
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder} has no tokenizer: expected tokenizer.json (or "
            f"{', '.join(_VOCABULARIES[1:])}); put it there with "
            "tokenizer.save_pretrained(folder)."
        )
    with must_be_usable(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if hasattr(config, QUANTIZATION):  # whoever loads weights looks for it in the folder
        delattr(config, QUANTIZATION)
    for name in _IMPLEMENTATIONS:  # of nested configurations, too
        setattr(config, name, None)
    longest = getattr(config, "max_position_embeddings", None) or 0
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    most = _LONGEST_ROTARY if rotary else _LONGEST
    if type(longest) is not int or not 0 <= longest <= most:
        raise UserError(
            f"{folder / 'config.json'} allows texts of {str(longest)[:40]} tokens "
            f"(max_position_embeddings): expected at most {most}; correct it."
        )
    return config


@contextlib.contextmanager
def must_be_usable(folder: Path) -> Iterator[None]:
    """Turn transformers' errors about a configuration into one sentence."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{folder / 'config.json'} cannot be used ({type(error).__name__}: {one_line(error)}): "
            "expected a configuration that transformers accepts; correct it."
        ) from error


def _config_fields(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is no model folder: expected a config.json in it, as in a hub repository; "
            "give the folder that has it."
        )
    return read_json_object(path)


def _refuse_strange_token_ids(path: Path, fields: dict[str, Any]) -> None:
    for name in _TOKEN_IDS:
        value = fields.get(name)
        # There may be several tokens that end a text.
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if value is not None and not all(type(token) is int for token in ids):
            raise UserError(
                f"{path} has {str(value)[:40]!r} as {name}: expected the id of a token, a whole "
                "number; correct it."
            )


def _refuse_kinds(folder: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("model_type")
    names = fields.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    architecture = first if isinstance(first, str) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or architecture is None:
        named = str(architecture or kind)[:80]
        raise UserError(
            f"The model in {folder} is of an unknown architecture ({named}): "
            "expected a model_type and one of its classes in config.json that transformers knows; "
            "use another model."
        )
    nested = [name for name in _NESTED if fields.get(name)]
    if nested:
        raise UserError(
            f"The model in {folder} is of several parts, for more than text ({architecture}, with "
            f"{nested[0]}): expected a text model, whose config.json tells its layers itself; use "
            "a text model of that family."
        )
    by_default = getattr(AutoConfig.for_model(kind), "is_encoder_decoder", False)
    if fields.get("is_encoder_decoder") or by_default:
        from layerwise.models.seq2seq.families import PARTS_OF

        if architecture not in PARTS_OF:
            raise UserError(
                f"The model in {folder} is an encoder-decoder model of a kind that is not "
                f"supported ({architecture}): expected one of {', '.join(PARTS_OF)}; use such a "
                "model."
            )
    elif architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise UserError(
            f"The model in {folder} is no causal language model ({architecture}): expected a "
            "class such as LlamaForCausalLM in config.json; use such a model."
        )


def has_tokenizer(folder: Path) -> bool:
    """True if a tokenizer is in a folder."""
    return any(path.is_file() for name in _VOCABULARIES for path in folder.glob(name))
