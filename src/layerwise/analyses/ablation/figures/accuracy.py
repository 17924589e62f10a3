"""Accuracy by layer, a panel per task and a line per protocol.

It reads an effects table only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.panels import (
    by_protocol,
    finish_panels,
    floor_of,
    protocol_handles,
    task_panels,
)
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import LAYER_MAIN, doing

_INTACT, _FLOOR = (0, (1, 1.2)), (0, (6, 2))


@styled
def accuracy_by_layer(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    *,
    signal: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy with each layer intervened on, against the intact model and the measured floor.

    Args:
        effects: the table ``effects.parquet``.
        kind: the kind of intervention shown.
        site: its site.
        width: the widest the figure may be, inches.
        signal: the table ``signal.parquet``, if accuracies under other questions are to be shown.

    Returns:
        A panel per task. Bands are the paired bootstrap intervals of the effect, drawn about
        the accuracy; dotted lines are the intact model's accuracy, dashed ones that without any
        layer, in the protocol's colour (stated chance where it was not measured). Arrowheads at
        the right edge are the accuracy when asked other items' questions. Protocols without
        signal are drawn pale and without a band.
    """
    shown = rows(effects, kind=kind, site=site)
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        mine = rows(shown, task=task)
        for protocol, line in by_protocol(mine):
            _draw(axes, protocol, line)
            if signal is not None:
                _draw_blind(axes, protocol, rows(signal, task=task, protocol=protocol))
    every = list(panels.values())
    every[0].set_ylim(-3, 103)
    finish_panels(figure, every, layers_of(shown), "accuracy (%)")
    set_title(figure, f"Accuracy after {doing(kind, site, 'one layer')}")
    blind = signal is not None and bool(rows(signal, task=list(panels))["blind"].notna().any())
    legend_below(figure, [*protocol_handles(shown), *_notes(blind)])
    return figure


def _draw(axes: Axes, protocol: str, line: pd.DataFrame) -> None:
    seen, signal = protocol_look(protocol), bool(line["signal"].iloc[0])
    x, (low, high) = numbers(line, "layer"), _band(line)
    alpha = 1.0 if signal else 0.35
    axes.plot(
        x, 100 * numbers(line, "acc"), color=seen.color, marker=seen.marker, ls=seen.linestyle,
        ms=2.4, lw=0.9, alpha=alpha, gid=f"accuracy {protocol}",
    )  # fmt: skip
    if signal:
        axes.fill_between(x, low, high, color=seen.color, alpha=0.22, lw=0)
    intact = 100 * float(line["acc_intact"].iloc[0])
    axes.axhline(intact, lw=0.9, ls=_INTACT, color=seen.color, alpha=alpha, gid="intact")
    axes.axhline(floor_of(line), lw=0.8, ls=_FLOOR, color=seen.color, alpha=alpha, gid="floor")


def _draw_blind(axes: Axes, protocol: str, signal: pd.DataFrame) -> None:
    """The accuracy under other questions, outside the axis so that it covers no line."""
    for row in records(signal):
        axes.plot(
            [1.0], [100 * row["blind"]], transform=axes.get_yaxis_transform(), marker="<", ms=3.2,
            ls="", color=protocol_look(protocol).color, alpha=1.0 if row["signal"] else 0.35,
            clip_on=False, gid=f"blind {protocol}",
        )  # fmt: skip


def _band(line: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the accuracy in percent: the intact accuracy less the bounds of its loss."""
    intact, least, most = (
        100 * numbers(line, name) for name in ("acc_intact", "acc_diff_low", "acc_diff_high")
    )
    return (intact - most).clip(0, 100), (intact - least).clip(0, 100)


def _notes(blind: bool) -> list[Line2D | Patch]:
    arrow = Line2D([], [], color="0.35", marker="<", ms=3.2, ls="", label="other questions")
    return [
        Line2D([], [], color="0.35", lw=0.9, ls=_INTACT, label="intact model"),
        Line2D([], [], color="0.35", lw=0.9, ls=_FLOOR, label="floor"),
        *([arrow] if blind else []),
        Patch(facecolor="0.6", alpha=0.35, label="95 % interval of the effect"),
    ]
