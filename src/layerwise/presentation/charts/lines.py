"""Lines over layers or steps and points with intervals, filled where they are significant.

Two measures of the same things are points against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.lettering import label as shorten
from layerwise.presentation.naming import stacks
from layerwise.presentation.style import NOTE, figure_of, look

from .marks import PALE, note
from .series import NO_WORDS, Series, Words


def draw_scatter(
    axes: Axes, x: np.ndarray, y: np.ndarray, tooltips: list[str], ends: tuple[float, float]
) -> None:
    """Points of two measures in one unit, and the line on which they are equal."""
    axes.plot(ends, ends, c="0.6", lw=0.6, ls="--", gid="equal")
    axes.plot(x, y, ls="", marker="o", ms=2.5, mew=0, alpha=0.7, c=look(0).color, gid="cells")
    for at, value, text in zip(x, y, tooltips, strict=True):
        figure_of(axes).tell(axes, (at, value, at, value), text)
    axes.spines[["top", "right"]].set_visible(False)


_SIZE = 2.8


def draw_series(
    axes: Axes, shown: Sequence[Series], words: Words = NO_WORDS, *, upright: bool = False
) -> None:
    """Draw series over a horizontal axis, or beside an upright one."""
    for data in (data for data in shown if len(data.at)):
        _draw(axes, data, words, upright)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, data: Series, words: Words, upright: bool) -> None:
    looks: dict[str, Any] = {"color": data.look.color, "alpha": PALE if data.pale else 1.0}
    marker: dict[str, Any] = {"ms": _SIZE, "mew": 0.7, "mec": data.look.color}
    place = (lambda at, value: (value, at)) if upright else (lambda at, value: (at, value))
    if data.low is not None and data.high is not None and not data.pale:
        _draw_intervals(axes, data, upright)
        if words.interval:
            note(axes, _interval_handle(data, words.interval))
    if data.line:
        at, middle = _with_gap(data, data.middle)
        whole = {"marker": data.look.marker, "markevery": data.every} if data.sure is None else {}
        axes.plot(
            *place(at, middle), ls=data.look.linestyle, lw=0.9, gid=data.name, **looks, **marker,
            **whole,
        )  # fmt: skip
    sure = np.ones(len(data.at), dtype=bool) if data.sure is None else data.sure
    for chosen, face, kind in ((sure, data.look.color, "sure"), (~sure, "white", "unsure")):
        if data.sure is not None or (not data.line and kind == "sure"):
            axes.plot(
                *place(data.at[chosen], data.middle[chosen]), ls="", marker=data.look.marker,
                mfc=face, gid=data.name if data.sure is None else f"{kind} {data.name}", **looks,
                **marker,
            )  # fmt: skip
        if data.sure is not None and chosen.any() and getattr(words, kind):
            note(axes, _point_handle(face, getattr(words, kind)))
    if data.label:
        figure_of(axes).entries.setdefault(data.label, _handle(data))
    for at, value, *tip in zip(data.at, data.middle, data.tooltips, data.changes, strict=False):
        figure_of(axes).tell(axes, place(at, value) * 2, *tip)


def _with_gap(data: Series, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with a gap behind the encoder's last layer: it and the decoder are two streams."""
    first = stacks().n_encoder
    gap = np.searchsorted(data.at, first - 0.5) if first and data.over_layers else 0
    if not 0 < gap < len(data.at):
        return data.at, values
    return np.insert(data.at.astype(float), gap, np.nan), np.insert(values, gap, np.nan)


def _draw_intervals(axes: Axes, data: Series, upright: bool) -> None:
    assert data.low is not None
    assert data.high is not None
    if data.band:
        (at, low), (_, high) = _with_gap(data, data.low), _with_gap(data, data.high)
        axes.fill_between(
            at, low, high, color=data.look.color, alpha=0.2, lw=0, gid=f"band {data.name}"
        )
        return
    draw = axes.hlines if upright else axes.vlines
    draw(data.at, data.low, data.high, color=data.look.color, lw=1.1, gid=f"interval {data.name}")


def _handle(data: Series) -> Line2D:
    look, filled = data.look, data.sure is None or data.sure.any()
    return Line2D(
        [], [], color=look.color, marker=look.marker, ls=look.linestyle if data.line else "-",
        ms=_SIZE, lw=0.9, mfc=look.color if filled else "white", label=shorten(data.label, 40),
    )  # fmt: skip


def _point_handle(face: str, meaning: str) -> Line2D:
    face = "white" if face == "white" else NOTE
    return Line2D([], [], ls="", marker="o", ms=_SIZE, color=NOTE, mfc=face, label=meaning)


def _interval_handle(data: Series, meaning: str) -> Line2D | Patch:
    if data.band:
        return Patch(facecolor="0.6", alpha=0.35, label=meaning)
    return Line2D([], [], color=NOTE, lw=1.1, label=meaning)
