"""A part of a run's page, and the layers of a model to be opened in turn, as plain values.

No HTML is written here; which parts there are, each analysis says.
"""

from __future__ import annotations

from dataclasses import dataclass

from .figure_spec import FigureSpec
from .table import Table


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: its number, its shade from 0 to 10 (None: no signal), in words."""

    text: str
    shade: int | None
    said: str


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
    layers: tuple[tuple[tuple[Cell, ...], Part], ...]
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
