"""Findings of the methods beside ablation and lenses in the trained organisms.

What each must find follows from the layers planted (``RULES``), and was written down before
anything was computed. Where nothing follows, what is found is shown and not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from transformer_lens import HookedTransformer

import layerwise as lw
from analyses.organism_training.plan import N_LAYERS, PLANTED
from layerwise.analyses.emergence.api import HALF, emergence
from layerwise.analyses.patching.api import patch_activations

NAMES = ("organism-decoder", "organism-decoder-1", "organism-decoder-2")
READ, WRITTEN, N_ITEMS, PAIRS = "continuation", "generate", 40, 16
MUCH, LITTLE = 0.5, 0.1  # of the logit difference
SUITES = {"retrieval": "lookup", "knowledge": "facts", "reasoning": "two-hop",
          "coherence": "brackets"}  # fmt: skip
Layers = list[int]
Row = tuple[str, str, Layers, Layers]


def is_same(planted: Layers, found: Layers) -> bool:
    """Exactly these layers."""
    return planted == found


def is_within(planted: Layers, found: Layers) -> bool:
    """Some of these layers, and no others."""
    return bool(found) and set(found) <= set(planted)


# By method, how what is found must be to what was planted; None where nothing follows from it.
RULES: dict[str, Callable[[Layers, Layers], bool] | None] = {
    # The last position lacks what is asked about before the first planted layer and, since any
    # other layer may be missing, has all that it needs behind the last one.
    "patch resid_pre: layers that bring a tenth or more": is_within,
    # What is written at the last position in the layers of the chain is enough.
    "patch attn_out or mlp_out: layers that recover a half": is_within,
    "patch heads: layers with a head that recovers a tenth": is_within,
    "attribution patching: layers with a head credited with a tenth": is_within,
    # It must be readable by the unembedding after the last planted layer.
    "direct attribution: layer that adds most": is_same,
    "path patching into the logits: layer of the strongest sender": is_same,
    "half-effect depth by direct attribution": is_same,
    "half-effect depth by patching": is_within,
    # Layers that a capability does not need go first, and nothing is lost until all are gone.
    "removal by greedy: layers left before a significant loss": is_same,
    "removal by effect: layers left before a significant loss": is_same,
    # Which layers turn the stream, nobody planted.
    "removal by influence: layers left before a significant loss": None,
    "similarity: as many layers of most influence as planted": None,
    # On random words that are repeated: look-ups were planted, their form on other texts was not.
    "head scores: layers with an induction head": None,
}


def measure() -> pd.DataFrame:
    """One row per organism, method and capability.

    Returns:
        ``model``, ``method``, ``capability``, ``planted`` and ``found`` (layers), ``same``:
        whether it is as ``RULES`` say; null where they say nothing.
    """
    rows = []
    for name in NAMES:
        for method, capability, planted, found in _found_rows(lw.load_model(name)):
            rule = RULES[method]
            named = {"model": name, "method": method, "capability": capability}
            verdict = None if rule is None else rule(planted, found)
            rows.append({**named, "planted": planted, "found": found, "same": verdict})
    return pd.DataFrame(rows).astype({"same": "boolean"})


def expected_counts(table: pd.DataFrame) -> pd.DataFrame:
    """By method and capability, in how many organisms it is as expected, and what is found."""
    groups = table.groupby(["method", "capability"], sort=False)
    return groups.agg(as_expected=("same", "sum"), judged=("same", "count"), found=("found", list))


def _found_rows(model: HookedTransformer) -> Iterator[Row]:
    tasks = [f"organism-{suite}" for suite in SUITES.values()]
    options = {"limit": N_ITEMS, "progress": False}
    sites = ("resid_pre", "attn_out", "mlp_out", "z")
    patched = patch_activations(model, tasks, sites=sites, positions="last", pairs=PAIRS, **options)
    written = lw.attribution(model, tasks, READ, **options)
    placed = emergence([patched, written], n_resamples=500).emergence
    yield from _patching_rows(patched.summary())
    yield from _gradient_rows(
        lw.attribute_patches(model, tasks, sites="z", positions="last", sample=3, **options)
    )
    yield from _attribution_rows(written.summary())
    yield from _sender_rows(lw.patch_paths(model, tasks, pairs=PAIRS, **options).effects())
    for name, method in (("activation patching", "patching"), ("direct attribution",) * 2):
        mine = placed.loc[(placed["method"] == name) & (placed["measure"] == HALF)]
        for row in mine.itertuples():
            planted = _planted_layers(row.capability)
            planted = planted if method == "patching" else planted[-1:]
            yield f"half-effect depth by {method}", row.capability, planted, [round(row.layer)]
    yield from _removal_rows(model, options)
    similar = lw.similarity(model, tasks, READ, **options).influence()
    for capability, group in similar.groupby("capability"):
        planted = _planted_layers(capability)
        most = group.groupby("layer")["influence"].mean().nlargest(len(planted))
        yield (
            "similarity: as many layers of most influence as planted",
            str(capability), planted, sorted(map(int, most.index)),
        )  # fmt: skip
    heads = lw.head_scores(model, progress=False).summary()
    yield (
        "head scores: layers with an induction head", "retrieval", [3],
        _layers(heads.loc[heads["induction_head"]]),
    )  # fmt: skip


def _patching_rows(summary: pd.DataFrame) -> Iterator[Row]:
    """At the last position; after the last layer all is recovered by definition."""
    for capability, group in summary.groupby("capability"):
        told = str(capability), _planted_layers(capability)
        stream = group.loc[group["site"] == "resid_pre"].sort_values("layer")["recovered"]
        brought = np.flatnonzero(np.diff([*stream, 1.0]) >= LITTLE).tolist()
        yield "patch resid_pre: layers that bring a tenth or more", *told, brought
        sure = group.loc[group["significant"]]
        outputs = sure["site"].isin(["attn_out", "mlp_out"]) & (sure["recovered"] > MUCH)
        yield "patch attn_out or mlp_out: layers that recover a half", *told, _layers(sure[outputs])
        heads = (sure["site"] == "z") & (sure["recovered"] > LITTLE)
        yield "patch heads: layers with a head that recovers a tenth", *told, _layers(sure[heads])


def _gradient_rows(estimated: lw.AttributionPatchingResult) -> Iterator[Row]:
    table = estimated.attribution_patching
    whole = (table["clean_diff"] - table["corrupted_diff"]).groupby(table["capability"]).mean()
    for capability, cells in estimated.cells().groupby("capability"):
        most = cells.loc[cells["estimate"] > LITTLE * whole[capability]]
        method = "attribution patching: layers with a head credited with a tenth"
        yield method, str(capability), _planted_layers(capability), _layers(most)


def _attribution_rows(summary: pd.DataFrame) -> Iterator[Row]:
    parts = (summary["component"] == "layer") & (summary["metric"] == "logit_diff")
    for capability, group in summary.loc[parts & summary["significant"]].groupby("capability"):
        most = _layers(group.nlargest(1, "value"))
        yield "direct attribution: layer that adds most", str(capability), _last(capability), most


def _sender_rows(effects: pd.DataFrame) -> Iterator[Row]:
    for capability, group in effects.loc[effects["significant"]].groupby("capability"):
        most = _layers(group.nlargest(1, "recovered"))
        method = "path patching into the logits: layer of the strongest sender"
        yield method, str(capability), _last(capability), most


def _removal_rows(model: HookedTransformer, options: dict[str, Any]) -> Iterator[Row]:
    ways = ("greedy", "effect", "influence")
    for capability, suite in SUITES.items():
        result = lw.removal_order(
            model, f"organism-{suite}", WRITTEN, n_removed=N_LAYERS - 1, by=ways, **options
        )
        for way, steps in result.curves().groupby("by", sort=False):
            lost = steps.loc[steps["significant"] & (steps["share_lost"] > 0), "step"]
            free = steps.loc[steps["step"] < lost.min()] if len(lost) else steps
            gone = set(free.sort_values("step")["layers"].iloc[-1]) if len(free) else set()
            method = f"removal by {way}: layers left before a significant loss"
            yield (
                method,
                capability,
                _planted_layers(capability),
                sorted(set(range(N_LAYERS)) - gone),
            )


def _last(capability: object) -> Layers:
    return _planted_layers(capability)[-1:]


def _planted_layers(capability: object) -> Layers:
    return list(PLANTED[str(capability)])


def _layers(table: pd.DataFrame) -> Layers:
    return sorted({int(layer) for layer in table["layer"]})
