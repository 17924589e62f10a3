"""Contents of figures, and texts that can be read: big enough, inside them, and apart."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH

SLACK = 1.0
# Names of protocols and scoring steps in tables, where readers are to see everyday words.
KEYS = re.compile(
    r"(?<!an )(?<!a )(?<!the )\b(letter|continuation|generate|choice|teacher forcing|first token)\b"
)
# Texts get into each other's way in the narrow picture first. The wide ones of all kinds of
# figures are tried in ``test_figures`` by day, and each with all its numbers in long runs.
WIDTHS = (COLUMN_WIDTH, pytest.param(FULL_WIDTH, marks=pytest.mark.long))


def texts(figure: Figure) -> list[Text]:
    """The texts that are drawn; labels of ticks beyond the end of their axis are not."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    beyond = {id(label) for axes in figure.axes for label in _beyond(axes)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [text for text in found if id(text) not in beyond]


def words(figure: Figure) -> str:
    """All texts, each on a line."""
    return "\n".join(text.get_text() for text in texts(figure))


def raw_keys(text: str) -> list[str]:
    """The names of protocols and scoring steps that a text has in place of words."""
    return KEYS.findall(" ".join(text.split()))  # lines may be broken


def assert_everyday_words(figure: Figure) -> None:
    """Refuse a figure that names a way of scoring by its key, in its texts or where one points."""
    shown = [text.get_text() for text in texts(figure)]
    shown += [text for _, _, text, _ in getattr(figure, "tooltips", ())]
    assert [(text, raw_keys(text)) for text in shown if raw_keys(text)] == []


def lines(figure: Figure, gid: str) -> list[Line2D]:
    """The lines of this name."""
    return [line for line in figure.findobj(Line2D) if line.get_gid() == gid]


def line(figure: Figure, gid: str) -> Line2D:
    """The one line of this name."""
    (found,) = lines(figure, gid)
    return found


def cells(axes: Axes) -> np.ndarray:
    """The values of the one map in a panel, NaN where nothing is, by row and column."""
    (mesh,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    values = np.ma.filled(np.ma.masked_invalid(mesh.get_array()).astype(float), np.nan)
    return values.reshape([size - 1 for size in mesh.get_coordinates().shape[:2]])


def _beyond(axes: Axes) -> list[Text]:
    hidden = []
    for axis in (axes.xaxis, axes.yaxis):
        shown = {id(tick) for tick in axis._update_ticks()} if axis.get_visible() else set()
        ticks = [*axis.majorTicks, *axis.minorTicks]
        hidden += [t for tick in ticks if id(tick) not in shown for t in (tick.label1, tick.label2)]
    return hidden


def assert_legible(figure: Figure, width: float | None = None) -> None:
    """Fails if a text is under 7 points, leaves the figure, or meets another text or a bar.

    Also if the figure is wider than ``width``.
    """
    assert width is None or figure.get_figwidth() <= width + 1e-9
    found = texts(figure)
    small = [text.get_text() for text in found if text.get_fontsize() < 7]
    assert not small, f"under 7 points: {small}"
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = np.array([text.get_window_extent(renderer).extents for text in found])
    width, height = figure.bbox.width, figure.bbox.height
    outside = (boxes[:, :2] < -SLACK).any(axis=1)
    outside |= (boxes[:, 2] > width + SLACK) | (boxes[:, 3] > height + SLACK)
    assert not outside.any(), [found[i].get_text() for i in np.flatnonzero(outside)]
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    for x, y, right, top in (bar.get_window_extent(renderer).extents for bar in bars):
        over = (boxes[:, 2] > x) & (boxes[:, 0] < right) & (boxes[:, 1] < top - SLACK)
        over &= boxes[:, 3] > y + SLACK
        assert not over.any(), [found[i].get_text() for i in np.flatnonzero(over)]
    meet = _overlapping_boxes(boxes)
    assert not meet, [(found[i].get_text(), found[j].get_text()) for i, j in meet[:5]]


def _overlapping_boxes(boxes: np.ndarray) -> list[tuple[int, int]]:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    pairs = np.argwhere(((high - low) > SLACK).all(axis=2))
    return [(int(i), int(j)) for i, j in pairs if i < j]
