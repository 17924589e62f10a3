"""Headers of a model's safetensors files: names, shapes and number formats.

Read before any weight is, so that what cannot be loaded rightly is refused at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from layerwise.errors import UserError, count_noun, one_line
from layerwise.ground.regular_files import read_regular

_LARGEST = 2**26  # bytes; the largest index of a model known to us has 2**21


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise UserError(
                f"{path} cannot be read ({size} bytes): expected a JSON object of at most "
                f"{_LARGEST} bytes; restore the file."
            )
        fields = json.loads(read_regular(path).decode("utf-8"))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}): expected a JSON object; restore the file."
        ) from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no JSON object: expected one; restore the file.")
    return fields


WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
# Masks and positions that old files keep beside the weights, and nothing reads.
_IGNORED = re.compile(r"(.*\.)?(attn|attention|self_attn)\.(masked_)?bias|(.*\.)?position_ids")
_MOST_LAYERS = 1_000
_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers",
)  # fmt: skip


class StoredWeight(NamedTuple):
    """A tensor in a safetensors file."""

    number_format: str  # as safetensors calls it, e.g. ``BF16``
    shape: tuple[int, ...]

    @property
    def n_bits(self) -> int:
        """Bits of one number; 8 where the format's name does not tell."""
        match = re.search(r"\d+", self.number_format)
        return int(match[0]) if match else 8


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a model folder."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise UserError(
            f"{folder} has only pickled weights, which can run code when they are read: expected "
            "model.safetensors; convert them, or use a repository that has safetensors."
        )
    raise UserError(
        f"{folder} has no weights: expected model.safetensors or {INDEX} (pickled weights are "
        "not accepted); put them there."
    )


def _shards(folder: Path) -> list[Path]:
    index = read_json_object(folder / INDEX)
    mapped = index.get("weight_map")
    if not isinstance(mapped, dict) or not mapped:
        raise UserError(
            f"{folder / INDEX} cannot be read: expected a JSON object with a weight_map; restore "
            "the file."
        )
    for name in mapped.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,250}\.safetensors", name):
            raise UserError(
                f"{folder / INDEX} names {str(name)[:80]!r} as a file of weights: expected the "
                "name of a safetensors file in the same folder; fetch the model again."
            )
    names = sorted(set(mapped.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {count_noun(len(names), 'weight file')}, "
            f"{missing[0]}{' among them' * (len(missing) > 1)}: expected all that {INDEX} names; "
            "fetch them."
        )
    return [folder / name for name in names]


def stored_weights(folder: Path, *, quantized: bool = False) -> dict[str, StoredWeight]:
    """The tensors of a model folder by name; no weight is read."""
    weights: dict[str, StoredWeight] = {}
    for path in weight_files(folder):
        weights |= _header(path)
    for name, weight in weights.items():
        real = quantized or weight.number_format in _FLOATS
        if not real and not _IGNORED.fullmatch(name):
            raise UserError(
                f"Tensor {name[:80]!r} in {folder} has the number format "
                f"{weight.number_format}: expected one of {', '.join(_FLOATS)}, since others "
                "would be changed by loading them; use the model's original weights."
            )
    return weights


def _header(path: Path) -> dict[str, StoredWeight]:
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            return {
                name: StoredWeight(part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except Exception as error:
        raise UserError(
            f"The weights in {path} cannot be loaded ({type(error).__name__}: {one_line(error)}): "
            "expected whole safetensors files that fit config.json; delete that folder and fetch "
            "the model again."
        ) from error


def refuse_too_many_layers(path: Path, fields: Mapping[str, Any], most: int = _MOST_LAYERS) -> None:
    """Accept only numbers of layers that there can be."""
    for field in _LAYERS:
        number = fields.get(field, 0)
        if type(number) is not int or not 0 <= number <= most:
            raise UserError(
                f"{path} calls for {str(number)[:40]} layers ({field}): expected a whole number, "
                f"at most {most} as there are tensors for; correct it."
            )


def refuse_too_large(
    folder: Path, model: Any, stored: Mapping[str, StoredWeight], n_bits: int | None = None
) -> None:
    """Refuse a model with more parameters than its files can hold."""
    wanted = sum(parameter.numel() for parameter in model.parameters())
    within = (1 if n_bits is None else weight.n_bits // n_bits for weight in stored.values())
    given = sum(n * prod(weight.shape) for n, weight in zip(within, stored.values(), strict=True))
    if wanted > 2 * given:
        raise UserError(
            f"{folder / 'config.json'} calls for {wanted} parameters, the files hold {given}: "
            "expected weights that fit config.json; use the files that belong together."
        )
