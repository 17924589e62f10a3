"""Lines over layers or steps and points with intervals, filled where they are significant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.lettering import label as shorten
from layerwise.presentation.naming import stacks
from layerwise.presentation.style import NOTE, figure_of

from .marks import PALE, note
from .series import NO_WORDS, Series, Words

_SIZE = 2.8


def draw_series(
    axes: Axes, shown: Sequence[Series], words: Words = NO_WORDS, *, upright: bool = False
) -> None:
    """Draw series over a horizontal axis, or beside an upright one."""
    for one in (one for one in shown if len(one.at)):
        _draw(axes, one, words, upright)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, one: Series, words: Words, upright: bool) -> None:
    looks: dict[str, Any] = {"color": one.look.color, "alpha": PALE if one.pale else 1.0}
    marker: dict[str, Any] = {"ms": _SIZE, "mew": 0.7, "mec": one.look.color}
    place = (lambda at, value: (value, at)) if upright else (lambda at, value: (at, value))
    if one.low is not None and one.high is not None and not one.pale:
        _draw_intervals(axes, one, upright)
        if words.interval:
            note(axes, _interval_handle(one, words.interval))
    if one.line:
        at, middle = _with_gap(one, one.middle)
        whole = {"marker": one.look.marker, "markevery": one.every} if one.sure is None else {}
        axes.plot(
            *place(at, middle), ls=one.look.linestyle, lw=0.9, gid=one.name, **looks, **marker,
            **whole,
        )  # fmt: skip
    sure = np.ones(len(one.at), dtype=bool) if one.sure is None else one.sure
    for chosen, face, kind in ((sure, one.look.color, "sure"), (~sure, "white", "unsure")):
        if one.sure is not None or (not one.line and kind == "sure"):
            axes.plot(
                *place(one.at[chosen], one.middle[chosen]), ls="", marker=one.look.marker, mfc=face,
                gid=one.name if one.sure is None else f"{kind} {one.name}", **looks, **marker,
            )  # fmt: skip
        if one.sure is not None and chosen.any() and getattr(words, kind):
            note(axes, _point_handle(face, getattr(words, kind)))
    if one.label:
        figure_of(axes).entries.setdefault(one.label, _handle(one))
    for at, value, text in zip(one.at, one.middle, one.tooltips, strict=False):
        figure_of(axes).tell(axes, place(at, value) * 2, text)


def _with_gap(one: Series, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with a gap behind the encoder's last layer: it and the decoder are two streams."""
    first = stacks().n_encoder
    gap = np.searchsorted(one.at, first - 0.5) if first and one.over_layers else 0
    if not 0 < gap < len(one.at):
        return one.at, values
    return np.insert(one.at.astype(float), gap, np.nan), np.insert(values, gap, np.nan)


def _draw_intervals(axes: Axes, one: Series, upright: bool) -> None:
    assert one.low is not None
    assert one.high is not None
    if one.band:
        (at, low), (_, high) = _with_gap(one, one.low), _with_gap(one, one.high)
        axes.fill_between(
            at, low, high, color=one.look.color, alpha=0.2, lw=0, gid=f"band {one.name}"
        )
        return
    draw = axes.hlines if upright else axes.vlines
    draw(one.at, one.low, one.high, color=one.look.color, lw=1.1, gid=f"interval {one.name}")


def _handle(one: Series) -> Line2D:
    look, filled = one.look, one.sure is None or one.sure.any()
    return Line2D(
        [], [], color=look.color, marker=look.marker, ls=look.linestyle if one.line else "-",
        ms=_SIZE, lw=0.9, mfc=look.color if filled else "white", label=shorten(one.label, 40),
    )  # fmt: skip


def _point_handle(face: str, meaning: str) -> Line2D:
    face = "white" if face == "white" else NOTE
    return Line2D([], [], ls="", marker="o", ms=_SIZE, color=NOTE, mfc=face, label=meaning)


def _interval_handle(one: Series, meaning: str) -> Line2D | Patch:
    if one.band:
        return Patch(facecolor="0.6", alpha=0.35, label=meaning)
    return Line2D([], [], color=NOTE, lw=1.1, label=meaning)
