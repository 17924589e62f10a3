"""What every figure shares: sizes, fonts, looks of lines, safe labels, titles, panel grids.

No figure is drawn here. All text from users goes through ``label`` before it meets matplotlib.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import seaborn as sns
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FULL_WIDTH = 6.9
COLUMN_WIDTH = 3.3
FONT = 7.0
# Mean advance of DejaVu Sans, in em: enough to plan line breaks before anything is drawn.
CHARACTER = 0.58

_FACE = "DejaVu Sans"
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Look:
    """How a line is told from others, in colour and in grey."""

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


def look(index: int) -> Look:
    """The look of the series number ``index``; they repeat after six."""
    i = index % len(_COLORS)
    return Look(_COLORS[i], _MARKERS[i], _DASHES[i])


def protocol_look(protocol: str) -> Look:
    """The look of a protocol, the same in all figures; those of other names share one."""
    return look(_PROTOCOL_LOOKS.get(protocol, 3))


class LayerFigure(Figure):
    """A figure outside pyplot's state that a notebook can still show."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Fonts, lines and deterministic SVG ids for what is drawn inside."""
    sizes = dict.fromkeys(
        ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"),
        FONT,
    )
    sizes |= dict.fromkeys(("legend.fontsize", "legend.title_fontsize"), FONT)
    rest = {
        "figure.titlesize": FONT + 1,
        "font.family": _FACE,
        "axes.linewidth": 0.6,
        "hatch.linewidth": 0.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.major.pad": 2.0,
        "ytick.major.pad": 2.0,
        "svg.hashsalt": "layerwise",
        "svg.fonttype": "path",
        "figure.facecolor": "white",
    }
    settings: Any = {**sns.axes_style("ticks"), **sizes, **rest}
    with mpl.rc_context(settings):
        yield


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Let a figure function draw in the house style, whoever calls it.

    The layout runs once, inside the style, because ticks take their font when first made.
    It is then kept: all sizes are in points, so that it holds at every resolution.
    """

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with style():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return wrapper


def new_figure(width: float, height: float) -> LayerFigure:
    """An empty figure of ``width`` by ``height`` inches whose parts make room for each other."""
    return LayerFigure(figsize=(width, height), layout="constrained")


@lru_cache(maxsize=1)
def _font() -> ft2font.FT2Font:
    return ft2font.FT2Font(font_manager.findfont(_FACE))


def _drawable(character: str) -> str:
    if not character.isprintable():
        return " "
    return character if _font().get_char_index(ord(character)) else "□"


def label(name: str, longest: int = 24) -> str:
    """A user's name made safe and short for a figure.

    Control characters become spaces and characters the font lacks become boxes; long names
    lose their middle, since suites often share a beginning. A dollar sign is escaped, or
    matplotlib would read mathematics into it.
    """
    text = "".join(_drawable(character) for character in name)
    if len(text) > longest:
        head = longest // 2
        text = f"{text[:head]}…{text[head - longest + 1 :]}"
    return text.replace("$", r"\$")


def characters(inches: float, size: float = FONT) -> int:
    """How many characters of ``size`` points fit into ``inches``, at least one."""
    return max(1, int(inches * 72 / (CHARACTER * size)))


def text_inches(text: str, size: float = FONT) -> float:
    """About how wide a text is when drawn, in inches."""
    return len(text) * CHARACTER * size / 72


def set_title(figure: Figure, text: str) -> None:
    """Put a title above the figure, broken so that it stays within its width."""
    longest = characters(figure.get_figwidth() - 0.1, FONT + 1)
    figure.suptitle("\n".join(textwrap.wrap(text, longest)), x=0.01, ha="left")


def rows_and_columns(n: int, width: float, least: float) -> tuple[int, int]:
    """An even grid for ``n`` panels, none narrower than ``least`` inches if it can be."""
    across = min(n, max(1, int(width / least)))
    rows = math.ceil(n / across)
    return rows, math.ceil(n / rows)


def panel_grid(
    n: int, width: float, least: float, height: float, most: float = 3.3, extra: float = 0.9
) -> tuple[LayerFigure, list[Axes]]:
    """A figure with ``n`` panels that share their axes, as many abreast as stay readable.

    Args:
        n: number of panels.
        width: the widest the figure may be, inches.
        least: the narrowest a panel may be, inches.
        height: height of a panel, inches.
        most: the widest a panel may be, inches.
        extra: height for title and legend, inches.

    Returns:
        The figure and its axes, left to right and top to bottom.
    """
    rows, across = rows_and_columns(n, width, least)
    figure = new_figure(min(width, max(COLUMN_WIDTH, across * most)), rows * height + extra)
    axes = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.remove()
    for panel in axes[max(0, n - across) : n]:
        panel.tick_params(labelbottom=True)
    return figure, list(axes[:n])


def abreast(panels: list[Axes]) -> int:
    """How many panels of a grid stand beside each other."""
    spec = panels[0].get_subplotspec()
    return spec.get_gridspec().ncols if spec else 1


def layer_ticks(layers: Iterable[int], room: float, size: float = 0.16) -> list[int]:
    """Which layers get a tick label, so that labels of ``size`` inches do not meet.

    Args:
        layers: the layers on the axis.
        room: length of the axis, inches.
        size: what a label takes along the axis, inches.
    """
    names = sorted(layers)
    span = max(names) - min(names) + 1
    for step in (1, 2, 5, 10, 20, 50, 100):
        if room / span * step >= size:
            break
    return [name for name in names if name % step == 0]


def legend_below(figure: Figure, handles: list, columns: int | None = None) -> None:
    """One legend for the figure, under it, in as many columns as fit."""
    widest = max((text_inches(str(handle.get_label())) for handle in handles), default=0) + 0.6
    fit = max(1, int((figure.get_figwidth() - 0.2) / widest))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(columns or len(handles), fit, len(handles)),
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
    )
