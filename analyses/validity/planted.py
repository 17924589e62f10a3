"""Findings of each method in wired models, beside what was planted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import wired_methods
from transformer_lens import HookedTransformer
from wired_methods import ROUNDING, Row, number

import layerwise as lw
from analyses.validity.wired_truth import PlantedTruth, spare_layers
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.patching.api import patch_activations
from layerwise.models.organisms.layout import NEEDED, Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model

N_LAYOUTS, N_ITEMS, PAIRS, SEED = 6, 24, 4, 0
HALF = 0.5  # of the logit difference: recovered or not


def measure() -> pd.DataFrame:
    """One row per model, method and capability; the first model has the default layout.

    Returns:
        ``model``, ``n_layers``, ``n_heads``, ``n_shared``, ``method``, ``capability``, ``planted``
        and ``found`` (layers; for heads and senders of paths ``within.number``), ``same``.
    """
    rng = np.random.default_rng(SEED)
    layouts = [WiredLayout(), *(random_layout(rng) for _ in range(N_LAYOUTS - 1))]
    rows = []
    for which, layout in enumerate(layouts):
        model = wired_model(layout, seed=which)
        for method, capability, planted, found in _found_rows(model, layout):
            rows.append(
                {
                    "model": which, "n_layers": layout.n_layers, "n_heads": layout.n_heads,
                    "n_shared": layout.n_shared, "method": method, "capability": capability,
                    "planted": planted, "found": found, "same": planted == found,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def exact_matches(table: pd.DataFrame) -> pd.DataFrame:
    """Number of models in which each method found exactly what was planted."""
    groups = table.groupby(["method", "capability"], sort=False)["same"]
    return groups.agg(models="count", exact="sum").reset_index()


def random_layout(rng: np.random.Generator) -> WiredLayout:
    """Mechanisms in any order that works, with idle layers between them."""
    n_layers, n_heads = int(rng.integers(6, 13)), int(rng.integers(1, 5))
    places = sorted(rng.permutation(n_layers)[:5].tolist())
    facts = places.pop(int(rng.integers(5)))
    names = ("previous", "look_up", "second_hop", "gate", "facts")
    spots = [Spot(layer, int(rng.integers(n_heads))) for layer in (*places, facts)]
    shared = int(rng.choice([n for n in (1, 2, 3, 4) if n_heads % n == 0]))
    return WiredLayout(n_layers, n_heads, **dict(zip(names, spots, strict=True)), n_shared=shared)


def _found_rows(model: HookedTransformer, layout: WiredLayout) -> Iterator[Row]:
    options = {"limit": N_ITEMS, "progress": False}
    skips = {
        site: lw.ablate(model, "all", ("continuation", "generate"), site=site, **options)
        for site in ("layer", "attn_out", "mlp_out")
    }
    for site, result in skips.items():
        yield from _ablation_rows(result.effects(), site, layout)
    for site in ("attn_out", "mlp_out"):
        result = lw.ablate(model, "all", "continuation", kind="resample", site=site, **options)
        yield from _ablation_rows(result.effects(), site, layout)
        result = lw.ablate(model, "all", "continuation", kind="noise", site=site, **options)
        yield from _noisy(result.effects(), site, layout)
    lens = logit_lens(model, "all", "continuation", **options)
    yield from _lens_rows(lens.lens, layout)
    yield from _prediction_depth_rows(lens.prediction_depths(), layout)
    sites = ("resid_pre", "z")
    patched = patch_activations(model, "all", sites=sites, positions="last", pairs=PAIRS, **options)
    yield from _patching_rows(patched.patching, layout)
    yield from wired_methods.method_rows(model, layout, options)
    written = lw.attribution(model, "all", "continuation", **options)
    yield from wired_methods.attribution_rows(written, layout)
    yield from wired_methods.depth_rows([skips["layer"], lens, patched, written], layout)
    yield from wired_methods.spared_first(model, spare_layers(layout, *NEEDED), options)


def _ablation_rows(effects: pd.DataFrame, site: str, layout: WiredLayout) -> Iterator[Row]:
    for (protocol, capability), group in effects.groupby(["protocol", "capability"]):
        found = sorted(int(layer) for layer in group.loc[group["significant"], "layer"])
        kind = str(group["kind"].iloc[0])
        planted = sorted(PlantedTruth(layout, str(capability)).critical(site, kind))
        yield f"{kind} {site}, {protocol}", str(capability), planted, found


def _noisy(effects: pd.DataFrame, site: str, layout: WiredLayout) -> Iterator[Row]:
    """Noise is like what a site writes, so it does nothing where nothing is written.

    What it costs in the chain depends on what reads it, and is not part of the truth.
    """
    for capability, group in effects.groupby("capability"):
        chain = PlantedTruth(layout, str(capability)).critical(site)
        changed = set(group.loc[group["nats"].abs() > ROUNDING, "layer"].astype(int))
        yield (
            f"noise {site}: layers outside of the chain",
            str(capability),
            [],
            sorted(changed - chain),
        )


def _lens_rows(lens: pd.DataFrame, layout: WiredLayout) -> Iterator[Row]:
    for capability, group in lens.groupby("capability"):
        top = group.assign(top=group["rank"] == 0).groupby("layer")["top"].all()
        found = [int(layer) for layer in top.index[top]]
        planted = list(range(PlantedTruth(layout, str(capability)).readable_layer, layout.n_layers))
        yield "logit lens: answer on top", str(capability), planted, found


def _prediction_depth_rows(depths: pd.DataFrame, layout: WiredLayout) -> Iterator[Row]:
    for capability, group in depths.loc[depths["right"]].groupby("capability"):
        planted = [PlantedTruth(layout, str(capability)).readable_layer]
        yield "prediction depth", str(capability), planted, sorted(set(group["layer"].astype(int)))


def _patching_rows(patching: pd.DataFrame, layout: WiredLayout) -> Iterator[Row]:
    for (site, capability), group in patching.groupby(["site", "capability"]):
        truth = PlantedTruth(layout, str(capability))
        if site == "resid_pre":
            carried = group.groupby("layer")["recovered"].min() > HALF
            found = [int(layer) for layer in carried.index[carried]]
            yield "patch resid_pre at last", str(capability), _layers_with_answer(truth), found
        else:
            by_head = group.groupby(["layer", "head"])["recovered"].min()
            found = [number(layout, *spot) for spot in by_head.index[by_head > HALF]]
            yield "patch head at last", str(capability), _heads(truth), found


def _layers_with_answer(truth: PlantedTruth) -> list[int]:
    layers = range(truth.layout.n_layers)
    return [k for k in layers if truth.recovers("resid_pre", k, at_last=True)]


def _heads(truth: PlantedTruth) -> list[int]:
    layout = truth.layout
    spots = [Spot(k, head) for k in range(layout.n_layers) for head in range(layout.n_heads)]
    found = [spot for spot in spots if truth.recovers_by_head("z", spot)]
    return [number(layout, spot.layer, spot.head) for spot in found]
