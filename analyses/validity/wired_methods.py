"""Findings of the methods that look within layers: heads, what is written, and direct paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from transformer_lens import HookedTransformer

import layerwise as lw
from analyses.validity.wired_truth import PlantedTruth
from layerwise.analyses.emergence.api import HALF as HALF_EFFECT
from layerwise.models.instance.kinds import Model
from layerwise.models.organisms.layout import NEEDED, WiredLayout
from layerwise.tasks import load_task

PAIRS = 2
ROUNDING = 1e-5  # of float32 in a rotated basis, in nats and in shares
HALF, MUCH = 0.5, 0.9
GRADIENT = "attribution patching: heads"
TASKS = {"retrieval": "lookup", "knowledge": "facts", "reasoning": "two-hop"}
# Method, capability, what was planted, what was found.
Row = tuple[str, str, list[int], list[int]]


def method_rows(
    model: HookedTransformer, layout: WiredLayout, options: dict[str, Any]
) -> Iterator[Row]:
    """Findings of each method beside what was planted."""
    changes = [(kind, "z") for kind in ("zero", "mean", "resample")]
    changes += [("zero", "kv_group")] if layout.n_shared > 1 else []
    for kind, site in changes:
        effects = lw.ablate(model, "all", "continuation", kind=kind, site=site, **options).effects()
        yield from _heads(effects, kind, site, layout)
    for capability in NEEDED:
        yield from _paths(model, layout, capability, options)
    estimated = lw.attribute_patches(
        model, "all", sites="z", positions="last", pairs=PAIRS, **options
    ).cells()
    yield from _gradient_rows(estimated, layout)
    scored = lw.head_scores(model, length=15, sequences=5, progress=False).summary()
    previous = number(layout, layout.previous.layer, layout.previous.head)
    numbers = _numbers(scored.loc[scored["previous_token"] > MUCH], layout)
    yield "head scores: previous-token heads", "all", [previous], numbers


def number(layout: WiredLayout, layer: int, head: int | None) -> int:
    """One number for a head (layer * n_heads + head), an MLP (after all heads), the embedding."""
    if head is None:
        return -1 if layer < 0 else layout.n_layers * layout.n_heads + int(layer)
    return int(layer) * layout.n_heads + int(head)


def _numbers(table: pd.DataFrame, layout: WiredLayout) -> list[int]:
    heads = [None if pd.isna(head) else int(head) for head in table["head"]]
    return sorted(number(layout, k, h) for k, h in zip(table["layer"], heads, strict=True))


def _heads(effects: pd.DataFrame, kind: str, site: str, layout: WiredLayout) -> Iterator[Row]:
    for capability, group in effects.groupby("capability"):
        planted = PlantedTruth(layout, str(capability)).critical_heads(site, kind)
        numbers = sorted(number(layout, spot.layer, spot.head) for spot in planted)
        found = _numbers(group.loc[group["significant"]], layout)
        what = "heads" if site == "z" else "key/value groups"
        yield f"{kind} {what}", str(capability), numbers, found


def depth_rows(results: list[Any], layout: WiredLayout) -> Iterator[Row]:
    """Half-effect depths by all methods that have one, in halves of a layer."""
    depths = lw.emergence(results, n_resamples=200).emergence
    for row in depths.loc[depths["measure"] == HALF_EFFECT].itertuples():
        truth = PlantedTruth(layout, str(row.capability))
        planted = {
            "ablation": truth.half_effect_depth, "activation patching": truth.moving_layer,
        }.get(str(row.method), truth.readable_layer)  # fmt: skip
        method = f"half-effect depth by {row.method}, {row.protocol}"
        yield method, truth.capability, [round(2 * planted)], halves(row.layer)


def halves(depth: float) -> list[int]:
    """A depth in halves of a layer, if it is within a fiftieth of one."""
    near = round(2 * depth)
    return [near] if abs(depth - near / 2) <= 0.02 else []


def attribution_rows(result: lw.AttributionResult, layout: WiredLayout) -> Iterator[Row]:
    """Attention and MLPs that are credited with part of the logit difference."""
    summary = result.summary()
    parts = summary.loc[(summary["metric"] == "logit_diff") & summary["significant"]]
    for capability, group in parts.groupby("capability"):
        writer = PlantedTruth(layout, str(capability)).readable_layer
        sublayers = group.loc[group["component"].isin(["attn_out", "mlp_out"])]
        # Attention counts from 0, MLPs after all of it.
        after = (sublayers["component"] == "mlp_out") * layout.n_layers
        found = sorted((sublayers["layer"] + after).astype(int))
        yield (
            "direct attribution: attention or MLP",
            str(capability),
            [writer + layout.n_layers],
            found,
        )


def _paths(
    model: HookedTransformer, layout: WiredLayout, capability: str, options: dict[str, Any]
) -> Iterator[Row]:
    links = PlantedTruth(layout, capability).links
    task = load_task(f"wired-{TASKS[capability]}", limit=options["limit"])
    effects = lw.patch_paths(model, task, list(links), pairs=PAIRS, progress=False).effects()
    for receiver, senders in effects.groupby("receiver", sort=False):
        planted = [number(layout, *links[str(receiver)])]
        kind = {"l": "the logits", "m": "the writing MLP", "q": "queries", "v": "values"}
        sent = _numbers(senders.loc[senders["recovered"] > HALF], layout)
        yield f"direct paths into {kind[str(receiver)[0]]}", capability, planted, sent


def _gradient_rows(cells: pd.DataFrame, layout: WiredLayout) -> Iterator[Row]:
    for capability, group in cells.groupby("capability"):
        planted = PlantedTruth(layout, str(capability))
        heads = [s for s in planted.critical_heads() if planted.recovers_by_head("z", s)]
        numbers = sorted(number(layout, spot.layer, spot.head) for spot in heads)
        credited = _numbers(group.loc[group["estimate"].abs() > 1e-3], layout)
        yield GRADIENT, str(capability), numbers, credited


def spared_first(model: Model, idle: list[int], options: dict[str, Any]) -> Iterator[Row]:
    """Layers that no capability needs turn nothing, and are the first to go, the deepest first."""
    similar = lw.similarity(model, "all", "continuation", **options)
    single = similar.angular().query("n_layers == 1")
    measures = (
        ("block influence", similar.influence(), "influence"), ("angle", single, "distance"),
    )  # fmt: skip
    for name, table, column in measures:
        most = table.groupby("layer")[column].max()
        unturned = sorted((int(layer) for layer in most.index[most < ROUNDING]), reverse=True)
        yield f"similarity by {name}: layers that turn nothing", "all", idle, unturned
    if idle:
        ways = ("greedy", "effect", "influence")
        removed = lw.removal_order(model, "all", n_removed=len(idle), by=ways, **options)
        for (way, _), steps in removed.orders.items():
            yield f"removal by {way}: layers that go first", "all", idle, list(steps[-1])
