"""A part of a run's page, its figures and tables, and the layers of a model, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.storage.base import Result

from .naming import naming_layers_of
from .wording import interval

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


@dataclass(frozen=True)
class FigureSpec:
    """A figure to be drawn, at whatever width is asked for.

    Attributes:
        name: of its files, unique within a run.
        draw: gives the figure for a width in inches.
        caption: what is shown, under which protocols, with how many items, and the intervals.
        alt: the same in short, for those who do not see it.
    """

    name: str
    draw: Callable[..., Figure]
    caption: str
    alt: str


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title: what it is.
        columns: the heads.
        cells: one list of texts per row.
        collapsed: whether it opens on demand only.
        note: what is to be said under it.
    """

    title: str
    columns: tuple[str, ...]
    cells: list[list[str]]
    collapsed: bool = False
    note: str = ""


def others(n_all: int, n_shown: int, where: str) -> str:
    """A note that some rows are not shown, and where they are; empty if all are shown."""
    left = n_all - n_shown
    return f"The other {left} {where}." if left > 0 else ""


def bounds(
    row: dict[str, Any], middle: str, low: str, high: str, scale: int, digits: int = 0
) -> str:
    """An estimate with its interval, in units of one by ``scale``; a dash if there is none."""
    if pd.isna(row[middle]):
        return "–"
    values = [scale * row[name] for name in (middle, *((low, high)[:: 1 if scale > 0 else -1]))]
    return interval(values[0], values[1], values[2], digits)


def basis(row: dict[str, Any]) -> str:
    """``", n = 80, not significant"``: what a tooltip says behind a number, as far as known."""
    n, significant = row.get("n_items", row.get("n_pairs")), row.get("significant")
    items = "" if n is None or pd.isna(n) else f", n = {n:.0f}"
    if significant is None or pd.isna(significant):
        return items
    return f"{items}, {'' if significant else 'not '}significant"


_CHANGE = ("kind", "site", "task", "protocol", "layer")


def change_of(row: dict[str, Any]) -> str:
    """``"skip|layer|facts|generate|11"``: whose items a mark is of; empty if not a layer's."""
    known = [name for name in (*_CHANGE, "head") if name in row and not pd.isna(row[name])]
    if known != [*_CHANGE]:
        return ""
    return "|".join([*(str(row[name]) for name in _CHANGE[:-1]), str(int(row["layer"]))])


@dataclass(frozen=True)
class GridCell:
    """A cell of the grid: its number, its shade from 0 to 10 (None: no signal), in words."""

    text: str
    shade: int | None
    words: str


@dataclass(frozen=True)
class Part:
    """A layer or a part of it: what is known, and the parts within it."""

    title: str
    tables: tuple[Table, ...]
    inner: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A row of cells per layer, each row with what opens under it."""

    words: str
    columns: tuple[str, ...]
    layers: tuple[tuple[tuple[GridCell, ...], Part], ...]
    two_stacks: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, some words, figures and tables; layers to be opened.

    Attributes:
        anchor: its address within the page, unique there.
        heading: its heading.
        place: where it stands; a page shows its parts by rising place, from 0 to 100.
        words: what is to be known before the figures.
        drawings: its figures.
        tables: its tables, below the figures.
        grid: layers to be opened, between both.
        kinds: the kinds of claims that it is about; it opens with the first of them.
    """

    anchor: str
    heading: str
    place: int
    words: str = ""
    drawings: tuple[FigureSpec, ...] = ()
    tables: tuple[Table, ...] = ()
    grid: Grid | None = None
    kinds: tuple[str, ...] = ()

    @property
    def choices(self) -> list[tuple[str, FigureSpec]]:
        """The figures with what tells each from the others, in words."""
        names = [drawing.name.split("_") for drawing in self.drawings]
        same = set.intersection(*map(set, names)) if names else set()
        words = (" ".join(part for part in name if part not in same) or "all" for name in names)
        return list(zip(words, self.drawings, strict=True))
