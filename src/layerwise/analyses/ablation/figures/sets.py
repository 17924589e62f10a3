"""What is lost when several layers or heads are changed at once, a panel per task.

It reads an effects table only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.ablation.lookup import set_name, sets_noun
from layerwise.presentation.grid import abreast, legend_below, set_title
from layerwise.presentation.lettering import label
from layerwise.presentation.panels import by_protocol, protocol_handles, task_panels
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import capitalised, doing

MOST = 30
_ROW = 0.19


@styled
def set_losses(
    effects: pd.DataFrame,
    kind: str | None = None,
    site: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """The share of the above-floor accuracy that is lost without each block or set.

    Args:
        effects: the rows of ``effects.parquet`` that change several places at once, one of them
            with signal.
        kind: the kind of intervention shown; the first if None.
        site: its site; the first if None.
        width: the widest the figure may be, inches.

    Returns:
        A row per set, those with the largest losses if there are more than ``MOST``, in the
        order of the table; a point with its paired bootstrap interval per protocol with signal.
        Filled points are significant after Holm's correction.
    """
    shown = rows(effects, signal=True)
    for name, wanted in (("kind", kind), ("site", site)):
        shown = rows(shown, **{name: wanted or str(shown[name].iloc[0])})
    sets = largest_sets(shown)
    shown = rows(shown, intervention=sets)
    figure, panels = task_panels(shown, width, _ROW * len(sets) + 0.75)
    every = list(panels.values())
    for task, axes in panels.items():
        _draw(axes, rows(shown, task=task), sets)
    first = shown.drop_duplicates("intervention").set_index("intervention").loc[sets]
    names = [set_name(*one) for one in zip(first["layers"], first["heads"], strict=True)]
    every[0].set_yticks(range(len(sets)), [label(name, 18) for name in names])
    every[0].set_ylim(len(sets) - 0.4, -0.6)
    noun = sets_noun(str(shown["site"].iloc[0]))
    for axes in every[:: abreast(every)]:
        axes.set_ylabel(noun if noun == "layers" else f"layer: {noun}")
    for axes in every[-abreast(every) :]:
        axes.set_xlabel("above-floor\naccuracy lost (%)")
    action = action_on_sets(str(shown["kind"].iloc[0]), str(shown["site"].iloc[0]))
    set_title(figure, f"{capitalised(action)}: accuracy lost (lines: 95 % intervals)")
    legend_below(figure, [*protocol_handles(shown, lines=False), _note()])
    return figure


def action_on_sets(kind: str, site: str) -> str:
    """``"skipping several layers at once"``."""
    where = f"several {sets_noun(site)}"
    return f"{doing(kind, 'layer' if site == 'layers' else site, where)} at once"


def largest_sets(effects: pd.DataFrame) -> list[str]:
    """The interventions in the order of the table; those that lose most, if there are many."""
    named = list(dict.fromkeys(effects["intervention"]))
    losses = {name: float(numbers(rows(effects, intervention=name), "share_lost").mean())
              for name in named}  # fmt: skip
    kept = sorted(named, key=lambda name: -losses[name])[:MOST]
    return [name for name in named if name in kept]


def _draw(axes: Axes, mine: pd.DataFrame, sets: list[str]) -> None:
    lines = by_protocol(mine)
    aside = np.linspace(-0.22, 0.22, len(lines)) if len(lines) > 1 else [0.0]
    for (protocol, line), shift in zip(lines, aside, strict=True):
        seen = protocol_look(protocol)
        y = np.array([sets.index(name) for name in line["intervention"]]) + shift
        lost, low, high = (
            100 * numbers(line, name) for name in ("share_lost", "share_low", "share_high")
        )
        axes.hlines(y, low, high, color=seen.color, lw=0.9)
        sure = line["significant"].to_numpy(dtype=bool)
        for chosen, fill, gid in ((sure, seen.color, "sure"), (~sure, "white", "unsure")):
            axes.plot(lost[chosen], y[chosen], ls="", marker=seen.marker, ms=3.2, mew=0.7,
                      color=seen.color, mfc=fill, gid=f"{gid} {protocol}")  # fmt: skip
    for at in (0, 100):
        axes.axvline(at, color="0.6", lw=0.6, ls=(0, (4, 2)), zorder=0)
    axes.grid(axis="y", color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _note() -> Line2D:
    named = "filled: significant (Holm)"
    return Line2D([], [], ls="", marker="o", color="0.35", ms=3.2, label=named)
