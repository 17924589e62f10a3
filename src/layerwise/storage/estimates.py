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

from layerwise.errors import unknown_name

from .layouts import TURNED, Layout, Meaning, Quantity
from .parquet import conform
from .schemas import LAYOUTS, QUANTITIES, SCHEMAS

ESTIMATES = "estimates"
# What says what a row is of; all of it together is there once.
KEY = tuple(SCHEMAS[ESTIMATES].names[: SCHEMAS[ESTIMATES].names.index("estimate")])
_TESTS = " tests"


def layouts() -> dict[str, Layout]:
    """How each table of estimates stands in the long one, by its name."""
    return LAYOUTS


def vocabulary() -> dict[str, Meaning]:
    """The unit of each quantity, and a sentence that says what it is."""
    return QUANTITIES


def in_files(tables: Iterable[str]) -> list[str]:
    """The names of the files that some tables are in: those of estimates are in one."""
    names = list(tables)
    one = [ESTIMATES] if any(name in layouts() for name in names) else []
    return one + [name for name in names if name not in layouts()]


def as_estimates(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of some tables of estimates, as rows of the long one.

    Args:
        tables: by their names.

    Returns:
        ``estimates.parquet``. What several tables say is there once.
    """
    parts = [part for name, table in tables.items() if len(table) for part in _long(name, table)]
    if not parts:
        return conform(ESTIMATES, pd.DataFrame(columns=SCHEMAS[ESTIMATES].names))
    whole = pd.concat(parts, ignore_index=True).reindex(columns=SCHEMAS[ESTIMATES].names)
    return conform(ESTIMATES, whole.loc[~_keys(whole, KEY).duplicated()])


def of_other_analyses(estimates: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The rows of a long table that come from other analyses than some tables."""
    own = {layouts()[name].analysis for name in names}
    return estimates.loc[~estimates["analysis"].isin(list(own))]


def _long(name: str, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    layout = layouts()[name]
    for column, wanted in layout.only.items():
        table = table.loc[table[column].isin(wanted)]
    for first, row in zip((True, *[False] * len(layout.rows)), layout.rows, strict=False):
        columns: dict[str, Any] = {
            own: _written(table, theirs, own)
            for theirs, own in layout.where.items()
            if theirs not in row.but
        }
        values: dict[str, Any] = {
            own: _written(table, theirs, own) for own, theirs in row.values.items()
        }
        _turn(values, row, columns)
        part = pd.DataFrame(columns | values).assign(**row.fixed)
        quantity = row.fixed.get("quantity")
        if "unit" not in part and quantity is not None:
            part["unit"] = vocabulary()[quantity].unit
        if not first:
            part = part.loc[part[list(values)].notna().any(axis=1)]
        yield part.astype(object)


def _turn(values: Any, row: Quantity, where: Mapping[str, Any]) -> None:
    """Turn the signs of a quantity's estimates and bounds, in place."""
    gains = where["hypothesis"] == "gain" if row.gains else False
    ends = {own: values[own].astype(float) for own in row.turned}
    for own, value in ends.items():
        kept = ends.get(TURNED.get(own, own), value)
        values[own] = np.where(gains, kept, -value)


def _written(table: pd.DataFrame, theirs: str, own: str) -> Any:
    """A column of another table as the long one has it."""
    column = table[theirs]
    if own == "layers":
        heads = table["heads"] if "heads" in table else pd.Series([None] * len(table), column.index)
        named = [_places(*pair) for pair in zip(column, heads, strict=True)]
        return pd.Series(named, column.index, dtype=object)
    if own == "family":
        return column.map(lambda n: f"{int(n)}{_TESTS}", na_action="ignore").astype(object)
    if SCHEMAS[ESTIMATES].field(own).type == pa.string():
        return column.map(str, na_action="ignore").astype(object)
    return column


def _places(layers: Any, heads: Any) -> list[str] | None:
    """Layers as text, with their heads: ``["3", "5.1"]``."""
    if not isinstance(layers, list | tuple):
        return None
    pairs = zip(layers, heads if isinstance(heads, list) else [None] * len(layers), strict=True)
    return [str(layer) if head is None else f"{layer}.{head}" for layer, head in pairs]


def _read(column: Any, theirs: str, own: str, kind: pa.DataType) -> Any:
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


def table_of(estimates: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table of estimates from the long one; the inverse of ``as_estimates``."""
    layout, kinds = layouts()[name], SCHEMAS[name]
    whole = estimates.astype(object)
    found: pd.DataFrame | None = None
    for row in layout.rows:
        where = {theirs: own for theirs, own in layout.where.items() if theirs not in row.but}
        needed = {own for theirs, own in where.items() if not kinds.field(theirs).nullable}
        mine = _rows_of(whole, row, set(where.values()), needed)
        keys = _keys(mine, tuple(where.values()))
        if found is None:  # the first has all rows
            found = pd.DataFrame({theirs: mine[own] for theirs, own in where.items()})
            if "heads" in kinds.names and "layers" in where:
                found["heads"] = mine["layers"]
            place = keys.index
        else:
            place = _place(found, where, keys)
        values = {own: mine[own].reindex(place).set_axis(found.index) for own in row.values}
        _turn(values, row, {"hypothesis": found["what"]} if row.gains else {})
        for own, theirs in row.values.items():
            found[theirs] = values[own]
    assert found is not None
    owns = {theirs: own for row in layout.rows for own, theirs in row.values.items()}
    owns |= layout.where | {"heads": "layers"}
    for theirs in found.columns:
        found[theirs] = _read(found[theirs], theirs, owns[theirs], kinds.field(theirs).type)
    if "kind" in kinds.names and "kind" not in found:
        found["kind"] = found["intervention"].str.partition(":")[0]
    return conform(name, found.reset_index(drop=True))


def _place(found: pd.DataFrame, where: Mapping[str, str], keys: pd.Series) -> list[Any]:
    """Of each row of a table the label of the one that ends in the same key; -1 for none."""
    at = dict(zip(keys, keys.index, strict=True))
    return [at.get(key, -1) for key in _keys(found, tuple(where))]


def _rows_of(
    whole: pd.DataFrame, row: Quantity, mapped: set[str], needed: set[str]
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
    """What some columns of each row say, as one text."""
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
        UserError: if the quantity or a column is unknown.
    """
    if quantity not in vocabulary():
        raise unknown_name("quantity", quantity, vocabulary())
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
        UserError: if a quantity is unknown.
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
