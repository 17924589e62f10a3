"""Findings in the trained organisms, beside the layers that they were trained to need."""

from __future__ import annotations

from functools import cache

import pandas as pd

import layerwise as lw
from analyses.organism_training.plan import PLANTED
from layerwise.analyses.emergence.api import emergence

NAMES = ("organism-decoder", "organism-decoder-1", "organism-decoder-2")
N_ITEMS = 100
WRITTEN, READ = "generate", "continuation"
# How a depth follows from the layers that are needed.
EXPECTED = {
    ("ablation", "half-effect depth"): lambda needed: sum(needed) / len(needed),
    ("logit lens", "half-effect depth"): max,
    ("logit lens", "prediction depth"): max,
}


def layers() -> pd.DataFrame:
    """One row per organism, capability and layer (-1: the embedding).

    Returns:
        ``needed`` and ``readable``: what was planted; ``acc_intact``, ``acc`` and ``significant``
        when the layer is skipped and answers are generated (null at -1); ``on_top``: share of
        items whose answer is on top of the lens after the layer.
    """
    return pd.concat([_layers(name) for name in NAMES], ignore_index=True)


def depths() -> pd.DataFrame:
    """One row per organism, capability, method and measure: ``planted``, ``found``, bounds."""
    return pd.concat([_depths(name) for name in NAMES], ignore_index=True)


def planted_and_found(table: pd.DataFrame) -> pd.DataFrame:
    """By organism and capability: the layers planted, and those found by skips."""
    rows = []
    for (name, capability), group in table.groupby(["model", "capability"], sort=False):
        lists = {
            "planted": group.loc[group["needed"], "layer"].tolist(),
            "found": group.loc[group["significant"].eq(True), "layer"].tolist(),
        }
        readable = group["readable"]
        shares = {
            "least on top after": group.loc[readable, "on_top"].min(),
            "most before": group.loc[~readable, "on_top"].max(),
        }
        rows.append({"model": name, "capability": capability, **lists, **shares})
    return pd.DataFrame(rows)


@cache
def _results(name: str) -> tuple[lw.AblationResult, lw.LensResult]:
    model, options = lw.load_model(name), {"limit": N_ITEMS, "progress": False}
    skips = lw.ablate(model, "all", WRITTEN, **options)
    return skips, lw.logit_lens(model, "all", READ, **options)


def _layers(name: str) -> pd.DataFrame:
    skips, lens = _results(name)
    keys = ["capability", "layer"]
    effects = skips.effects()[[*keys, "acc_intact", "acc", "significant"]]
    read = lens.lens.assign(on_top=lens.lens["rank"] == 0).groupby(keys)["on_top"].mean()
    table = read.reset_index().merge(effects, on=keys, how="left").assign(model=name)
    needed = [k in PLANTED[c] for c, k in zip(table["capability"], table["layer"], strict=True)]
    readable = table["layer"] >= table["capability"].map(lambda c: max(PLANTED[c]))
    return table.assign(needed=needed, readable=readable)


def _depths(name: str) -> pd.DataFrame:
    found = emergence(list(_results(name))).emergence
    rows = []
    for row in found.itertuples():
        expected = EXPECTED.get((row.method, row.measure))
        if expected is not None:
            planted = float(expected(PLANTED[row.capability]))
            bounds = {"low": row.layer_low, "high": row.layer_high}
            named = {"capability": row.capability, "method": row.method, "measure": row.measure}
            rows.append({"model": name, **named, "planted": planted, "found": row.layer, **bounds})
    return pd.DataFrame(rows)
