"""The figures of this study; they only read its saved tables."""

from __future__ import annotations

from pathlib import Path

import nothing
import pandas as pd
from matplotlib.figure import Figure
from shown_tuned import tuned_lenses

from layerwise.models.organisms.layout import NEEDED, WiredLayout
from layerwise.models.organisms.plan import N_LAYERS, PLANTED
from layerwise.report.figures.save import save_figure
from layerwise.report.figures.style import COLUMN_WIDTH, FULL_WIDTH, look, style

NOMINAL = 0.05
# Methods that name layers, and methods that name heads.
LAYERS = ("skip layer", "skip attn", "skip mlp", "resample attn", "resample mlp", "logit lens",
          "prediction depth", "patch resid_pre")  # fmt: skip
HEADS = ("zero heads", "mean heads", "resample heads", "patch head", "attribution patching")


def draw(results: Path) -> None:
    """Draw all figures into ``results/figures``."""
    with style():
        planted = pd.read_parquet(results / "planted.parquet")
        save_figure(planted_and_found(planted, LAYERS), results / "figures", "planted_and_found")
        save_figure(planted_and_found(planted, HEADS), results / "figures", "planted_heads")
        trained = pd.read_parquet(results / "trained_layers.parquet")
        save_figure(trained_layers(trained), results / "figures", "trained_layers")
        read, far = (
            pd.read_parquet(results / f"tuned_{n}.parquet") for n in ("readings", "layers")
        )
        save_figure(tuned_lenses(read, far), results / "figures", "tuned_lens")
        false = nothing.told(pd.read_parquet(results / "nothing.parquet"))
        save_figure(false_claims(false), results / "figures", "false_claims")


def planted_and_found(table: pd.DataFrame, wanted: tuple[str, ...]) -> Figure:
    """The layers or heads planted and found in the default layout, by method and capability."""
    default = table.loc[(table["model"] == 0) & table["method"].str.startswith(wanted)]
    methods = sorted(set(default["method"]), key=lambda m: (_place(m, wanted), m))
    n_heads = WiredLayout().n_heads if wanted is HEADS else 1
    figure = Figure(figsize=(FULL_WIDTH, 0.7 + 0.24 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(NEEDED), sharey=True, sharex=True)
    for axes, capability in zip(panels, NEEDED, strict=True):
        mine = default.loc[default["capability"] == capability].set_index("method")
        for column, marker in (("planted", "s"), ("found", "o")):
            spots = [(k / n_heads, y) for y, m in enumerate(methods) for k in mine.loc[m, column]]
            filled = column == "found"
            axes.scatter(
                *zip(*spots, strict=True), marker=marker, s=14 if filled else 52,
                color=look(0).color if filled else "none", edgecolor=look(0 if filled else 1).color,
                label=column,
            )  # fmt: skip
        axes.set_title(capability, loc="left")
        axes.set_xlabel("layer" if n_heads == 1 else "layer (heads side by side)")
        axes.set_xticks(range(WiredLayout().n_layers))
        if n_heads > 1:
            axes.grid(axis="x", linewidth=0.4)
        axes.set_xlim(-0.6, WiredLayout().n_layers - 0.4)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _place(method: str, wanted: tuple[str, ...]) -> int:
    return next(i for i, start in enumerate(wanted) if method.startswith(start))


def trained_layers(table: pd.DataFrame) -> Figure:
    """What the lens reads after each layer, and what is lost without it, in each organism."""
    capabilities = sorted(PLANTED, key=lambda c: max(PLANTED[c]))
    figure = Figure(figsize=(FULL_WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(2, len(capabilities), sharex=True, sharey=True)
    for number, (above, below) in enumerate(panels.T):
        capability = capabilities[number]
        for index, (name, mine) in enumerate(table.groupby("model", sort=False)):
            lines = mine.loc[mine["capability"] == capability].sort_values("layer")
            for axes, column in ((above, "on_top"), (below, "acc")):
                axes.plot(
                    lines["layer"], 100 * lines[column], color=look(index).color,
                    ls=look(index).linestyle, marker=look(index).marker, ms=3.5 - index / 2,
                    lw=1.1, label=name,
                )  # fmt: skip
        above.axvspan(max(PLANTED[capability]) - 0.4, N_LAYERS - 0.6, color="0.9", lw=0)
        for layer in PLANTED[capability]:
            below.axvspan(layer - 0.4, layer + 0.4, color="0.9", lw=0)
        above.set_title(capability, loc="left")
        below.set_xlabel("layer (-1: embedding)")
        below.set_xticks(range(-1, N_LAYERS))
    panels[0, 0].set_ylabel("answer on top\nafter layer (% of items)")
    panels[1, 0].set_ylabel("right without\nlayer (% of items)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
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
