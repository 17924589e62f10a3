"""The estimates of a run as one long table, and tables of estimates read from it again.

``[TABLE.estimates]`` of a ``tables.toml`` says what a table's columns are rows of. What is measured
by item is in tables of its own; what is estimated of them is here: what was asked, where, an
estimate, its bounds, and its tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from layerwise.errors import UserError, short_repr, unknown_name

from .layouts import TURNED, QuantityRow
from .parquet import as_columns, conform, from_columns
from .schemas import LAYOUTS, QUANTITIES, SCHEMAS

ESTIMATES = "estimates"
# What says what a row is of; all of it together is there once.
KEY = tuple(SCHEMAS[ESTIMATES].names[: SCHEMAS[ESTIMATES].names.index("estimate")])
_TESTS = " tests"
_TEXTS = {field.name for field in SCHEMAS[ESTIMATES] if field.type == pa.string()}


def in_files(tables: Iterable[str]) -> list[str]:
    """The names of the files that some tables are in: those of estimates are in one."""
    names = list(tables)
    one = [ESTIMATES] if any(name in LAYOUTS for name in names) else []
    return one + [name for name in names if name not in LAYOUTS]


def as_estimates(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of some tables of estimates, as rows of the long one.

    Args:
        tables: by their names.

    Returns:
        ``estimates.parquet``. What several tables say is there once.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMAS[ESTIMATES].names}
    known: set[tuple[Any, ...]] = set()
    for name, table in tables.items():
        for row in _long(name, table) if len(table) else ():
            key = tuple(map(_hashable, (row.get(column) for column in KEY)))
            if key not in known:
                known.add(key)
                for column, values in columns.items():
                    values.append(row.get(column))
    return from_columns(ESTIMATES, columns)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def rows_of_other_analyses(estimates: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The rows of a long table that come from other analyses than some tables."""
    own = {LAYOUTS[name].analysis for name in names}
    return estimates.loc[~estimates["analysis"].isin(list(own))]


def _long(name: str, table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of the long table, as plain values, that the rows of another are."""
    layout, columns = LAYOUTS[name], as_columns(name, table)
    heads = columns.get("heads", [None] * len(table))
    written = {
        (theirs, own): [_to_estimates_column(value, own) for value in columns[theirs]]
        if own != "layers" else list(map(_places, columns[theirs], heads))
        for row in layout.rows
        for theirs, own in [*layout.where.items(), *((t, o) for o, t in row.values.items())]
    }  # fmt: skip
    for row in layout.rows:
        unit = {} if "quantity" not in row.fixed else {
            "unit": QUANTITIES[row.fixed["quantity"]].unit
        }  # fmt: skip
        where = {own: theirs for theirs, own in layout.where.items() if theirs not in row.but}
        for i in range(len(table)):
            if any(columns[name][i] not in wanted for name, wanted in layout.only.items()):
                continue
            values = {own: written[theirs, own][i] for own, theirs in row.values.items()}
            if row is not layout.rows[0] and all(value is None for value in values.values()):
                continue
            place = {own: written[theirs, own][i] for own, theirs in where.items()}
            yield unit | place | _flip_signs(values, row, place.get("hypothesis")) | row.fixed


def _flip_signs(values: dict[str, Any], row: QuantityRow, hypothesis: Any) -> dict[str, Any]:
    """The values with the signs of the long table; of a gain as they are."""
    if row.gains and hypothesis == "gain":
        swapped = {own: values.get(TURNED.get(own, own)) for own in row.turned}
    else:
        swapped = {own: None if values[own] is None else -values[own] for own in row.turned}
    return values | swapped


def _to_estimates_column(value: Any, own: str) -> Any:
    """A value of another table as the long one has it."""
    if value is None:
        return None
    if own == "family":
        return f"{value}{_TESTS}"
    return str(value) if own in _TEXTS else value


def _places(layers: Any, heads: Any) -> list[str] | None:
    """Layers as text, with their heads: ``["3", "5.1"]``."""
    if not isinstance(layers, list | tuple):
        return None
    pairs = zip(layers, heads if isinstance(heads, list) else [None] * len(layers), strict=True)
    return [str(layer) if head is None else f"{layer}.{head}" for layer, head in pairs]


def _from_estimates_column(column: Any, theirs: str, own: str, kind: pa.DataType) -> Any:
    """A column of the long table as another has it."""
    if own == "layers":
        read = _heads if theirs == "heads" else _layers
        return column.map(lambda places: read(places) if isinstance(places, list) else None)
    if own == "family":
        return column.map(lambda text: int(text.removesuffix(_TESTS)), na_action="ignore")
    if pa.types.is_integer(kind) and column.dtype == object:
        return column.map(lambda value: int(float(value)), na_action="ignore")
    if pa.types.is_floating(kind) and column.dtype == object:
        return column.map(float, na_action="ignore").astype(float)
    return column


def _layers(places: Sequence[str]) -> list[int]:
    return [int(place.partition(".")[0]) for place in places]


def _heads(places: Sequence[str]) -> list[int | None] | None:
    """The head of each place; None if none is one."""
    heads = [place.partition(".")[2] for place in places]
    return [int(head) if head else None for head in heads] if any(heads) else None


def table_from_estimates(estimates: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table of estimates from the long one; the inverse of ``as_estimates``."""
    layout, kinds = LAYOUTS[name], SCHEMAS[name]
    whole = estimates.astype(object)
    found: pd.DataFrame | None = None
    for row in layout.rows:
        where = {theirs: own for theirs, own in layout.where.items() if theirs not in row.but}
        needed = {own for theirs, own in where.items() if not kinds.field(theirs).nullable}
        mine = _quantity_rows(whole, row, set(where.values()), needed)
        keys = _keys(mine, tuple(where.values()))
        if found is None:  # the first has all rows
            found = pd.DataFrame({theirs: mine[own] for theirs, own in where.items()})
            if "heads" in kinds.names and "layers" in where:
                found["heads"] = mine["layers"]
            place = keys.index
        else:
            place = _place(found, where, keys)
        values = {own: mine[own].reindex(place).set_axis(found.index) for own in row.values}
        gains = found["what"] == "gain" if row.gains else False
        for own, theirs in row.values.items():
            if own not in row.turned:
                found[theirs] = values[own]
                continue
            kept = values[TURNED.get(own, own)].astype(float)
            found[theirs] = np.where(gains, kept, -values[own].astype(float))
    assert found is not None
    owns = {theirs: own for row in layout.rows for own, theirs in row.values.items()}
    owns |= layout.where | {"heads": "layers"}
    for theirs in found.columns:
        found[theirs] = _from_estimates_column(
            found[theirs], theirs, owns[theirs], kinds.field(theirs).type
        )
    if "kind" in kinds.names and "kind" not in found:
        found["kind"] = found["intervention"].str.partition(":")[0]
    return conform(name, found.reset_index(drop=True))


def _place(found: pd.DataFrame, where: Mapping[str, str], keys: pd.Series) -> list[Any]:
    """Of each row of a table the label of the one that ends in the same key; -1 for none."""
    at = dict(zip(keys, keys.index, strict=True))
    return [at.get(key, -1) for key in _keys(found, tuple(where))]


def _quantity_rows(
    whole: pd.DataFrame, row: QuantityRow, mapped: set[str], needed: set[str]
) -> pd.DataFrame:
    """The rows of one quantity of a table: what it does not say is null, what it needs is not."""
    here = pd.Series(True, whole.index)
    for column in KEY:
        if column in row.fixed:
            here &= whole[column] == row.fixed[column]
        elif column in needed:
            here &= whole[column].notna()
        elif column not in mapped and column != "unit" and column not in row.values:
            here &= whole[column].isna()
    return whole.loc[here]


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Values of some columns of each row, as one text."""
    texts = [
        table[c].map(lambda value: "\x1f".join(map(str, value)) if isinstance(value, list)
                     else "\x00" if pd.isna(value) else str(value))
        for c in columns
    ]  # fmt: skip
    return pd.Series(
        ["\x1e".join(each) for each in zip(*texts, strict=True)], table.index, dtype=object
    )


def select(estimates: pd.DataFrame, quantity: str, **where: Any) -> pd.DataFrame:
    """The rows of one quantity, with some values in other columns.

    Args:
        estimates: ``result.estimates()`` or ``estimates.parquet``.
        quantity: one of the vocabulary, as ``"accuracy"``.
        where: values by column, each one or a list: ``layer=3``, ``versus="intact"``,
            ``established=True``; None picks rows in which the column is null.

    Returns:
        The rows, without columns of their key that say nothing in all of them.

    Raises:
        UserError: if it is no long table, or the quantity or a column is unknown.
    """
    if not isinstance(estimates, pd.DataFrame) or not set(KEY) <= set(estimates.columns):
        raise UserError(
            f"'estimates' is {short_repr(type(estimates).__name__)} and has not the "
            f"columns of a long "
            "table: expected what result.estimates() gives, or estimates.parquet as it is read."
        )
    if quantity not in QUANTITIES:
        raise unknown_name("quantity", quantity, QUANTITIES)
    for column in where:
        if column not in SCHEMAS[ESTIMATES].names:
            raise unknown_name("column", column, SCHEMAS[ESTIMATES].names)
    found = estimates.loc[estimates["quantity"] == quantity]
    for column, value in where.items():
        wanted = value if isinstance(value, list | tuple) else [value]
        here = found[column].isin([each for each in wanted if each is not None])
        found = found.loc[here | found[column].isna() if None in wanted else here]
    silent = [column for column in KEY if column not in where and found[column].isna().all()]
    return found.drop(columns=silent if len(found) else []).reset_index(drop=True)


def wide(estimates: pd.DataFrame, *quantities: str) -> pd.DataFrame:
    """Some quantities side by side: a row for each place, a column of estimates for each of them.

    Args:
        estimates: ``result.estimates()`` or ``estimates.parquet``.
        quantities: of the vocabulary, as ``"accuracy", "log-probability"``.

    Returns:
        The columns that say where, and one for each quantity, null where it was not estimated. What
        only its tests tell apart is there once.

    Raises:
        UserError: if it is no long table, or a quantity is unknown.
    """
    place = [c for c in KEY if c not in ("quantity", "unit", "hypothesis")]
    parts = [select(estimates, name).reindex(columns=[*place, "estimate"]) for name in quantities]
    joined: pd.DataFrame | None = None
    for name, part in zip(quantities, parts, strict=True):
        part = part.loc[part["estimate"].notna()].rename(columns={"estimate": name})
        part = part.set_axis(_keys(part, place)).loc[lambda t: ~t.index.duplicated()]
        joined = part if joined is None else joined.combine_first(part)
    if joined is None:
        return pd.DataFrame(columns=place)
    joined = joined.reindex(columns=[*place, *quantities]).reset_index(drop=True)
    return joined.drop(columns=[c for c in place if np.all(joined[c].isna())])
