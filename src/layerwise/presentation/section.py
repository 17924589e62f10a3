"""Plain values that a part of a run's page consists of: figures, tables, lines, grids of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.storage.base import Result

from .naming import model_layer_names
from .wording import interval, protocol_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_table(
    result: Result, draw: Callable[..., Figure], table: pd.DataFrame, *more: Any, **options: Any
) -> Figure:
    """The figure of a table of a result."""
    if table.empty:
        raise UserError(f"There is nothing to draw, expected a result with rows: {result.if_empty}")
    with model_layer_names(result.facts.model):
        return draw(table, *more, **options)


@dataclass(frozen=True)
class FigureSpec:
    """A figure that is drawn later, at any width."""

    name: str  # of its files, unique within a run
    draw: Callable[..., Figure]  # gives the figure for a ``width`` in inches
    caption: str  # what is shown, under which protocols, with how many items, and the intervals
    alt: str  # the same in short, for those who do not see it


@dataclass(frozen=True)
class Table:
    """A table as text."""

    title: str
    columns: tuple[str, ...]
    cells: list[list[str]]  # a list of texts per row
    collapsed: bool = False  # whether it opens on demand only
    note: str = ""  # stands under it


def not_shown_note(n_all: int, n_shown: int, where: str) -> str:
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


def change_key(row: dict[str, Any]) -> str:
    """``"skip|layer|facts|generate|11"``: whose items a mark is of; empty if not a layer's."""
    change = [row.get(name) for name in ("kind", "site", "task", "protocol", "layer")]
    head: Any = row.get("head")
    if any(map(pd.isna, change)) or not pd.isna(head):
        return ""
    return "|".join([*map(str, change[:-1]), str(int(row["layer"]))])


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
class LayerGrid:
    """A row of cells per layer, each row with what opens under it."""

    words: str
    columns: tuple[str, ...]
    layers: tuple[tuple[tuple[GridCell, ...], Part], ...]
    two_stacks: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a list, and what opens under it.

    Attributes:
        cells: its texts, one for each column.
        look: class of its mark; one of those that the page has a mark for.
        words: terms and what is said of each.
        drawing: its figure; None if it has none.
        tables: its numbers.
    """

    cells: tuple[str, ...]
    look: str
    words: tuple[tuple[str, str], ...] = ()
    drawing: FigureSpec | None = None
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, text, figures, tables, and layers that open on a click."""

    anchor: str  # its address within the page, unique there
    heading: str
    place: int  # a page shows its parts by rising place, from 0 to 100
    words: str = ""  # what is to be known before the figures
    drawings: tuple[FigureSpec, ...] = ()
    tables: tuple[Table, ...] = ()  # below the figures
    grid: LayerGrid | None = None  # between both
    kinds: tuple[str, ...] = ()  # kinds of claims that it is about; it opens with the first
    lines: tuple[Line, ...] = ()  # lines that open; a page that has a section with them begins so

    @property
    def all_drawings(self) -> tuple[FigureSpec, ...]:
        """Its figures, those of its lines included."""
        return (*self.drawings, *(line.drawing for line in self.lines if line.drawing is not None))

    @property
    def choices(self) -> list[tuple[str, FigureSpec]]:
        """The figures with what tells each from the others, in words."""
        names = [drawing.name.split("_") for drawing in self.drawings]
        same = set.intersection(*map(set, names)) if names else set()
        words = (
            " ".join(protocol_words(one) for one in name if one not in same) or "all"
            for name in names
        )
        return list(zip(words, self.drawings, strict=True))
