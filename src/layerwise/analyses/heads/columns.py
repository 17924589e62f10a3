"""What the table of heads says of each, on a page and in a notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.presentation.columns import Column, Row, decided, estimated
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers

from .tables import NATS, SCORES

_ATTENTION = {"z": "", "cross_z": ", cross-attention"}


def _head(row: Row) -> str:
    return f"{name_layer(row['layer'])}.{row['head']}{_ATTENTION[row['site']]}"


def head_columns(heads: pd.DataFrame) -> tuple[Column, ...]:
    """The columns of heads, with the scores that any of them has."""
    names = [name for name in SCORES if np.isfinite(numbers(heads, name)).any()]
    units = {NATS: " (nats)"}
    scores = (
        estimated(name.replace("_", " ") + units.get(name, ""), name, f"{name}_", 1, 2)
        for name in names
    )
    return (Column("head", _head), *scores, decided("induction head", "induction_head"))
