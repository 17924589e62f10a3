"""Picking rows of the result tables by the values in their columns.

Sentences name the rows that they stand on in these terms, so that anyone can look them up.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from .wording import CAPABILITY_ORDER, PROTOCOL_ORDER, count_range, in_order


def rows(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows in which every column named has its value, or one of a list of values."""
    chosen = np.ones(len(table), dtype=bool)
    for name, value in values.items():
        wanted = value if isinstance(value, list | tuple) else [value]
        chosen &= np.asarray(table[name].isin(wanted), dtype=bool)
    return pd.DataFrame(table.loc[chosen])


def layers_in(table: pd.DataFrame) -> list[int]:
    """The layers that a table speaks of, in order."""
    return sorted({int(layer) for layer in table["layer"]})


def by_task(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The tasks of a table, grouped by capability, each with its rows."""
    return [(task, part) for (_, task), part in parts(table, capability=CAPABILITY_ORDER, task=())]


def parts(
    table: pd.DataFrame, **orders: tuple[str, ...]
) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """The combinations of values that there are in some columns, in their orders, with the rows."""
    every = product(*(in_order(table[name], order) for name, order in orders.items()))
    named = [(values, rows(table, **dict(zip(orders, values, strict=True)))) for values in every]
    return [(values, part) for values, part in named if len(part)]


def by_protocol(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The protocols of a table, each with its rows by layer."""
    ordered = table.sort_values(by="layer", kind="stable") if "layer" in table else table
    names = in_order(table["protocol"], PROTOCOL_ORDER)
    return [(str(name), rows(ordered, protocol=name)) for name in names]


def numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats, with nan where it is null."""
    return table[name].to_numpy(dtype=float, na_value=np.nan)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts, for words to be made of them."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def claim_scope(about: pd.DataFrame, noun: str = "item") -> dict[str, Any]:
    """Capabilities, tasks, protocols and number of items of rows, as a claim has them."""
    tasks = about["task"] if "task" in about else ",".join(about["tasks"]).split(",")
    named = {"capabilities": about["capability"], "tasks": tasks, "protocols": about["protocol"]}
    items = {"items": count_range(about["n_items"], noun)}
    return {name: tuple(dict.fromkeys(values)) for name, values in named.items()} | items
