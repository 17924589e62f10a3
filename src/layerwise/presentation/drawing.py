"""A result drawn as it is asked for by itself, its layers named as its model has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.storage.base import Result

from .naming import naming_layers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawn(
    result: Result,
    draw: Callable[..., Figure],
    table: pd.DataFrame,
    *more: Any,
    **options: Any,
) -> Figure:
    """The figure of a table of a result."""
    if table.empty:
        raise UserError(f"There is nothing to draw, expected a result with rows: {result.if_empty}")
    with naming_layers_of(result.facts.model):
        return draw(table, *more, **options)
