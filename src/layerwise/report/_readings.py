"""What each method says of a layer or a sublayer, by task and protocol, as columns of text.

Which of them stand together, and under which layer, is settled in ``_layers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.ablation.saved_effects import ablations, effects_of
from layerwise.analyses.shared.lens_names import LENS_ORDER
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.section import bounds
from layerwise.presentation.wording import (
    SUBLAYER_WORDS,
    capitalised,
    doing,
    in_order,
    interval,
    number,
)
from layerwise.stats.items.clusters import clusters_of
from layerwise.storage.run_tables import RunTables

Place = tuple[int, str, str]
SURE, NO_SIGNAL = "•", "no signal"
_RESAMPLES = 2000


@dataclass(frozen=True)
class MethodColumn:
    """A column: what one method says at each layer, task and protocol that it was used on."""

    name: str
    cells: dict[Place, str]


def readings(run: RunTables, sublayer: str | None) -> dict[str, list[MethodColumn]]:
    """What is known of whole layers, or of one sublayer of each: when changed, and as it is."""
    changed = [*_ablations(run, sublayer), *_patchings(run, sublayer)]
    whole = sublayer is None
    read = [*_lenses(run), *_settled(run), *_similarities(run)] if whole else _added(run, sublayer)
    return {"when it is changed": changed, "what is read there": list(read)}


def _belongs(site: str, sublayer: str | None) -> bool:
    return site == sublayer if sublayer else site == "layer" or site.startswith("resid_")


def _ablations(run: RunTables, sublayer: str | None) -> Iterator[MethodColumn]:
    for kind, site in ablations(run):
        if _belongs(site, sublayer):
            effects = effects_of(run, kind, site)
            action = capitalised(doing(kind, "layer" if site in SUBLAYER_WORDS else site, "it"))
            cells = {_place(row): _lost(row) for row in records(effects)}
            for layer in layers_of(effects):
                cells = {(layer, *key): NO_SIGNAL for key in _silent(run)} | cells
            yield MethodColumn(f"{action}: share lost (%)", cells)


def _silent(run: RunTables) -> list[tuple[str, str]]:
    signal = run.table("signal")
    if signal is None:
        return []
    return [(row["task"], row["protocol"]) for row in records(rows(signal, signal=False))]


def _place(row: dict[str, Any]) -> Place:
    return int(row["layer"]), str(row["task"]), str(row["protocol"])


def _lost(row: dict[str, Any]) -> str:
    return marked(row, "share_lost", "share", 100) if row["signal"] else NO_SIGNAL


def marked(row: dict[str, Any], middle: str, ends: str, scale: int = 1, digits: int = 0) -> str:
    """An estimate with its interval, and a mark if it is significant."""
    mark = f" {SURE}" if row["significant"] else ""
    return bounds(row, middle, f"{ends}_low", f"{ends}_high", scale, digits) + mark


def _patchings(run: RunTables, sublayer: str | None) -> Iterator[MethodColumn]:
    patching = run.table("patching_summary")
    if patching is None:
        return
    table = rows(patching, site=[s for s in set(patching["site"]) if _belongs(s, sublayer)])
    verbs = {"denoising": "recovered", "noising": "lost"}
    for site in in_order(table["site"], ("resid_pre",)):
        for direction in in_order(table["direction"], tuple(verbs)):
            cells = rows(table, site=site, direction=direction).sort_values(
                "recovered", ascending=False, kind="stable"
            )
            most = cells.loc[~cells.duplicated(["layer", "task", "protocol"])]
            texts = {
                _place(row): f"{marked(row, 'recovered', 'recovered', 100)}, {row['pos_label']}"
                for row in records(most)
            }
            yield MethodColumn(f"Patching {site}: {verbs[direction]} (%), where most", texts)


def _lenses(run: RunTables) -> Iterator[MethodColumn]:
    """How much more likely the answer is after each layer than before it."""
    lens = run.table("lens")
    if lens is None:
        return
    table = rows(lens, over="prompt", pos=-1, site="resid_post")
    for lens in in_order(table["lens"], LENS_ORDER):
        gains: dict[Place, str] = {}
        ranks: dict[Place, str] = {}
        for _, part in rows(table, lens=lens).groupby(["task", "protocol"]):
            key = str(part["task"].iloc[0]), str(part["protocol"].iloc[0])
            gains |= {(at, *key): text for at, text in _gains(part, run.facts.seed, key[0])}
            median = 1 + part.groupby("layer")["rank"].median().astype(float)
            after = {int(at): number(value) for at, value in median.items()}  # type: ignore[arg-type]
            ranks |= {
                (at, *key): f"{after[at - 1]} → {after[at]}" for at in after if at - 1 in after
            }
        name = capitalised(lens)
        yield MethodColumn(f"{name} lens: answer's probability, gain in % points", gains)
        yield MethodColumn(f"{name} lens: median rank before → after", ranks)


def _gains(part: pd.DataFrame, seed: int, task: str) -> Iterator[tuple[int, str]]:
    shown = part.assign(probability=np.exp(numbers(part, "logprob")))
    wide = shown.pivot_table(index="item", columns="layer", values="probability").sort_index(axis=1)
    gain = 100 * np.diff(wide.to_numpy(dtype=float), axis=1)
    clusters = clusters_of(part, wide.index)
    drawn = stats.resample_indices(clusters.n, _RESAMPLES, stats.generator(seed, task))
    low, high = stats.percentile_bounds(clusters.resampled_means(gain, drawn), 0.95)
    layers = [int(layer) for layer in wide.columns]
    for i, layer in enumerate(layers[1:]):
        if layer == layers[i] + 1:
            yield layer, interval(gain[:, i].mean(), low[i], high[i], 1)


def _settled(run: RunTables) -> Iterator[MethodColumn]:
    """How many right answers are the lens's most likely token from here on."""
    prediction_depth = run.table("prediction_depth")
    if prediction_depth is None:
        return
    right = rows(prediction_depth, right=True)
    for lens in in_order(right["lens"], LENS_ORDER):
        kept = rows(right, lens=lens)
        counts = kept.groupby(["layer", "task", "protocol"]).size()
        whole = kept.groupby(["task", "protocol"]).size()
        texts = {
            (int(layer), str(task), str(protocol)): f"{n} of {whole[task, protocol]}"
            for (layer, task, protocol), n in counts.items()  # type: ignore[misc]
        }
        yield MethodColumn(f"Right answers that settle here ({lens} lens)", texts)


def _similarities(run: RunTables) -> Iterator[MethodColumn]:
    angular = run.table("angular")
    influence = run.table("influence")
    if influence is not None:
        cells = {_place(row): _three(row, "influence") for row in records(influence)}
        yield MethodColumn("Block influence", cells)
    if angular is not None:
        single = records(rows(angular, n_layers=1))
        yield MethodColumn(
            "Angular distance", {_place(row): _three(row, "distance") for row in single}
        )


def _three(row: dict[str, Any], middle: str) -> str:
    return interval(row[middle], row["low"], row["high"], 3)


def _added(run: RunTables, sublayer: str) -> Iterator[MethodColumn]:
    attribution = run.table("attribution_summary")
    if attribution is None:
        return
    table = with_ends(rows(attribution, metric="logit_diff", component=sublayer, signal=True))
    texts = {_place(row): marked(row, "value", "value", 1, 2) for row in records(table)}
    # The encoder's parts act through cross-attention; there are none in a decoder-only model.
    for how, in_encoder in (("directly", False), ("through cross-attention", True)):
        kept = {
            at: text for at, text in texts.items() if (at[0] < stacks().n_encoder) == in_encoder
        }
        if kept:
            yield MethodColumn(f"Adds to the logit difference {how} (nats)", kept)


def with_ends(attribution: pd.DataFrame) -> pd.DataFrame:
    """An attribution summary with its bounds called as those of other tables are."""
    return attribution.rename(columns={"low": "value_low", "high": "value_high"})
