"""What groups of layers cost under two protocols, a panel per capability and pair of protocols.

It reads a table of interactions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.grid import abreast, legend_below, panel_grid, set_title
from layerwise.presentation.lettering import label
from layerwise.presentation.panels import protocol_handles
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import in_order, p_value

_LEAST, _MOST = -50, 150


@styled
def interaction_profiles(interaction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The share of the above-floor accuracy lost in each group of layers, by protocol.

    Args:
        interaction: the table ``protocol_interaction.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A panel per capability and pair of protocols, a line with bootstrap intervals for each
        protocol. Filled markers: the two profiles differ by more than a shift (Holm).
    """
    keys = ["capability", "first", "second"]
    plan = in_order(map(tuple, interaction[keys].to_numpy()), ())
    pairs = len({key[1:] for key in plan})
    # three abreast where they fit, so that each capability has its row
    least = 2.2 if pairs == 3 and len(plan) > 3 and width >= 3 * 2.2 else 1.6
    figure, panels = panel_grid(len(plan), width, least, 1.4, extra=0.9)
    for axes, key in zip(panels, plan, strict=True):
        _draw(axes, rows(interaction, **dict(zip(keys, key, strict=True))))
    drawn = [100 * numbers(interaction, f"share_{which}{end}")
             for which in ("first", "second") for end in ("", "_low", "_high")]  # fmt: skip
    panels[0].set_ylim(max(np.nanmin(drawn), _LEAST) - 4, min(np.nanmax(drawn), _MOST) + 6)
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("above-floor accuracy\nlost per layer (%)")
    set_title(figure, "Does it depend on the way of asking where the loss is? (95 % intervals)")
    every = pd.concat([interaction[name] for name in ("first", "second")])
    legend_below(figure, [*protocol_handles(pd.DataFrame({"protocol": every})), _note()])
    return figure


def _draw(axes: Axes, mine: pd.DataFrame) -> None:
    sure = bool((numbers(mine, "p_holm") < 0.05).all())
    x = np.arange(len(mine), dtype=float)
    axes.axhline(0, color="0.35", lw=0.6)
    for which, shift in (("first", -0.07), ("second", 0.07)):
        name = str(mine[which].iloc[0])
        seen = protocol_look(name)
        share, low, high = (
            100 * numbers(mine, f"share_{which}{end}") for end in ("", "_low", "_high")
        )
        line: dict[str, Any] = {"color": seen.color, "marker": seen.marker, "ls": seen.linestyle}
        axes.vlines(x + shift, low, high, color=seen.color, lw=1.1, gid=f"interval {name}")
        axes.plot(
            x + shift, share, **line, lw=0.9, ms=3.4, mew=0.8,
            mfc=seen.color if sure else "white", gid=f"share {name}",
        )  # fmt: skip
    first = mine.iloc[0]
    axes.set_title(
        f"{label(str(first['capability']), 16)}, n = {first['n_items']}\n"
        f"{p_value(first['p_holm'])} (Holm)",
        loc="left", pad=3,
    )  # fmt: skip
    axes.set_xticks(x, [label(str(name), 8) for name in mine["group"]])
    axes.set_xlim(-0.4, len(mine) - 0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _note() -> Line2D:
    return Line2D([], [], ls="", marker="o", c="0.35", ms=3.4, label="filled: profiles differ")
