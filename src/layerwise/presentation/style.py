"""Style of every figure: sizes, fonts, colours and looks of lines.

No figure is drawn here, and no state of pyplot is touched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, cast
from weakref import WeakKeyDictionary

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from layerwise.errors import UserError, short_repr

from .lettering import FACE, FONT

FULL_WIDTH = 6.9
COLUMN_WIDTH = 3.3
NOTE = "0.35"
_UNITS_PER_INCH = {"in": 1.0, "cm": 2.54, "mm": 25.4, "pt": 72.0}
_NARROWEST, _WIDEST = 1, 40
_PLACES = 9

_P = ParamSpec("_P")


@dataclass(frozen=True)
class LineStyle:
    """Appearance of a line, in colour and in grey."""

    color: str
    marker: str
    dashes: tuple[float, ...]

    @property
    def linestyle(self) -> str | tuple[int, tuple[float, ...]]:
        """The dashes as matplotlib takes them."""
        return (0, self.dashes) if self.dashes else "-"


_COLORS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc", "#5b3a1e", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ((), (4.0, 1.5), (1.0, 1.0), (5.0, 1.0, 1.0, 1.0), (2.0, 2.0), (7.0, 2.0))
_PROTOCOL_LOOKS = {"letter": 0, "continuation": 1, "generate": 2}


def look(index: int) -> LineStyle:
    """The look of the series number ``index``; they repeat after six."""
    i = index % len(_COLORS)
    return LineStyle(_COLORS[i], _MARKERS[i], _DASHES[i])


def protocol_look(protocol: str) -> LineStyle:
    """The look of a protocol, the same in all figures; those of other names share one."""
    return look(_PROTOCOL_LOOKS.get(protocol, 3))


# Of a user's own axes that are drawn into, the figure that keeps their legend and tooltips.
BESIDE: WeakKeyDictionary[Axes, LayerFigure] = WeakKeyDictionary()
_WITH_TITLES = ContextVar("with titles", default=True)
# How many times as tall as wide a figure may be, and which part is drawn of one that is taller.
PART: ContextVar[tuple[float, int] | None] = ContextVar("part of a figure", default=None)


@contextmanager
def part_of_figures(tallest: float, number: int) -> Iterator[None]:
    """Figures that would be more than so many times as tall as wide are drawn in parts."""
    before = PART.set((tallest, number))
    try:
        yield
    finally:
        PART.reset(before)


@contextmanager
def without_titles() -> Iterator[None]:
    """Figures that are drawn inside have no title: a paper's caption says what they show."""
    before = _WITH_TITLES.set(False)
    try:
        yield
    finally:
        _WITH_TITLES.reset(before)


class LayerFigure(Figure):
    """A figure outside pyplot's state that a notebook can still show."""

    def __init__(self, **options: Any) -> None:
        """As matplotlib's figure, with nothing in it yet."""
        super().__init__(**options)
        self.entries: dict[str, Artist] = {}  # of the legend, by their texts
        self.notes: dict[str, Artist] = {}  # entries behind them, on what marks mean
        # Panels, corners of marks in their data, texts, and what changed which items; empty where
        # no single layer did.
        self.tooltips: list[tuple[Axes, tuple[float, float, float, float], str, str]] = []
        self.n_parts = 1  # into how many it was parted, of which it is one

    def entitle(self, lines: Sequence[str]) -> None:
        """Write the figure's title above it, where it is to have one."""
        if _WITH_TITLES.get():
            self.suptitle("\n".join(lines), x=0.01, ha="left")

    def add_tooltip(self, axes: Axes, corners: Sequence[Any], text: str, change: str = "") -> None:
        """Add a tooltip between two corners of a panel, or close to a point."""
        x, y, right, low = map(float, corners)
        if text and math.isfinite(x + y):
            self.tooltips.append((axes, (x, y, right, low), text, change))

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Fonts, lines and deterministic SVG ids for what is drawn inside."""
    sized = (
        "font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize",
        "legend.fontsize", "legend.title_fontsize",
    )  # fmt: skip
    ticks = {"width": 0.6, "size": 2.5, "pad": 2.0}
    settings: Any = {
        **sns.axes_style("ticks"),
        **dict.fromkeys(sized, FONT),
        **{f"{x}tick.major.{name}": value for x in "xy" for name, value in ticks.items()},
        "figure.titlesize": FONT + 1,
        "font.family": FACE,
        "axes.linewidth": 0.6,
        "hatch.linewidth": 0.5,
        "svg.hashsalt": "layerwise",
        "svg.fonttype": "path",
        "figure.facecolor": "white",
    }
    with mpl.rc_context(settings):
        yield


def with_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Let a figure function draw in the house style, whoever calls it."""
    # The layout runs once, inside the style, because ticks take their font when first made; it is
    # kept, as all sizes are in points.

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with style():
            figure = draw(*args, **kwargs)
            if (engine := figure.get_layout_engine()) is not None:
                engine.execute(figure)
            figure.set_layout_engine("none")
            _round_positions(figure)
        return figure

    return wrapper


def _round_positions(figure: Figure) -> None:
    """Round where axes lie: last digits of a layout depend on where its solver lies in memory."""
    # In SVG such a digit changes names, which are hashes.
    for axes in figure.axes:
        points = axes.get_position(original=True).get_points()
        counts = axes.get_in_layout()
        axes.set_position(Bbox(points.round(_PLACES)))
        axes.set_in_layout(counts)


def figure_from_axes(axes: Axes) -> LayerFigure:
    """The figure that a panel is in; of a user's own axes the one that is kept beside them."""
    return BESIDE.get(axes) or cast(LayerFigure, axes.figure)


def plain_log_scale(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="0.92", lw=0.5)


def inches(width: float | str) -> float:
    """The width of a figure in inches, from a number of them or a text such as ``"84mm"``.

    Raises:
        UserError: if it is neither, or no width that a figure can have.
    """
    given = "" if isinstance(width, bool | bytes) else width
    try:
        text = given.strip() if isinstance(given, str) else str(float(given))
        parts = re.fullmatch(r"([\d.]+) *(in|cm|mm|pt)?", text)
        size = float(parts[1]) / _UNITS_PER_INCH[parts[2] or "in"] if parts else math.nan
    except (OverflowError, TypeError, ValueError):
        size = math.nan
    if not _NARROWEST <= size <= _WIDEST:
        raise UserError(
            f"Cannot draw a figure of width {short_repr(width)}: expected {_NARROWEST} to "
            f"{_WIDEST} "
            "inches; write for example 3.3, 3.3in or 84mm."
        )
    return size


def new_figure(width: float, height: float) -> LayerFigure:
    """An empty figure of ``width`` by ``height`` inches whose parts make room for each other."""
    return LayerFigure(figsize=(width, height), layout="constrained")
