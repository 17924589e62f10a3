"""How large the cells of a grid are drawn, and which names there is room for. Nothing is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill

from layerwise.presentation.lettering import FONT, characters, label, text_inches

from .cells import Cells, Panel

SMALL = 5.5
# Characters of a column's name; as many as "cross-attention" has.
_LONGEST = 15
# Inches: the height of a row with text, the least width of a cell with text and of any other, the
# least height of a panel, the colour bar, and a line of text.
_ROW, WIDE, _NARROW, _LEAST, _BAR, _LINE = 0.145, 0.24, 0.035, 0.5, 0.65, 0.13


@dataclass(frozen=True)
class _Names:
    """Names along an axis: those that there is room for, from the last one back."""

    at: list[int]
    texts: list[str]
    size: float

    @classmethod
    def of(cls, names: Sequence[str], room: float, *, longest: int, small: bool) -> _Names:
        """Names that stand one every so many inches."""
        size = SMALL if small else FONT
        every = max(1, math.ceil(1.1 * size / 72 / room))
        at = [place for place in range(len(names)) if not (len(names) - 1 - place) % every]
        return cls(at, [label(names[place], longest) for place in at], size)

    def inches(self) -> float:
        """How long the longest is."""
        return max(text_inches(text, self.size) for text in self.texts)


@dataclass(frozen=True)
class Place:
    """A panel as it is drawn: the size of its cells in inches, and its names."""

    panel: Panel
    cell: float
    tall: float

    @cached_property
    def rows(self) -> _Names:
        """Names of rows."""
        return _Names.of(self.panel.rows, self.tall, longest=20, small=self.tall < 0.11)

    @cached_property
    def columns(self) -> _Names:
        """Names of columns."""
        names, small = self.panel.columns, self.cell < 0.3
        room = self.cell if self.slanted else math.inf
        return _Names.of(names, room, longest=_LONGEST, small=small)

    @cached_property
    def slanted(self) -> bool:
        """Whether names of columns are too long to stand side by side."""
        names = _Names.of(self.panel.columns, math.inf, longest=_LONGEST, small=self.cell < 0.3)
        return names.inches() > self.cell * 0.96

    @cached_property
    def axis(self) -> str:
        """What the columns are, in lines."""
        return fill(self.panel.column_axis, max(12, characters(self.width)))

    @property
    def width(self) -> float:
        """Without names."""
        return self.cell * len(self.panel.columns)

    @property
    def height(self) -> float:
        """Without names."""
        return max(_LEAST, self.tall * len(self.panel.rows))

    @property
    def below(self) -> float:
        """The height of names of columns and of their axis."""
        names = 0.87 * self.columns.inches() + 0.1 if self.slanted else _LINE
        return names + _LINE * len(self.axis.splitlines()) + 0.1


def abreast(grid: Cells, width: float, across: int) -> list[Place] | None:
    """The panels, so many side by side; None if there is no room for their columns."""
    panels, texts = grid.panels, any(grid.table["text"] != "")
    across = min(across, len(panels))
    same_rows = len({panel.rows for panel in panels}) == 1
    sizes = [max(len(panel.columns) for panel in panels[k::across]) for k in range(across)]
    beside = 2 * _LINE + max(Place(panel, 1.0, _ROW).rows.inches() for panel in panels)
    cell = (width - _BAR - beside * (1 if same_rows else across)) / sum(sizes)
    if across > 1 and cell < (WIDE if texts else _NARROW):
        return None
    tall = _ROW if texts else max(_NARROW, min(_ROW, cell))
    return [
        Place(panel, max(cell, 0.001) * sizes[number % across] / len(panel.columns), tall)
        for number, panel in enumerate(panels)
    ]
