"""Readings of tuned lenses where it is known what can be read, and where nothing can."""

from __future__ import annotations

from functools import cache

import null_models
import pandas as pd

import layerwise as lw
from analyses.organism_training.plan import PLANTED
from analyses.validity.wired_truth import PlantedTruth
from layerwise.analyses.emergence.api import SETTLED, emergence
from layerwise.analyses.tuned_lens.api import KINDS, TrainedLens, train_lens
from layerwise.models.organisms.layout import WiredLayout
from layerwise.tasks import load_task

WIRED = "wired-decoder"
ORGANISMS = ("organism-decoder", "organism-decoder-1", "organism-decoder-2")
LENSES = ("logit", *KINDS)
READ, N_ITEMS = "continuation", 100
# Random models are small: a quarter of the usual steps brings their lenses near.
N_MODELS, STEPS = 100, 50
TUNED = "tuned lens"


def layers() -> pd.DataFrame:
    """KL from the final distribution on held-out texts, per model, kind of lens and layer."""
    tables = [
        _train_lens(name, kind).result.layers().assign(model=name)
        for name in (*ORGANISMS, WIRED)
        for kind in KINDS
    ]
    return pd.concat(tables, ignore_index=True)


def readings() -> pd.DataFrame:
    """One row per model, lens, capability and layer (-1: the embedding).

    Returns:
        ``on_top``: share of items whose answer is on top; ``there``: whether it was brought to
        the last position at this depth (known of wired models only); ``readable``: whether it
        is planted to be readable.
    """
    found = [_readings(name, lens) for name in (*ORGANISMS, WIRED) for lens in LENSES]
    return pd.concat(found, ignore_index=True).astype({"there": "boolean"})


def depths() -> pd.DataFrame:
    """Prediction depth per model, lens and capability, in layers, with 95 % bounds."""
    rows = []
    for name in (*ORGANISMS, WIRED):
        for lens in LENSES:
            found = emergence([_read_lens(name, lens)]).emergence
            for row in found.loc[found["measure"] == SETTLED].itertuples():
                bounds = {"low": row.layer_low, "high": row.layer_high}
                named = {"model": name, "lens": lens, "capability": row.capability}
                rows.append({**named, "found": row.layer, **bounds})
    return pd.DataFrame(rows)


def untrained_rows(n_models: int = N_MODELS) -> pd.DataFrame:
    """One row per randomly initialised model that a tuned lens was trained for.

    Returns:
        ``signal``; ``lower``: at how many of the ``n_depths`` the lens is nearer than the logit
        lens; ``claimed``: depths that emergence claims by the tuned lens beside ablation;
        ``claimed_alone``: when it is given nothing but the lens.
    """
    rows = []
    for number in range(n_models):
        model, task = (
            null_models.untrained_model(number),
            load_task("wired-lookup", limit=null_models.N_ITEMS),
        )
        trained = train_lens(model, task, steps=STEPS, progress=False)
        lens = lw.logit_lens(model, task, READ, lens="tuned", tuned=trained.lens, progress=False)
        skips = lw.ablate(model, task, READ, progress=False)
        nearer = trained.result.layers()["lower"]
        rows.append(
            {
                "model": number, "signal": bool(skips.signal()["signal"].all()),
                "n_depths": len(nearer), "lower": int(nearer.sum()),
                "claimed": _n_claims([skips, lens]), "claimed_alone": _n_claims([lens]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def reading_extremes(table: pd.DataFrame) -> pd.DataFrame:
    """By model, lens and capability: least on top where planted readable, most elsewhere."""
    rows = []
    for key, group in table.groupby(["model", "lens", "capability"], sort=False):
        before = {"most before": group.loc[~group["readable"], "on_top"].max()}
        if group["there"].notna().all():
            before["most before it is there"] = group.loc[group["there"].eq(False), "on_top"].max()
        least = {"least on top after": group.loc[group["readable"], "on_top"].min()}
        rows.append(dict(zip(("model", "lens", "capability"), key, strict=True)) | least | before)
    return pd.DataFrame(rows)


def untrained_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Number of random models with a claim, and how many depths are nearer."""
    counts = {name: int((table[name] > 0).sum()) for name in ("claimed", "claimed_alone")}
    nearer = float(table["lower"].sum() / table["n_depths"].sum())
    signal = int(table["signal"].sum())
    return pd.DataFrame([{"models": len(table), "signal": signal, **counts, "nearer": nearer}])


def _n_claims(results: list[lw.AblationResult | lw.LensResult]) -> int:
    return int(emergence(results).emergence["method"].eq(TUNED).sum())


@cache
def _train_lens(name: str, kind: str) -> TrainedLens:
    return train_lens(lw.load_model(name), "all", kind=kind, limit=N_ITEMS, progress=False)


@cache
def _read_lens(name: str, lens: str) -> lw.LensResult:
    model, options = lw.load_model(name), {"limit": N_ITEMS, "progress": False}
    if lens == "logit":
        return lw.logit_lens(model, "all", READ, **options)
    return lw.logit_lens(
        model, "all", READ, lens="tuned", tuned=_train_lens(name, lens).lens, **options
    )


def _readings(name: str, lens: str) -> pd.DataFrame:
    table = _read_lens(name, lens).lens
    on_top = table.assign(on_top=table["rank"] == 0).groupby(["capability", "layer"])["on_top"]
    rows = []
    for (capability, layer), share in on_top.mean().items():
        brought, readable = _planted_layers(name, str(capability))
        there = None if brought is None else layer >= brought
        planted = {"there": there, "readable": layer >= readable}
        named = {"model": name, "lens": lens, "capability": capability, "layer": layer}
        rows.append({**named, "on_top": share, **planted})
    return pd.DataFrame(rows)


def _planted_layers(name: str, capability: str) -> tuple[int | None, int]:
    """The layers after which the answer is at the last position, if known, and readable."""
    if name == WIRED:
        truth = PlantedTruth(WiredLayout(), capability)
        return truth.bringing_layer, truth.readable_layer
    return None, max(PLANTED[capability])
