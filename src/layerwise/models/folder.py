"""A folder in hub format: is it a model that can be loaded, judged without loading weights.

What TransformerLens makes of it is not known here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from layerwise.errors import UserError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
_INDEX = "model.safetensors.index.json"


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a language model that can be loaded from ``folder``.

    Raises:
        UserError: if the folder is no model, lacks weights or tokenizer, needs code of its own,
            or is of a kind that is not supported.
    """
    config = read_outline(folder)
    _require_safetensors(folder)
    return config


def has_weights(folder: Path) -> bool:
    """Whether the weights that a model folder calls for are in it."""
    try:
        _require_safetensors(folder)
    except UserError:
        return False
    return True


def read_outline(folder: Path) -> PreTrainedConfig:
    """The configuration of a language model, whether or not its weights are there.

    Raises:
        UserError: as ``read_config``, but for weights.
    """
    fields = _config_fields(folder)
    _refuse_remote_code(folder, fields)
    _refuse_kinds(folder, fields)
    _refuse_quantized(folder, fields)
    _require_tokenizer(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise UserError(
            f"{folder / 'config.json'} cannot be used ({type(error).__name__}: {one_line(error)}): "
            "expected a configuration that transformers accepts; correct it."
        ) from error


def one_line(error: BaseException) -> str:
    """The beginning of an error's message, fit to be quoted in a sentence."""
    return " ".join(str(error).split())[:200].rstrip(" .")


def _config_fields(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is no model folder: expected a config.json in it, as in a hub repository; "
            "give the folder that has it."
        )
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}): expected a JSON object; restore the file."
        ) from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no JSON object: expected one; restore the file.")
    return fields


def _refuse_remote_code(folder: Path, fields: dict[str, Any]) -> None:
    native = fields.get("model_type") in CONFIG_MAPPING
    if fields.get("auto_map") and not native:
        raise UserError(
            f"The model in {folder} needs code of its own (auto_map in config.json), which "
            "layerwise never runs: expected an architecture that transformers has itself; use "
            "such a model."
        )


def _refuse_kinds(folder: Path, fields: dict[str, Any]) -> None:
    kind = str(fields.get("model_type"))
    architecture = _architecture_of(fields)
    if kind not in CONFIG_MAPPING or architecture is None:
        raise UserError(
            f"The model in {folder} is of an unknown architecture ({architecture or kind}): "
            "expected a model_type and one of its classes in config.json that transformers knows; "
            "use another model."
        )
    if fields.get("is_encoder_decoder") or _defaults_to_encoder_decoder(kind):
        return _refuse_encoder_decoders(folder, architecture)
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise UserError(
            f"The model in {folder} is no causal language model ({architecture}): expected a "
            "class such as LlamaForCausalLM in config.json; use such a model."
        )
    return None


def _refuse_quantized(folder: Path, fields: dict[str, Any]) -> None:
    if fields.get("quantization_config"):
        raise UserError(
            f"The weights in {folder} are quantized: expected float32, bfloat16 or float16; use "
            "the model's unquantized weights, or a GGUF file."
        )


def _refuse_encoder_decoders(folder: Path, architecture: str) -> None:
    from layerwise.models.seq2seq.families import PARTS_OF

    if architecture not in PARTS_OF:
        raise UserError(
            f"The model in {folder} is an encoder-decoder model of a kind that is not supported "
            f"({architecture}): expected one of {', '.join(PARTS_OF)}; use such a model."
        )


def _architecture_of(fields: dict[str, Any]) -> str | None:
    names = fields.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _defaults_to_encoder_decoder(kind: str) -> bool:
    return bool(getattr(AutoConfig.for_model(kind), "is_encoder_decoder", False))


def _require_safetensors(folder: Path) -> None:
    index = folder / _INDEX
    if index.is_file():
        return _require_shards(folder, index)
    if (folder / "model.safetensors").is_file():
        return None
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UserError(
            f"{folder} has only pickled weights, which can run code when they are read: expected "
            "model.safetensors; convert them, or use a repository that has safetensors."
        )
    raise UserError(
        f"{folder} has no weights: expected model.safetensors or {_INDEX} (pickled weights are "
        "not accepted); put them there."
    )


def _require_shards(folder: Path, index: Path) -> None:
    try:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{index} cannot be read: expected a JSON object with a weight_map; restore the file."
        ) from error
    missing = [shard for shard in shards if not (folder / str(shard)).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files, {missing[0]} among "
            f"them: expected all that {_INDEX} names; fetch them."
        )


def _require_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        if any(folder.glob("*.tiktoken")):
            return
        raise UserError(
            f"{folder} has no tokenizer: expected tokenizer.json (or "
            f"{', '.join(_TOKENIZER_FILES[1:])}); put it there with "
            "tokenizer.save_pretrained(folder)."
        )
