"""Whether the layers that matter change with the way of scoring, a panel per task.

It reads the table of effects and that of layers rung by rung.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.panels import by_protocol, finish_panels, protocol_handles, task_panels
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import LAYER_MAIN, capitalised, doing
from layerwise.stats.share_tests.dissociation import ALPHA

_LEAST, _MOST, _FOOT = -50, 125, -42


@styled
def protocol_comparison(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    dissociations: pd.DataFrame | None = None,
) -> Figure:
    """The share of the above-floor accuracy lost at each layer, under each protocol.

    Unlike accuracy, the share has one scale under every protocol, so that lines that lie on
    each other mean that the answer does not depend on the way of scoring.

    Args:
        effects: the table ``effects.parquet``.
        kind: the kind of intervention shown.
        site: its site.
        width: the widest the figure may be, inches.
        dissociations: the table ``dissociations.parquet``, for the ticks.

    Returns:
        A panel per task with signal. Filled markers are significant after Holm's correction;
        ticks at the foot mark layers that lose more items under one protocol than under another,
        of those right under both. Protocols without signal are not drawn.
    """
    shown = rows(effects, kind=kind, site=site, signal=True)
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        mine = rows(shown, task=task)
        axes.axhline(0, color="0.35", lw=0.6)
        for protocol, line in by_protocol(mine):
            _draw(axes, protocol, line)
        apart = _layers_apart(dissociations, task, kind, site)
        foot = np.full(len(apart), _FOOT)
        axes.plot(apart, foot, ls="", marker="|", ms=5, mew=1, c="black", gid="apart")
    every = list(panels.values())
    every[0].set_ylim(_LEAST, _MOST)
    finish_panels(figure, every, layers_of(shown), "above-floor\naccuracy lost (%)")
    set_title(figure, f"{capitalised(doing(kind, site, 'one layer'))}: loss by way of scoring")
    legend_below(figure, [*protocol_handles(shown), *_notes()])
    return figure


def _layers_apart(found: pd.DataFrame | None, task: str, kind: str, site: str) -> list[int]:
    """Layers that cost significantly more under one protocol than under another."""
    if found is None or found.empty:
        return []
    protocols = ["letter", "choice", "generate"]
    mine = rows(found, task=task, kind=kind, site=site, first=protocols, second=protocols)
    least = mine[["p_first", "p_second"]].min(axis=1)
    return layers_of(pd.DataFrame(mine.loc[least < ALPHA]))


def _draw(axes: Axes, protocol: str, line: pd.DataFrame) -> None:
    seen = protocol_look(protocol)
    x, share, low, high = (
        numbers(line, name) for name in ("layer", "share_lost", "share_low", "share_high")
    )
    axes.plot(
        x, 100 * share, color=seen.color, ls=seen.linestyle, lw=0.9, ms=2.8, marker=seen.marker,
        mfc="white", mew=0.7, gid=f"share {protocol}",
    )  # fmt: skip
    sure = line["significant"].to_numpy(dtype=bool)
    axes.plot(
        x[sure], 100 * share[sure], ls="", marker=seen.marker, ms=3, color=seen.color,
        gid=f"significant {protocol}",
    )  # fmt: skip
    low, high = (np.clip(100 * bound, _LEAST, _MOST) for bound in (low, high))
    axes.fill_between(x, low, high, color=seen.color, alpha=0.2, lw=0)


def _notes() -> list[Line2D | Patch]:
    return [
        Line2D([], [], ls="", marker="o", c="0.35", ms=3.5, label="filled: significant (Holm)"),
        Line2D([], [], ls="", marker="|", c="black", ms=5, label="one protocol loses more"),
        Patch(facecolor="0.6", alpha=0.35, label="95 % interval"),
    ]
