"""JSON files of models: an object, or one sentence that says why it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line
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
