"""Values that are written as texts on the command line: layers, heads, positions, sizes."""

from __future__ import annotations

import re
from typing import Any

from layerwise.errors import UserError


def read_layers(text: str) -> list[int | str]:
    """Layers from ``0-5,9``, or from ``encoder.0-3,decoder.2``."""
    found: list[int | str] = []
    for piece in text.split(","):
        stack, dot, numbers = piece.strip().rpartition(".")
        if dot and stack not in ("encoder", "decoder"):
            raise UserError(
                f"Cannot read layers {text!r}: expected numbers and ranges like 0-5,9, or of an "
                "encoder-decoder encoder.0-3,decoder.2."
            )
        found += [f"{stack}.{n}" if dot else n for n in _numbers(numbers, "layers")]
    return found


def read_heads(text: str) -> list[int]:
    """Heads from ``0-5,9``."""
    return _numbers(text, "heads")


def _numbers(text: str, named: str) -> list[int]:
    found: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", piece.strip())
        if match is None:
            raise UserError(
                f"Cannot read {named} {text!r}: expected numbers and ranges like 0-5,9."
            )
        first, last = (int(number or match[1]) for number in match.groups())
        if last < first:
            raise UserError(
                f"Cannot read {named} {text!r}, where {piece.strip()} runs backwards: expected the "
                f"smaller number first, {last}-{first}."
            )
        found += range(first, last + 1)
    return found


def read_positions(text: str) -> str | list[int]:
    """Positions of a prompt from ``-3,-1``; ``all`` as it is."""
    if text.strip() == "all":
        return "all"
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"Cannot read positions {text!r}: expected negative numbers such as -1 or -3,-2,-1, "
            "counted from the end of the prompt, or all."
        ) from error


def read_bytes(text: str) -> int:
    """A number of bytes from ``2GiB`` or ``500MB``."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UserError(
            f"Cannot read the memory budget {text!r}: expected a size such as 2GiB or 500MB."
        ) from error


def read_executor(text: str) -> Any:
    """What makes pieces on a Ray cluster, from ``auto,actors=2``."""
    from layerwise.runs.ray_executor import RayExecutor

    return RayExecutor.of(text)
