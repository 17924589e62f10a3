"""Patching rows averaged over pairs: by which metric, how sure, and after which correction.

Only tables are read here; ``docs/patching.md`` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import when
from layerwise.stats.families.estimate import bounded_columns, estimate, student
from layerwise.stats.items.clusters import Clusters, clusters_of
from layerwise.stats.items.over_items import TASK, means_of_known
from layerwise.stats.signals.signal import above_chance_p_values, have_signal
from layerwise.storage.parquet import frame
from layerwise.storage.schemas import SCHEMAS

DENOISING, NOISING = DIRECTIONS = ("denoising", "noising")
NO_PAIR = (
    "No pair could be patched: there is none in which the model prefers the right answer in "
    "both prompts."
)
ALPHA = 0.05
GUESSED = 0.5  # share of the pairs solved or reversed that are solved by guessing
End = TypeVar("End")
_CELL = ["site", "layer", "head", "pos_label"]
_NO_HEAD = -1


def patched_and_source(clean: End, corrupted: End, direction: str) -> tuple[End, End]:
    """Of something of both runs, that of the run which is patched, and that of its source."""
    return (corrupted, clean) if direction == DENOISING else (clean, corrupted)


@dataclass(frozen=True)
class Metric:
    """What is measured of a run.

    Its normalised form is always (patched - unpatched) / (source - unpatched): 0 if the patch
    does nothing, 1 if it makes the run as the one that it takes the activation from.

    Attributes:
        name: its name in tables.
        unit: of a run's value.
        formula: of a run's value.
        columns: where the values of the clean, the corrupted and the patched run are; of a
            divergence, which is 0 in the source run, those of the unpatched and patched run.
    """

    name: str
    unit: str
    formula: str
    columns: tuple[str, ...]

    def values(self, table: pd.DataFrame, direction: str) -> pd.DataFrame:
        """``change`` by the patch, and the ``whole`` way to the source run, a row per row."""
        if len(self.columns) == 2:
            base, patched = (table[name] for name in self.columns)
            aim = 0.0 * base
        else:
            clean, corrupted = self.columns[0], self.columns[1]
            base, aim = (table[n] for n in patched_and_source(clean, corrupted, direction))
            patched = table[self.columns[2]]
        return table.assign(change=patched - base, whole=aim - base).dropna(
            subset=["change", "whole"]
        )


LOGIT_DIFFERENCE = Metric(
    "logit difference", "nats", "logit(clean answer) - logit(corrupted answer)",
    ("clean_diff", "corrupted_diff", "patched_diff"),
)  # fmt: skip
LOG_PROBABILITY = Metric(
    "log-probability", "nats", "log p(clean answer)",
    ("clean_logprob", "corrupted_logprob", "patched_logprob"),
)  # fmt: skip
KL = Metric(
    "KL divergence", "nats", "sum over tokens of p_source (log p_source - log p_run)",
    ("unpatched_kl", "patched_kl"),
)  # fmt: skip
METRICS = (LOGIT_DIFFERENCE, LOG_PROBABILITY, KL)


def patching_effects(patching: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``patching_effects.parquet``: every cell by every metric that was measured.

    The normalised value is the ratio of the means over pairs, for a mean of the pairs' ratios is
    ruled by pairs whose two runs hardly differ. Tests are corrected (Benjamini and Hochberg)
    over the cells of one task, direction, site and metric, and over all of the run.
    """
    plain = heads_filled(patching)
    parts = []
    for direction, mine in plain.groupby("direction", sort=False):
        for metric in METRICS:
            values = metric.values(mine, str(direction))
            if len(values):
                effects = effects_over_pairs(values, _CELL, "site", seed)
                parts.append(effects.assign(direction=direction, metric=metric.name))
    return _estimated(parts, "patching_effects", ["direction", "metric", "site"])


def _estimated(parts: list[pd.DataFrame], name: str, by: list[str]) -> pd.DataFrame:
    """The table ``name``, corrected over the cells of a task that share columns, and the run."""
    if not parts:
        return frame(name, [])
    whole = pd.concat(parts, ignore_index=True)
    bounds, ends = student("recovered"), "recovered_run_"
    return heads_emptied(estimate(whole, bounds, [*TASK, *by], by_rate=True, ends=ends), name)


def effects_over_pairs(
    values: pd.DataFrame, cell: list[str], family: str, seed: int
) -> pd.DataFrame:
    """Shares, changes, their intervals and tests, per task and cell."""
    sign = np.sign(values["whole"].mean())  # so that the whole way is above 0
    turned = values.assign(gain=sign * values["change"], whole=sign * values["whole"])
    signals = signals_of_pairs(values)
    parts = [
        _of_task(group, cell, family, seed).assign(signal=signals[_place(group)])
        for _, group in turned.groupby(TASK)
    ]
    return pd.concat(parts, ignore_index=True).astype({"signal": "boolean"})


def _of_task(turned: pd.DataFrame, cell: list[str], family: str, seed: int) -> pd.DataFrame:
    """The rows of one task: means over pairs, of pairs that have the cell."""
    wide = turned.pivot_table(index="item", columns=cell, values=["change", "gain", "whole"])
    cells, task = wide["change"].columns.to_frame(index=False), str(turned["task"].iloc[0])
    change, gain, whole = (wide[n].to_numpy(dtype=float) for n in ("change", "gain", "whole"))
    clusters, n = clusters_of(turned, wide.index), len(wide)
    moved, recovered, way = (means_of_known(v, clusters, task, seed) for v in (change, gain, whole))
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
    """Whether the model solves more pairs than it has the wrong way round, by task and protocol.

    Pairs are chosen because the model solves them, so that some of what it merely guesses is
    always among them. Which prompt of a pair is called clean is arbitrary, so a model to which the
    prompts say nothing solves and reverses a pair with the same chance: of the pairs whose
    preferred answer changes with the prompt it solves half. That is tested exactly (one-sided
    binomial test, 2.5 %; McNemar's of the clean question against the corrupted one; by cluster
    where pairs ask for the same thing, as the table's ``pairs_p`` has it), with Holm's correction
    over all tasks and protocols of the run.
    """
    found: dict[tuple[str, str], bool | None] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    by_cluster: dict[tuple[str, str], float] = {}
    for _, group in pairs.groupby(["task", "protocol"]):
        found[_place(group)] = None
        first = group[["pairs_solved", "pairs_reversed"]].head(1).dropna()
        if len(first):
            counts[_place(group)] = [int(n) for n in first.iloc[0]]
        if "pairs_p" in group and bool(group["pairs_p"].notna().all()):
            by_cluster[_place(group)] = float(group["pairs_p"].iloc[0])
    solved, turned = np.array(list(counts.values()), dtype=int).reshape(-1, 2).T
    p = above_chance_p_values(solved, solved + turned, np.full(len(counts), GUESSED))
    p = np.array(
        [by_cluster.get(place, one) for place, one in zip(counts, p.tolist(), strict=True)]
    )
    return found | dict(zip(counts, have_signal(np.array(p)).tolist(), strict=True))


def pair_notes(pairs: pd.DataFrame) -> list[str]:
    """A sentence for each task and protocol without signal, by ``signals_of_pairs``."""
    counts = pairs.groupby(TASK).first()
    told = []
    for (task, protocol), signal in signals_of_pairs(pairs).items() if len(pairs) else ():
        if signal is False:
            row = rows(counts.reset_index(), task=task, protocol=protocol).iloc[0]
            told.append(
                f"No signal: {task} {when(protocol)}: {row['pairs_solved']} pairs are solved, "
                f"{row['pairs_reversed']} the wrong way round."
            )
    return [*told, "layerwise score says what to try."] if told else []


def _place(group: pd.DataFrame) -> tuple[str, str]:
    """The task and protocol of rows that share them."""
    return str(group["task"].iloc[0]), str(group["protocol"].iloc[0])


def heads_filled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with layers and heads as plain integers, so that they can name cells."""
    return table.assign(
        layer=table["layer"].astype("int64"),
        head=table["head"].fillna(_NO_HEAD).astype("int64"),
    )


def heads_emptied(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table as ``name``, null again where there is no head."""
    heads = table["head"].astype("Int64").where(table["head"] != _NO_HEAD)
    table = table.assign(head=heads, layer=table["layer"].astype("Int64"))
    return table.reindex(columns=SCHEMAS[name].names)


def path_effects(paths: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``path_effects.parquet``: the logit difference by receiver and sender.

    Tests are corrected over the senders of one task and receiver, and over all of the run.
    """
    if paths.empty:
        return frame("path_effects", [])
    plain, parts = heads_filled(paths), []
    cell = ["receiver", "sender", "site", "layer", "head"]
    for direction, mine in plain.groupby("direction", sort=False):
        values = LOGIT_DIFFERENCE.values(mine, str(direction))
        parts.append(effects_over_pairs(values, cell, "receiver", seed).assign(direction=direction))
    return _estimated(parts, "path_effects", ["direction", "receiver"])


def patching_summary(patching: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The share of the logit difference per cell, with its interval and test."""
    table = patching_effects(patching, seed)
    mine = table.loc[table["metric"] == LOGIT_DIFFERENCE.name]
    bounds = ["recovered", "recovered_low", "recovered_high", "p_bh", "signal", "significant"]
    bounds += ["p_run", "run_tests", "recovered_run_low", "recovered_run_high"]
    columns = [*TASK, "direction", *_CELL, "n_items", *bounds]
    return mine.reindex(columns=columns).reset_index(drop=True)
