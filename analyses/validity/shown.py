"""The figures of this study; they only read its saved tables."""

from __future__ import annotations

from pathlib import Path

import nothing
import pandas as pd
from matplotlib.figure import Figure

from layerwise.models.organisms.layout import NEEDED, WiredLayout
from layerwise.report.figures.save import save_figure
from layerwise.report.figures.style import COLUMN_WIDTH, FULL_WIDTH, look, style

NOMINAL = 0.05


def draw(results: Path) -> None:
    """Draw all figures into ``results/figures``."""
    with style():
        planted = pd.read_parquet(results / "planted.parquet")
        save_figure(planted_and_found(planted), results / "figures", "planted_and_found")
        false = nothing.told(pd.read_parquet(results / "nothing.parquet"))
        save_figure(false_claims(false), results / "figures", "false_claims")


def planted_and_found(table: pd.DataFrame) -> Figure:
    """The layers planted and found in the default layout, by method and capability."""
    by_head = table["method"].str.startswith("patch head")
    default = table.loc[(table["model"] == 0) & ~by_head]
    methods = [m for m in dict.fromkeys(default["method"]) if not m.startswith("greedy")]
    figure = Figure(figsize=(FULL_WIDTH, 0.6 + 0.24 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(NEEDED), sharey=True, sharex=True)
    for axes, capability in zip(panels, NEEDED, strict=True):
        mine = default.loc[default["capability"] == capability].set_index("method")
        for column, marker in (("planted", "s"), ("found", "o")):
            spots = [(k, y) for y, m in enumerate(methods) for k in mine.loc[m, column]]
            filled = column == "found"
            axes.scatter(
                *zip(*spots, strict=True), marker=marker, s=14 if filled else 52,
                color=look(0).color if filled else "none", edgecolor=look(0 if filled else 1).color,
                label=column,
            )  # fmt: skip
        axes.set_title(capability, loc="left")
        axes.set_xlabel("layer")
        axes.set_xticks(range(WiredLayout().n_layers))
        axes.set_xlim(-0.6, WiredLayout().n_layers - 0.4)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def false_claims(told: pd.DataFrame) -> Figure:
    """The share of models in which a layer is said to matter though none does."""
    figure = Figure(figsize=(COLUMN_WIDTH * 1.4, 1.7), layout="constrained")
    axes = figure.subplots()
    places = range(len(told))
    bars = [told["rate"] - told["low"], told["high"] - told["rate"]]
    axes.errorbar(
        100 * told["rate"], list(places), xerr=[100 * bar for bar in bars], fmt="o",
        color=look(0).color, capsize=2,
    )  # fmt: skip
    axes.axvline(100 * NOMINAL, color="0.3", linestyle="--", linewidth=0.8)
    axes.text(100 * NOMINAL, -0.75, " nominal rate", ha="left", va="center", fontsize="small")
    axes.set_yticks(list(places), [case.replace(", ", ",\n") for case in told["case"]])
    axes.set_ylim(len(told) - 0.5, -1)
    axes.set_xlim(-0.3, 8)
    axes.set_xlabel("models with a false claim (%)")
    return figure
