"""Values that texts of the command line stand for: ``0-5,9``, ``2GiB``, ``auto,actors=2``."""

from __future__ import annotations

import re
from typing import Any

from layerwise.errors import UserError


def read_layers(text: str) -> list[int | str]:
    """Layers from ``0-5,9``, or from ``encoder.0-3,decoder.2``."""
    return read_numbers(text, "layers", ", or of an encoder-decoder encoder.0-3,decoder.2")


def read_numbers(text: str, named: str, of_stacks: str) -> list[int | str]:
    """Numbers from ranges, with their stack in front where that is named and may be."""
    chosen: list[int | str] = []
    for piece in map(str.strip, text.split(",")):
        match = re.fullmatch(r"(encoder\.|decoder\.)?([0-9]{1,4})(?:-([0-9]{1,4}))?", piece)
        if match is None or (match[1] and not of_stacks):
            raise UserError(
                f"Cannot read {named} {text!r}: expected numbers and ranges like 0-5,9{of_stacks}."
            )
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first:
            raise UserError(
                f"Cannot read {named} {text!r}, where {piece} runs backwards: expected the "
                f"smaller number first, {last}-{first}."
            )
        chosen += [f"{match[1]}{n}" if match[1] else n for n in range(first, last + 1)]
    return chosen


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
    """The executor on a Ray cluster, from ``auto,actors=2``."""
    from layerwise.runs.ray_executor import RayExecutor

    return RayExecutor.from_text(text)
