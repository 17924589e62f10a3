"""The figure of what tuned lenses read; it only reads saved tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tuned import LENSES, ORGANISMS, WIRED

from analyses.organism_training.plan import PLANTED
from analyses.validity.wired_truth import PlantedTruth
from layerwise.models.organisms.layout import WiredLayout
from layerwise.presentation.style import FULL_WIDTH, look

SHOWN = "retrieval"
NAMES = {"logit": "logit lens", "bias": "tuned lens, bias only", "full": "tuned lens, full"}


def tuned_lenses(readings: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Above, what three lenses read in the organisms; below, how far each is from the end.

    Below on the right, what they read in the wired model, where a look-up is let out late.
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.6), layout="constrained")
    above, (*below, wired) = figure.subplots(2, len(PLANTED))
    capabilities = sorted(PLANTED, key=lambda c: max(PLANTED[c]))
    organisms = readings.loc[readings["model"].isin(ORGANISMS)]
    for axes, capability in zip(above, capabilities, strict=True):
        _draw_readings(
            axes, organisms.loc[organisms["capability"] == capability], max(PLANTED[capability])
        )
        axes.set_title(capability, loc="left")
    for axes, name in zip(below, ORGANISMS, strict=True):
        _divergence(axes, layers.loc[layers["model"] == name])
        axes.set_title(name, loc="left")
    _draw_wired(wired, readings.loc[readings["model"] == WIRED])
    for axes in (*below, wired):
        axes.set_xlabel("layer (-1: embedding)")
    _share(above, "answer on top\nafter layer (% of items)")
    _share(below, "KL to the final\ndistribution (nats)")
    figure.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _share(panels: Sequence[Axes], label: str) -> None:
    """Give panels side by side one vertical axis."""
    panels[0].set_ylabel(label)
    for axes in panels[1:]:
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)


def _draw_wired(axes: Axes, readings: pd.DataFrame) -> None:
    """Light grey where the answer is at the last position and not yet readable."""
    truth = PlantedTruth(WiredLayout(), SHOWN)
    _draw_readings(axes, readings.loc[readings["capability"] == SHOWN], truth.readable_layer)
    axes.axvspan(truth.bringing_layer - 0.4, truth.readable_layer - 0.4, color="0.95", lw=0)
    axes.set_title(f"{WIRED}: {SHOWN}", loc="left")
    axes.set_ylabel("answer on top (%)")


def _draw_readings(axes: Axes, table: pd.DataFrame, readable_from: int) -> None:
    """Means over models, and bars from the least to the most; grey where it is readable."""
    for index, lens in enumerate(LENSES):
        mine = table.loc[table["lens"] == lens].groupby("layer")["on_top"]
        _line(axes, index, 100 * mine.mean(), 100 * mine.min(), 100 * mine.max())
    last = int(table["layer"].max())
    axes.axvspan(readable_from - 0.4, last + 0.4, color="0.9", lw=0)
    axes.set_xticks(range(-1, last + 1))


def _divergence(axes: Axes, table: pd.DataFrame) -> None:
    """Means over held-out texts, with 95 % bounds; the last layer is the end itself."""
    for index, lens in enumerate(LENSES):
        # The logit lens is the same beside either kind of tuned lens.
        mine = table.loc[table["kind"] == ("full" if lens == "logit" else lens)].set_index("layer")
        column = "kl_logit" if lens == "logit" else "kl_tuned"
        _line(axes, index, mine[column], mine[f"{column}_low"], mine[f"{column}_high"])
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(table["layer"].unique()))


def _line(axes: Axes, index: int, middle: pd.Series, low: pd.Series, high: pd.Series) -> None:
    seen = look(index)
    axes.plot(
        middle.index, middle, color=seen.color, ls=seen.linestyle, marker=seen.marker,
        ms=3.5 - index / 2, lw=1.1, label=NAMES[LENSES[index]],
    )  # fmt: skip
    axes.vlines(middle.index, low, high, color=seen.color, lw=0.7)
