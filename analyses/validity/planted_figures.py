"""Figures of what was planted in wired models beside what was found, from the saved tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.organism_training.plan import N_LAYERS, PLANTED
from layerwise.models.organisms.layout import NEEDED, WiredLayout
from layerwise.presentation.layer_axis import divide_stacks
from layerwise.presentation.style import FULL_WIDTH, look
from layerwise.presentation.wording import protocol_words

# Methods that name layers, and methods that name heads.
LAYERS = ("skip layer", "skip attn", "skip mlp", "resample attn", "resample mlp", "logit lens",
          "prediction depth", "patch resid_pre")  # fmt: skip
BOTH_STACKS = ("skip", "resample", "zero", "logit lens", "decoder lens", "prediction", "patch")
HEADS = ("zero heads", "mean heads", "resample heads", "patch head", "attribution patching")


def planted_and_found_figure(table: pd.DataFrame, wanted: tuple[str, ...]) -> Figure:
    """The layers or heads planted and found in the default layout, by method and capability."""
    default = table.loc[(table["model"] == 0) & table["method"].str.startswith(wanted)]
    methods = sorted(set(default["method"]), key=lambda m: (_place(m, wanted), m))
    n_heads = WiredLayout().n_heads if wanted is HEADS else 1
    figure, panels = _panels(default, methods, [n_heads] * len(methods))
    for axes in panels:
        axes.set_xlabel("layer" if n_heads == 1 else "layer (heads side by side)")
        axes.set_xticks(range(WiredLayout().n_layers))
        if n_heads > 1:
            axes.grid(axis="x", linewidth=0.4)
        axes.set_xlim(-0.6, WiredLayout().n_layers - 0.4)
    return figure


def planted_in_both_stacks(table: pd.DataFrame) -> Figure:
    """The same for the encoder-decoder: layers, and below them heads side by side."""
    default = table.loc[(table["model"] == 0) & table["method"].str.startswith(BOTH_STACKS)]
    default = default.loc[~default["method"].str.endswith("cross_pattern")]  # nothing, nowhere
    methods = sorted(dict.fromkeys(default["method"]), key=_by_head)
    first, n_layers, n_heads = default[["n_encoder_layers", "n_layers", "n_heads"]].iloc[0]
    by_head = [_by_head(method) for method in methods]
    figure, panels = _panels(default, methods, [n_heads if yes else 1 for yes in by_head])
    for axes in panels:
        axes.set_xticks(range(n_layers), [k if k < first else k - first for k in range(n_layers)])
        axes.tick_params(axis="x", labelsize="small")
        divide_stacks(axes, "x", -0.5, first - 0.5, n_layers - 0.5)
        axes.axhline(by_head.index(True) - 0.5, color="0.6", linewidth=0.5)
        axes.set_xlim(-0.6, n_layers - 0.4)
    figure.supxlabel("layer (below the line with its heads side by side)", fontsize="medium")
    return figure


def found_in_organisms(table: pd.DataFrame) -> Figure:
    """The layers found in the trained organisms, larger where more of them agree."""
    mine = table.loc[table["capability"].isin(PLANTED) & ~table["method"].str.startswith("head")]
    methods, n_models = list(dict.fromkeys(mine["method"])), mine["model"].nunique()
    capabilities = sorted(PLANTED, key=lambda c: max(PLANTED[c]))
    figure = Figure(figsize=(FULL_WIDTH, 0.8 + 0.24 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(capabilities), sharey=True)
    for axes, capability in zip(panels, capabilities, strict=True):
        for layer in PLANTED[capability]:
            axes.axvspan(layer - 0.4, layer + 0.4, color="0.9", lw=0)
        found = mine.loc[mine["capability"] == capability].explode("found").dropna(subset="found")
        counts = found.groupby(["method", "found"]).size()
        for models in range(1, n_models + 1):
            spots = [(k, methods.index(m)) for (m, k), n in counts.items() if n == models]
            if spots:
                axes.scatter(*zip(*spots, strict=True), s=12 * models, color=look(0).color)
        axes.set_title(capability, loc="left")
        axes.set_xticks(range(N_LAYERS))
        axes.set_xlim(-0.6, N_LAYERS - 0.4)
        axes.set_xlabel("layer")
    panels[0].set_yticks(range(len(methods)), [method.replace(": ", ":\n") for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    for models in range(1, n_models + 1):
        label = f"found in {models} of {n_models}"
        panels[0].scatter([], [], s=12 * models, color=look(0).color, label=label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=n_models)
    return figure


def _panels(
    table: pd.DataFrame, methods: Sequence[str], per_layer: Sequence[int]
) -> tuple[Figure, list[Axes]]:
    """A panel for each capability, a row for each method; its numbers are so many a layer."""
    figure = Figure(figsize=(FULL_WIDTH, 0.7 + 0.24 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(NEEDED), sharey=True, sharex=True)
    for axes, capability in zip(panels, NEEDED, strict=True):
        mine = table.loc[table["capability"] == capability].set_index("method")
        rows = list(enumerate(zip(methods, per_layer, strict=True)))
        for column, marker in (("planted", "s"), ("found", "o")):
            spots = [(k / n, y) for y, (m, n) in rows for k in mine.loc[m, column]]
            filled = column == "found"
            axes.scatter(
                *zip(*spots, strict=True), marker=marker, s=14 if filled else 52,
                color=look(0).color if filled else "none", edgecolor=look(0 if filled else 1).color,
                label=column,
            )  # fmt: skip
        axes.set_title(capability, loc="left")
    panels[0].set_yticks(range(len(methods)), list(map(_in_words, methods)))
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure, list(panels)


def _in_words(method: str) -> str:
    """A method with its way of scoring as figures name it."""
    return ", ".join(map(protocol_words, method.split(", ")))


def _by_head(method: str) -> bool:
    """True if a method names heads: its site is one."""
    return method.split(",")[0].split()[-1] in ("z", "cross_z")


def _place(method: str, wanted: tuple[str, ...]) -> int:
    return next(i for i, start in enumerate(wanted) if method.startswith(start))
