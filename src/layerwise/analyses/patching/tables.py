"""Patching rows averaged over pairs: by which metric, how sure, and after which correction.

Only tables are read here; ``docs/patching.md`` has the formulas.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.analyses.shared.left_out import exclusion_sentences
from layerwise.presentation.wording import protocol_phrase
from layerwise.stats.families.estimate import bounded_columns, estimate, student
from layerwise.stats.families.over_items import TASK, nan_means
from layerwise.stats.items.clusters import Clusters, clusters_from_table
from layerwise.stats.signals.signal import above_chance_p_values, have_signal
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts
from layerwise.storage.schemas import SCHEMAS

DENOISING, NOISING = DIRECTIONS = ("denoising", "noising")
BEFORE, START, ANSWER, ALL = "before", "start", "answer", "all"
OF_PROMPT = (BEFORE, "first changed", "middle changed", "last changed", "next", "further", "last")
OF_DECODER = (START, ANSWER)
LABELS = (*OF_PROMPT, *OF_DECODER, ALL)
# What a map of layers by heads shows where nobody asks for other positions.
HEAD_LABELS = ("last changed", "last", ANSWER, ALL)
NO_PAIR = (
    "No pair could be patched: there is none in which the model prefers the right answer in "
    "both prompts."
)
ALPHA = 0.05
GUESSED = 0.5  # share of the pairs solved or reversed that are solved by guessing
End = TypeVar("End")
_CELL = ["site", "layer", "head", "pos_label"]
_NO_HEAD = -1


def order_runs(clean: End, corrupted: End, direction: str) -> tuple[End, End]:
    """Of something of both runs, that of the run which is patched, and that of its source."""
    return (corrupted, clean) if direction == DENOISING else (clean, corrupted)


# Where the values of the clean, the corrupted and the patched run are; of a divergence, which is 0
# in the source run, those of the unpatched and the patched run.
LOGIT_DIFFERENCE = "logit difference"
METRICS = {
    LOGIT_DIFFERENCE: ("clean_diff", "corrupted_diff", "patched_diff"),
    "log-probability": ("clean_logprob", "corrupted_logprob", "patched_logprob"),
    "KL divergence": ("unpatched_kl", "patched_kl"),
}


def patching_effects(patching: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``patching_effects``: every cell by every metric that was measured."""
    # Shares are ratios of means over pairs: a mean of ratios is ruled by pairs that hardly differ.
    return _effects(patching, "patching_effects", list(METRICS), _CELL, "site", seed)


def path_effects(paths: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``path_effects``: the logit difference by receiver and sender."""
    cell = ["receiver", "sender", "site", "layer", "head"]
    return _effects(paths, "path_effects", [LOGIT_DIFFERENCE], cell, "receiver", seed)


def _effects(
    patched: pd.DataFrame, name: str, metrics: list[str], cell: list[str], family: str, seed: int
) -> pd.DataFrame:
    """The table ``name``, corrected over the cells of a task and family, and over the run."""
    parts = []
    for direction, rows_ in fill_head_column(patched).groupby("direction", sort=False):
        for metric in metrics:
            values = _changes(rows_, METRICS[metric], str(direction))
            if len(values):
                effects = effects_over_pairs(values, cell, family, seed)
                parts.append(effects.assign(direction=direction, metric=metric))
    if not parts:
        return frame(name, [])
    table = estimate(
        pd.concat(parts, ignore_index=True), student("recovered"),
        [*TASK, "direction", "metric", family], by_rate=True, ends="recovered_run_",
    )  # fmt: skip
    heads = table["head"].astype("Int64").where(table["head"] != _NO_HEAD)
    table = table.assign(head=heads, layer=table["layer"].astype("Int64"))
    return table.reindex(columns=SCHEMAS[name].names)


def _changes(table: pd.DataFrame, columns: tuple[str, ...], direction: str) -> pd.DataFrame:
    """``change`` by the patch, and the ``whole`` way to the source run, a row per row."""
    first, *second, patched = (table[name] for name in columns)
    base, aim = order_runs(first, second[0], direction) if second else (first, 0.0 * first)
    changes = table.assign(change=patched - base, whole=aim - base)
    return changes.dropna(subset=["change", "whole"])


def effects_over_pairs(
    values: pd.DataFrame, cell: list[str], family: str, seed: int
) -> pd.DataFrame:
    """Shares, changes, their intervals and tests, per task and cell."""
    sign = np.sign(values["whole"].mean())  # so that the whole way is above 0
    turned = values.assign(gain=sign * values["change"], whole=sign * values["whole"])
    signals = signals_of_pairs(values)
    tasks: Any = turned.groupby(TASK)
    parts = [
        _task_effects(group, cell, family, seed).assign(signal=signals[task, protocol])
        for (task, _, protocol), group in tasks
    ]
    return pd.concat(parts, ignore_index=True).astype({"signal": "boolean"})


def _task_effects(turned: pd.DataFrame, cell: list[str], family: str, seed: int) -> pd.DataFrame:
    """The rows of one task: means over pairs, of pairs that have the cell."""
    wide = turned.pivot_table(index="item", columns=cell, values=["change", "gain", "whole"])
    cells, task = wide["change"].columns.to_frame(index=False), str(turned["task"].iloc[0])
    change, gain, whole = (wide[n].to_numpy(dtype=float) for n in ("change", "gain", "whole"))
    clusters, n = clusters_from_table(turned, wide.index), len(wide)
    moved, recovered, way = (nan_means(v, clusters, task, seed) for v in (change, gain, whole))
    p = np.empty(len(cells))
    for those in cells.groupby(family).indices.values():
        tested = clusters.sums(np.nan_to_num(change[:, those]))
        p[those] = stats.sign_flip_p_values(tested, seed=stats.generator(seed, task))
    error, n_clusters = _errors(gain, whole, clusters)
    return cells.assign(
        **{name: turned[name].iloc[0] for name in TASK},
        **bounded_columns("recovered", "recovered_", recovered / np.where(way > 0, way, np.nan), n),
        **bounded_columns("change", "change_", moved, n),
        n_items=(~np.isnan(gain)).sum(axis=0),
        n_clusters=n_clusters,
        p=p,
        error=error,
    )


def _errors(
    gain: Float[np.ndarray, "pairs cells"], whole: Float[np.ndarray, "pairs cells"],
    clusters: Clusters,
) -> tuple[Float[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:  # fmt: skip
    """Standard errors of shares, by what each pair moves the ratio of means, and clusters."""
    most = np.nanmean(whole, axis=0)
    moved = (gain - np.nanmean(gain, axis=0) / most * whole) / most
    there = ~np.isnan(moved)
    away = clusters.sums(np.where(there, moved - np.nanmean(moved, axis=0), 0.0))
    n, together = there.sum(axis=0), (clusters.sums(there.astype(int)) > 0).sum(axis=0)
    squared = (away**2).sum(axis=0) * (together / n)
    return np.sqrt(squared / np.maximum(together - 1, 1) / n), together


def signals_of_pairs(pairs: pd.DataFrame) -> dict[tuple[str, str], bool | None]:
    """Signal where the model solves more pairs than it has the wrong way round."""
    # A model to which the prompts say nothing solves and reverses a pair with the same chance:
    # exact one-sided test (2.5 %; binomial, or by cluster in ``p``), Holm over the run's
    # tasks.
    columns = ["task", "protocol", "pairs_solved", "pairs_reversed", "p"]
    known = pairs.reindex(columns=columns).groupby(["task", "protocol"]).first()
    counted = known.dropna(subset=["pairs_solved", "pairs_reversed"])
    solved, turned = counted[["pairs_solved", "pairs_reversed"]].to_numpy(dtype=int).T
    p = above_chance_p_values(solved, solved + turned, np.full(len(counted), GUESSED))
    by_cluster = counted["p"].to_numpy(dtype=float)
    signals = have_signal(np.where(np.isnan(by_cluster), p, by_cluster)).tolist()
    return dict.fromkeys(known.index) | dict(zip(counted.index, signals, strict=True))


def pair_notes(pairs: pd.DataFrame, facts: Facts, analysis: str) -> list[str]:
    """Items that are left out, and how many pairs the model solves where it has no signal."""
    columns = ["pairs_solved", "pairs_reversed"]
    counts = pairs.groupby(["task", "protocol"])[columns].first()
    notes = [
        f"No signal: {task} {protocol_phrase(protocol)}: "
        f"{counts.loc[(task, protocol), 'pairs_solved']} pairs "
        f"are solved, {counts.loc[(task, protocol), 'pairs_reversed']} the wrong way round."
        for (task, protocol), signal in signals_of_pairs(pairs).items()
        if signal is False
    ]
    tried = ["layerwise score says what to try."] if notes else []
    return [*exclusion_sentences(facts, analysis), *notes, *tried]


def fill_head_column(table: pd.DataFrame) -> pd.DataFrame:
    """The table with layers and heads as plain integers, so that they can name cells."""
    return table.assign(
        layer=table["layer"].astype("int64"),
        head=table["head"].fillna(_NO_HEAD).astype("int64"),
    )


def patching_summary(patching: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The share of the logit difference per cell, with its interval and test."""
    table = patching_effects(patching, seed)
    mine = table.loc[table["metric"] == LOGIT_DIFFERENCE]
    bounds = ["recovered", "recovered_low", "recovered_high", "p_bh", "signal", "significant"]
    bounds += ["p_run", "run_tests", "recovered_run_low", "recovered_run_high"]
    columns = [*TASK, "direction", *_CELL, "n_items", *bounds]
    return mine.reindex(columns=columns).reset_index(drop=True)
