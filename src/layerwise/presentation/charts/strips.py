"""Strips: named rows of cells over layers, a panel for each task or run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layerwise.presentation.lettering import characters, label
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import spread

from .heat import LOST, Cells, Mark, Row, cells, draw_heat, hatch
from .panels import Panels

ROW = 0.17


@dataclass(frozen=True)
class Strip:
    """A panel of named rows over layers.

    Attributes:
        title: the lines above it.
        names: of the rows, from above.
        cells: the rows' cells.
        silent: the rows without signal, which are hatched.
        right: what stands at the right of the rows.
        edges: of the cells; if None a cell is a layer.
    """

    title: Sequence[str]
    names: Sequence[str]
    cells: Cells
    silent: Sequence[int] = ()
    right: Sequence[str] = ()
    edges: np.ndarray | None = None


def strip_of_losses(
    part: pd.DataFrame, named: str, names: Sequence[str], layers: list[int], marks: Sequence[Mark],
    tell: Callable[[Row], str], right: Callable[[Row], str] | None = None,
) -> Strip:  # fmt: skip
    """A task's shares lost, in rows over the layers; those without signal have no cells."""
    first, lit = part.iloc[0], rows(part, signal=True)
    title = f"{first['task']} ({first['capability']}, n = {spread(part['n_items'])})"
    there = {row[named]: row for row in records(part)}
    return Strip(
        [title],
        names,
        cells(lit, "share_lost", (named, names), ("layer", layers), marks, tell),
        [i for i, name in enumerate(names) if name in there and name not in set(lit[named])],
        [right(there[name]) if name in there else "" for name in names] if right else (),
    )


def strips(
    shown: Sequence[Strip], width: float, *, left: float, right: float = 0.1, least: float = 2.9
) -> Panels:
    """Panels of strips with their rows' names; the axis below, title and legend are to be added."""
    most = max(len(strip.names) for strip in shown)
    panels = Panels(
        [strip.title for strip in shown], width, (ROW * most,), least=least, most=width, left=left,
        share="x",
    )  # fmt: skip
    panels.room -= right + (left if panels.across > 1 else 0.0) * (1 - 1 / panels.across)
    for axes, strip in zip(panels.flat, shown, strict=True):
        draw_heat(axes, strip.cells, LOST, (panels.room, ROW * len(strip.names)), edges=strip.edges)
        start, end = axes.get_xlim()
        for row in strip.silent:
            hatch(axes, start, row, end - start, 1.0)
        for row, text in enumerate(strip.right):
            axes.text(end, row + 0.5, f" {text}", va="center", ha="left")
        fits = characters(left - 0.15)
        axes.set_yticks(
            np.arange(len(strip.names)) + 0.5, [label(name, fits) for name in strip.names]
        )
        axes.set_ylim(most, 0)
    return panels
