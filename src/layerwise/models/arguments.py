"""Types of arguments that are models: a loaded one, or the name of one too.

Nothing is loaded for them before a value is read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from layerwise.errors import UserError, short_repr
from layerwise.ground.readers import Reads, model_name


def read_model(name: str, value: Any) -> Any:
    """Read a loaded model; a bridge, or a model of transformers, gets hook points."""
    from .conversion.in_memory import hook_in_memory
    from .instance.kinds import Model

    value = hook_in_memory(value)
    if not isinstance(value, Model):
        named = isinstance(value, (str, os.PathLike)) or value is None
        given = short_repr(value) if named else f"of type {type(value).__name__}"
        raise UserError(
            f"Argument {name!r} is {given}; expected a loaded model: load it first, with "
            "layerwise.load_model(...)."
        )
    return value


def read_model_or_name(name: str, value: Any) -> Any:
    """Read a loaded model, or the name of one."""
    if isinstance(value, (str, os.PathLike)):
        return model_name(name, value)
    return read_model(name, value)


if TYPE_CHECKING:
    from .instance.kinds import Model

    LoadedModel = Model
    ModelOrName = str | os.PathLike[str] | Model
else:
    LoadedModel = Annotated[Any, Reads(read_model, "Model")]
    ModelOrName = Annotated[Any, Reads(read_model_or_name, "str | os.PathLike[str] | Model")]
