"""A grid of a prompt: its table, a look at it in a notebook, a figure and files.

It shows one prompt and tests nothing: an illustration. What the cells hold is for each function.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.storage.atomic_files import write_atomically

from .cells import Cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ILLUSTRATION = (
    "A look at single prompts: no test was made. To test what it suggests, make a task of such "
    "prompts with task_from_prompts."
)
TABLES, PICTURES = (".csv", ".parquet", ".html"), (".png", ".svg", ".pdf")
# Panels stand side by side where there is room; 30 layers are seen without scrolling.
_PANELS = "display:flex;flex-wrap:wrap;gap:1em 2em"
_STYLE = "font:inherit;border-collapse:collapse;display:block;overflow:auto;max-height:50em"
_NAME = "padding:1px 5px;white-space:pre;text-align:left"
_ROW_NAME = "padding:1px 6px;text-align:right"
_CELL = "padding:1px 5px;border:1px solid #8883;white-space:pre;text-align:left"


@dataclass(frozen=True, eq=False, repr=False)
class Grid(Cells):
    """What was seen in a prompt, cell by cell: ``Cells``, to be looked at and kept."""

    def to_pandas(self) -> pd.DataFrame:
        """The table, without what is only drawn."""
        return self.table.drop(columns=["text", "details"])

    def plot(self, *, width: float | str | None = None) -> Figure:
        """Draw its panels.

        Args:
            width: of the figure, in inches, or a text such as ``"84mm"``; a page's (6.9) if None.
        """
        from .drawing import draw_grid

        return draw_grid(self, width)

    def save(self, path: str | Path) -> Path:
        """Write it to a file: a table (.csv, .parquet, .html) or a picture (.png, .svg, .pdf)."""
        path = Path(path)
        kind = path.suffix.lower()
        if kind in PICTURES:
            from layerwise.presentation.save import picture_bytes

            write_atomically(path, picture_bytes(self.plot(), kind[1:]))
        elif kind == ".html":
            page = (
                '<!doctype html><meta charset="utf-8">'
                '<meta name="color-scheme" content="light dark">'
                f"<title>{escape(self.title)}</title>{self._repr_html_()}"
            )
            write_atomically(path, page.encode())
        elif kind == ".csv":
            write_atomically(path, self.to_pandas().to_csv(index=False).encode())
        elif kind == ".parquet":
            write_atomically(path, self.to_pandas().to_parquet(index=False))
        else:
            raise UserError(
                f"Cannot write {path.name!r}: expected a name that ends in one of "
                f"{', '.join((*TABLES, *PICTURES))}; choose one."
            )
        return path

    def __repr__(self) -> str:
        size = " and ".join(f"{len(panel.rows)} x {len(panel.columns)}" for panel in self.panels)
        return f"{type(self).__name__}({self.title}: {size})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in (*self.notes, ILLUSTRATION))
        tables = "".join(self._html_of(place) for place in range(len(self.panels)))
        return (
            f'<div style="font:12px system-ui,sans-serif"><p><b>{escape(self.title)}</b> '
            f"(colour: {escape(self.unit)}; details under the pointer)</p>"
            f'<div style="{_PANELS}">{tables}</div>{notes}</div>'
        )

    def _html_of(self, place: int) -> str:
        """One panel as an HTML table."""
        panel = self.panels[place]
        cells: dict[tuple[int, int], Any] = {
            (int(row.row), int(row.column)): row
            for row in self.table.loc[self.table["panel"] == place].itertuples()
        }
        heads = "".join(
            f"<th style='{_NAME}'><bdi>{escape(text)}</bdi></th>"
            for text in (panel.row_axis, *panel.columns)
        )
        lines, order = [f"<tr>{heads}</tr>"], range(len(panel.rows))
        for row in reversed(order) if self.upward else order:
            of_row = (cells.get((row, column)) for column in range(len(panel.columns)))
            name = f'<th style="{_ROW_NAME}">{escape(panel.rows[row])}</th>'
            lines.append(f"<tr>{name}{''.join(map(self._cell, of_row))}</tr>")
        name = f"<caption>{escape(panel.name)}</caption>" if panel.name else ""
        return f'<table style="{_STYLE}">{name}{"".join(lines)}</table>'

    def _cell(self, row: Any) -> str:
        if row is None:
            return '<td style="padding:1px;background:#8883"></td>'
        from .drawing import colors_of

        back, front = colors_of(self, row.value)
        return (
            f'<td style="{_CELL};background:{back};color:{front}" title="{escape(row.details)}">'
            f"<bdi>{escape(row.text)}</bdi></td>"
        )
