"""A grid of a prompt: its table, a look at it in a notebook, a figure and files.

It shows one prompt and tests nothing: an illustration. What the cells hold is for each function.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import seaborn as sns
from matplotlib.figure import Figure

from layerwise.errors import UserError
from layerwise.ground.regular_files import open_regular
from layerwise.presentation.charts.heat import DIVERGING
from layerwise.presentation.charts.panels import Bar
from layerwise.presentation.save import picture_bytes, refuse_foreign_picture
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.parquet import to_bytes
from layerwise.storage.places import PAGE_MARK, refuse_foreign, refuse_foreign_page

from .drawing import Panel, cell_colors, draw_grid

ILLUSTRATION = (
    "A look at single prompts: no test was made. To test what it suggests, make a task of such "
    "prompts with task_from_prompts."
)
# How values become colours: shares from 0 to 1, amounts from 0 to the largest, or both signs.
SHARE, AMOUNT, SIGNED = "share", "amount", "signed"
TABLES, PICTURES = (".csv", ".parquet", ".html"), (".png", ".svg", ".pdf")
# Panels stand side by side where there is room; 30 layers are seen without scrolling.
_PANELS = "display:flex;flex-wrap:wrap;gap:1em 2em"
_STYLE = "font:inherit;border-collapse:collapse;display:block;overflow:auto;max-height:50em"
_NAME = "padding:1px 5px;white-space:pre;text-align:left"
_ROW_NAME = "padding:1px 6px;text-align:right"
_CELL = "padding:1px 5px;border:1px solid #8883;white-space:pre;text-align:left"
# What the metadata of a grid's table have its title under.
_TITLE_KEY = b"layerwise.grid"
_ALWAYS = {"panel", "row", "column", "value"}
"""Columns that the table of every grid has."""


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """Values of a prompt, cell by cell, to be looked at and kept.

    Attributes:
        title: what it shows.
        table: one row per cell: ``panel``, ``row``, ``column`` (from 0), ``value`` (the colour),
            ``text`` (in the cell), ``details`` (under the pointer), and what else is known of it.
        panels: the heat maps.
        unit: what ``value`` is, with its unit.
        scale: ``share`` (0 to 1), ``amount`` (0 to the largest) or ``signed``.
        notes: sentences under it, such as what was cut off.
        upward: whether the first row is drawn at the bottom.
    """

    title: str
    table: pd.DataFrame
    panels: tuple[Panel, ...]
    unit: str
    scale: str = SHARE
    notes: tuple[str, ...] = ()
    upward: bool = True

    @cached_property
    def bar(self) -> Bar:
        """The colours of its values."""
        values = self.table["value"].abs().to_numpy(float)
        high = 1.0 if self.scale == SHARE else float(np.nanmax(values)) or 1.0
        if self.scale == SIGNED:
            return Bar(DIVERGING, -high, high, self.unit)
        return Bar(sns.light_palette("#01538a", as_cmap=True), 0.0, high, self.unit)

    def to_pandas(self) -> pd.DataFrame:
        """The table, without what is only drawn."""
        return self.table.drop(columns=["text", "details"])

    def plot(self, *, width: float | str | None = None) -> Figure:
        """Draw its panels.

        Args:
            width: of the figure, in inches, or a text such as ``"84mm"``; a page's (6.9) if None.
        """
        return draw_grid(self.table, self.panels, self.bar, upward=self.upward, width=width)

    def save(self, path: str | Path) -> Path:
        """Write it to a file: a table (.csv, .parquet, .html) or a picture (.png, .svg, .pdf).

        Raises:
            UserError: for another ending, or a file that is there and is no such table or picture
                of layerwise.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind in PICTURES:
            refuse_foreign_picture(path)
            content = picture_bytes(self.plot(), kind[1:])
        elif kind == ".html":
            refuse_foreign_page(path)
            content = (
                f'<!doctype html><meta charset="utf-8">{PAGE_MARK}'
                '<meta name="color-scheme" content="light dark">'
                f"<title>{escape(self.title)}</title>{self._repr_html_()}"
            ).encode()
        elif kind == ".csv":
            refuse_foreign(path, "table of a grid", _is_csv)
            content = self.to_pandas().to_csv(index=False).encode()
        elif kind == ".parquet":
            refuse_foreign(path, "table of a grid", _is_parquet)
            arrow = pa.Table.from_pandas(self.to_pandas(), preserve_index=False)
            noted = {**(arrow.schema.metadata or {}), _TITLE_KEY: self.title.encode()}
            content = to_bytes(arrow.replace_schema_metadata(noted))
        else:
            raise UserError(
                f"Cannot write {path.name!r}: expected a name that ends in one of "
                f"{', '.join((*TABLES, *PICTURES))}; choose one."
            )
        write_atomically(path, content)
        return path

    def cells(self, place: int) -> dict[tuple[int, int], Any]:
        """The rows of the table in one panel, by row and column."""
        shown = self.table.loc[self.table["panel"] == place]
        return {(int(cell.row), int(cell.column)): cell for cell in shown.itertuples()}

    def __repr__(self) -> str:
        size = " and ".join(f"{len(panel.rows)} x {len(panel.columns)}" for panel in self.panels)
        return f"{type(self).__name__}({self.title}: {size})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in (*self.notes, ILLUSTRATION))
        tables = "".join(self._panel_html(place) for place in range(len(self.panels)))
        return (
            f'<div style="font:12px system-ui,sans-serif"><p><b>{escape(self.title)}</b> '
            f"(colour: {escape(self.unit)}; details under the pointer)</p>"
            f'<div style="{_PANELS}">{tables}</div>{notes}</div>'
        )

    def _panel_html(self, place: int) -> str:
        """One panel as an HTML table."""
        panel, cells = self.panels[place], self.cells(place)
        heads = "".join(
            f"<th style='{_NAME}'><bdi>{escape(text)}</bdi></th>"
            for text in (panel.row_axis, *panel.columns)
        )
        lines = [
            f'<tr><th style="{_ROW_NAME}">{escape(name)}</th>'
            + "".join(self._cell(cells.get((row, column))) for column in range(len(panel.columns)))
            + "</tr>"
            for row, name in enumerate(panel.rows)
        ]
        rows = "".join(reversed(lines) if self.upward else lines)
        name = f"<caption>{escape(panel.name)}</caption>" if panel.name else ""
        return f'<table style="{_STYLE}">{name}<tr>{heads}</tr>{rows}</table>'

    def _cell(self, cell: Any) -> str:
        if cell is None:
            return '<td style="padding:1px;background:#8883"></td>'
        back, front = cell_colors(self.bar, cell.value)
        return (
            f'<td style="{_CELL};background:{back};color:{front}" title="{escape(cell.details)}">'
            f"<bdi>{escape(cell.text)}</bdi></td>"
        )


def _is_csv(path: Path) -> bool:
    """True if a CSV file has the columns that the table of every grid has."""
    with open_regular(path) as file:
        return set(file.readline(2**14).decode().strip().split(",")) >= _ALWAYS


def _is_parquet(path: Path) -> bool:
    """True if a Parquet file is the table of a grid."""
    return _TITLE_KEY in (pq.read_schema(path).metadata or {})
