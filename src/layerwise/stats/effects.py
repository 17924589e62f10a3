"""Signal and effects of interventions, computed from ablation records.

Definitions are in ``docs/statistics/effects.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.families.estimate import ALPHA as ALPHA
from layerwise.stats.families.estimate import N_RESAMPLES as N_RESAMPLES
from layerwise.stats.families.estimate import (
    bootstrap_means,
    bounded_columns,
    estimate,
    exact,
    finite_or_none,
)
from layerwise.stats.inference import shares
from layerwise.stats.items.clusters import clustered_interval, independent_items, paired_p_values
from layerwise.stats.items.crossed import crossed_means
from layerwise.stats.share_tests.equivalence import (
    MOST_NATS,
    SmallestEffects,
    no_loss_of_nats_p_values,
    no_loss_p_values,
)
from layerwise.stats.share_tests.share_bounds import Scale, share_scale, with_unseen_items
from layerwise.stats.signals.signal import have_signal, signal_p_values, signals
from layerwise.storage.parquet import conform, frame

from .cells import BASELINES as BASELINES
from .cells import BLIND as BLIND
from .cells import CONTROLS as CONTROLS
from .cells import GUESSER as GUESSER
from .cells import GUESSER_AT_CHANCE as GUESSER_AT_CHANCE
from .cells import INTACT as INTACT
from .cells import NO_LAYERS as NO_LAYERS
from .cells import Cell
from .cells import cells as cells
from .cells import layer_skips as layer_skips
from .inference import Interval

Chance = Callable[[str, str], float]
_TAIL = 0.025


def signal_table(records: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``signal``: does the intact model do better than blind, per task and protocol?"""
    every = list(cells(records, over_examples=True))
    p = signal_p_values(every, chance)
    taken = _favourite_places(records)
    rows = []
    for cell, p_value, signal in zip(every, p.tolist(), have_signal(p).tolist(), strict=True):
        interval, blind, guessed = intact_interval(cell), cell.blind, cell.guessed
        row = {
            "task": cell.task,
            "capability": cell.capability,
            "protocol": cell.protocol,
            "n_items": len(cell.intact),
            "n_clusters": cell.clusters.n,
            "chance": chance(cell.task, cell.protocol),
            "accuracy": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "blind": None if blind is None else finite_or_none(blind.accuracy),
            "n_examples": len(cell.of_examples) or 1,
            "no_layers": None if cell.no_layers is None else float(cell.no_layers.mean()),
            "p": p_value,
            "signal": signal,
        }
        if guessed is not None:
            row |= {
                "guesser": guessed.blind.accuracy,
                "guesser_rule": guessed.rule,
                "n_guesser": int(guessed.blind.n_asked.sum()),
                "guesser_held": guessed.is_control,
            }
        rows.append(row | taken.get((cell.task, cell.protocol), {}))
    return frame("signal", rows)


def _favourite_places(records: pd.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    """By task and protocol, the place of the options that the intact model takes most often."""
    if "chosen" not in records:
        return {}
    intact = records.loc[(records["kind"] == INTACT) & records["chosen"].notna()]
    if "examples" in intact:
        intact = intact.loc[intact["examples"].fillna(0) == 0]
    by_cell = {}
    for (task, protocol), group in intact.groupby(["task", "protocol"]):
        counts = np.bincount(group["chosen"].to_numpy(dtype=int))
        most = {"most_taken": int(counts.argmax()), "n_most_taken": int(counts.max())}
        by_cell[str(task), str(protocol)] = most
    return by_cell


def effects_table(
    records: pd.DataFrame, chance: Chance, seed: int, interest: SmallestEffects | None = None
) -> pd.DataFrame:
    """``effects``: the paired effect of every intervention, per task and protocol."""
    smallest = interest or SmallestEffects()
    every = list(cells(records, over_examples=True))
    signal = signals(every, chance)
    places = {(cell.task, cell.protocol): cell for cell in every if len(cell.interventions)}
    tables = [
        _effects(cell, chance(*place), signal[place], seed, smallest)
        for place, cell in places.items()
    ]
    if not tables:
        return frame("effects", [])
    whole = pd.concat(tables, ignore_index=True)
    by, heads = ["task", "protocol", "kind", "site"], whole["head"].notna().to_numpy(dtype=bool)
    ends = "acc_diff_run_"
    table = estimate(whole, exact, by, by_rate=heads, n_asked=len(every), ends=ends)
    rounded = {name: whole[name].round().astype(int) for name in ("n_lost", "n_gained")}
    return conform("effects", table.assign(**rounded))


def _effects(
    cell: Cell, chance: float, signal: bool, seed: int, smallest: SmallestEffects
) -> pd.DataFrame:
    change, net = cell.change, cell.net
    either_way = np.maximum(change, 0), np.maximum(-change, 0)
    lost, gained = (each.sum(axis=0) for each in either_way)
    alone = [independent_items(each, cell.clusters) for each in either_way]
    table = cell.interventions.assign(
        task=cell.task,
        capability=cell.capability,
        protocol=cell.protocol,
        n_items=len(cell.intact),
        n_clusters=cell.clusters.n,
        n_independent=np.minimum(*alone),  # for exact bounds; not saved
        chance=chance,
        floor=cell.floor(chance).mean(),
        acc_intact=cell.intact.mean(),
        acc=cell.correct.mean(axis=0),
        signal=signal,
        p=paired_p_values(net, cell.clusters),
        n_lost=lost,
        n_gained=gained,
        n_examples=len(cell.of_examples) or 1,
        n_draws=1 if cell.n_draws is None else cell.n_draws,
        p_no_loss=no_loss_p_values(change, smallest.loss, cell.clusters),
        p_no_loss_nats=no_loss_of_nats_p_values(cell.nats, smallest.nats, clusters=cell.clusters),
        **_bootstrap_columns(cell, cell.floor(chance), seed, has_scale=signal),
    )
    table = table.assign(**with_unseen_items(table, cell_scale(cell, chance)))
    return table.assign(**over_examples(table, cell, chance, smallest) if cell.of_examples else {})


def cell_scale(cell: Cell, chance: float) -> Scale:
    """Bounds of a share lost where all resamples agree."""
    if cell.of_examples:
        return reduce(Scale.widest, (cell_scale(draw, chance) for draw in cell.of_examples))
    stated = chance if cell.no_layers is None else None
    return share_scale(cell.intact - cell.floor(chance), cell.clusters, stated)


def corrected_p(effects: pd.DataFrame) -> pd.Series:
    """Corrected p-values of effects: Benjamini-Hochberg for heads, Holm for layers."""
    # Of hundreds of heads some may be false, at a stated rate; of layers none.
    p = np.where(effects["head"].notna(), effects["p_bh"], effects["p_holm"])
    return pd.Series(p, index=effects.index)


def _bootstrap_columns(
    cell: Cell, floor: Float[np.ndarray, " items"], seed: int, *, has_scale: bool
) -> dict[str, Any]:
    intact, lowest, changed, nats, margins = bootstrap_means(
        cell.task, cell.clusters, seed, cell.intact, floor, cell.correct, cell.nats, cell.margins
    )
    if not has_scale:
        lowest = np.full_like(lowest, np.inf)
    n = len(cell.intact)
    return (
        bounded_columns("acc_diff", "acc_diff_", intact - changed, n)
        | bounded_columns("share_lost", "share_", shares(intact, changed, lowest), n)
        | bounded_columns("nats", "nats_", nats, n)
        | bounded_columns("margin", "margin_", margins, n)
    )


def intact_interval(cell: Cell) -> Interval:
    """95 % interval of the intact accuracy, over items and over draws of examples if several."""
    if not cell.of_examples:
        return clustered_interval(cell.intact, cell.clusters)
    each = [clustered_interval(draw.intact, draw.clusters) for draw in cell.of_examples]
    right = np.stack([draw.intact[:, None].astype(float) for draw in cell.of_examples])
    means = crossed_means(right, cell.clusters)
    mean, half = float(means.mean[0]), float(means.half_widths(_TAIL)[0])
    low, high = (float(np.mean([getattr(ci, end) for ci in each])) for end in ("low", "high"))
    return Interval(mean, max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half)), 0.95)


def over_examples(
    table: pd.DataFrame, cell: Cell, chance: float, smallest: SmallestEffects
) -> dict[str, Any]:
    """Columns of effects that treat draws of few-shot examples as a sample."""
    clusters = cell.clusters
    lost, nats_lost, margins_lost, above = (
        np.stack([read(draw).astype(float) for draw in cell.of_examples])
        for read in (
            lambda draw: draw.change,
            lambda draw: draw.nats,
            lambda draw: draw.margins,
            lambda draw: (draw.intact - draw.floor(chance))[:, None],
        )
    )
    change, nats, margins = (crossed_means(part, clusters)
                             for part in (lost, nats_lost, margins_lost))  # fmt: skip
    clipped = crossed_means(np.clip(nats_lost, -MOST_NATS, MOST_NATS), clusters)
    scale = above.mean()
    share = lost.mean(axis=(0, 1)) / scale if scale > 0 else np.full(lost.shape[2], np.nan)
    moved = crossed_means((lost - share * above) / (scale if scale > 0 else np.nan), clusters)
    columns: dict[str, Any] = {
        "p": np.maximum(table["p"], change.p_values()),
        "p_no_loss": np.maximum(table["p_no_loss"], 1 - change.upper_p_values(smallest.loss)),
        "p_no_loss_nats": np.maximum(
            table["p_no_loss_nats"], 1 - clipped.upper_p_values(smallest.nats)
        ),
        "crossed": [
            change._replace(**{
                name: getattr(change, name)[[i]] for name in ("mean", "items", "draws", "shared")
            })
            for i in range(len(table))
        ],
    }  # fmt: skip
    for means, name, ends in (
        (change, "acc_diff", "acc_diff"), (moved, "share_lost", "share"), (nats, "nats", "nats"),
        (margins, "margin", "margin"),
    ):  # fmt: skip
        low, high, half = f"{ends}_low", f"{ends}_high", means.half_widths(_TAIL)
        columns[low] = np.minimum(table[low], table[name] - half)
        columns[high] = np.maximum(table[high], table[name] + half)
    for end in ("acc_diff_low", "acc_diff_high"):
        columns[end] = np.clip(columns[end], -1.0, 1.0)
    return columns
