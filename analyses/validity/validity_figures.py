"""The figures of this study; they only read its saved tables."""

from __future__ import annotations

from pathlib import Path

import null_models
import pandas as pd
from depth_figures import depth_candidates, depth_grid
from matplotlib.figure import Figure
from planted_figures import (
    HEADS,
    LAYERS,
    found_in_organisms,
    planted_and_found_figure,
    planted_in_both_stacks,
)  # fmt: skip
from tuned_lens_figures import tuned_lenses

from analyses.organism_training.plan import N_LAYERS, PLANTED
from layerwise.presentation.save import save_figure
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, style

NOMINAL = 0.05


def draw(results: Path) -> None:
    """Draw all figures into ``results/figures``."""
    with style():
        planted = pd.read_parquet(results / "planted.parquet")
        save_figure(
            planted_and_found_figure(planted, LAYERS), results / "figures", "planted_and_found"
        )
        save_figure(planted_and_found_figure(planted, HEADS), results / "figures", "planted_heads")
        both = planted_in_both_stacks(pd.read_parquet(results / "planted_seq2seq.parquet"))
        save_figure(both, results / "figures", "planted_seq2seq")
        trained = pd.read_parquet(results / "trained_layers.parquet")
        save_figure(trained_layers(trained), results / "figures", "trained_layers")
        others = found_in_organisms(pd.read_parquet(results / "trained_methods.parquet"))
        save_figure(others, results / "figures", "trained_methods")
        read, far = (
            pd.read_parquet(results / f"tuned_{n}.parquet") for n in ("readings", "layers")
        )
        save_figure(tuned_lenses(read, far), results / "figures", "tuned_lens")
        false = null_models.false_claim_rates(pd.read_parquet(results / "nothing.parquet"))
        save_figure(false_claims(false), results / "figures", "false_claims")
        names = ("intervals", "orders", "candidates")
        depths = {n: pd.read_parquet(results / f"depth_{n}.parquet") for n in names}
        grid = depth_grid(depths["intervals"], depths["orders"])
        save_figure(grid, results / "figures", "depth_grid")
        tried = depth_candidates(depths["candidates"])
        save_figure(tried, results / "figures", "depth_candidates")


def trained_layers(table: pd.DataFrame) -> Figure:
    """Lens readings after each layer, and losses without it, in each organism."""
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
