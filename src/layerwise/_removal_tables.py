"""What was found by removing layers: candidates' scores, the best of them, and the curve.

Only tables are read here; what is tried is the business of ``_removal_job``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerwise import _effects, stats
from layerwise._effects import Chance
from layerwise._tables import conform, frame

GREEDY, BLOCK = "greedy", "block"
SELECTION, HELD_OUT = "selection", "held out"
# Shares are computed from counts, nats by an engine that agrees with its reference to 1e-4.
_SAME_SHARE, _SAME_NATS = 1e-9, 1e-4


def signal_table(removal: pd.DataFrame, chance: Chance, split: str) -> pd.DataFrame:
    """``signal.parquet`` of one split's items: is the intact model above chance?"""
    intact = removal.loc[(removal["split"] == split) & (removal["step"] == 0)]
    return _effects.signal_table(_as_records(intact), chance)


def tasks_that_count(removal: pd.DataFrame, chance: Chance) -> list[str]:
    """The tasks on whose selection items the intact model is above chance."""
    signal = signal_table(removal, chance, SELECTION)
    return [str(task) for task in signal.loc[signal["signal"], "task"]]


def candidates_table(removal: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``removal_candidates.parquet``: what each candidate loses on the selection items.

    Tasks weigh the same, whatever their chance level and number of items.
    """
    counted = removal["task"].isin(tasks_that_count(removal, chance))
    mine = removal.loc[counted & (removal["split"] == SELECTION)]
    means = mine.groupby(["task", "intervention"], sort=False, as_index=False).agg(
        step=("step", "first"),
        protocol=("protocol", "first"),
        n_items=("item", "nunique"),
        acc=("correct", "mean"),
        gold=("gold_logprob", "mean"),
    )
    if means.empty:
        return frame("removal_candidates", [])
    parts = [
        _lost(group, chance(str(task), str(group["protocol"].iloc[0])))
        for task, group in means.groupby("task", sort=False)
    ]
    lost = pd.concat(parts, ignore_index=True)
    table = lost.groupby(["step", "intervention"], sort=False, as_index=False).agg(
        protocol=("protocol", "first"),
        n_tasks=("task", "nunique"),
        n_items=("n_items", "sum"),
        share_lost=("share_lost", "mean"),
        nats=("nats", "mean"),
    )
    named = _once(mine).reindex(columns=["intervention", "by", "layers", "chosen"])
    return conform("removal_candidates", table.merge(named, on="intervention"))


def _lost(means: pd.DataFrame, chance: float) -> pd.DataFrame:
    """What each candidate loses on one task, from the means of the intact model and of each."""
    intact = means.loc[means["step"] == 0].iloc[0]
    changed = means.loc[means["step"] > 0]
    acc = changed["acc"].to_numpy(dtype=float)
    share = stats.shares(np.array([float(intact["acc"])]), acc, chance)
    return changed.assign(share_lost=share, nats=float(intact["gold"]) - changed["gold"])


def best_candidate(candidates: pd.DataFrame) -> str:
    """The intervention that loses least among the candidates of a step.

    First the share of the above-chance accuracy counts; where that is equal, the nats of gold
    log-probability, to 1e-4; then the deepest layers go first.

    Args:
        candidates: rows of ``removal_candidates.parquet`` of one step, at least one.
    """
    share = candidates["share_lost"]
    tied = candidates.loc[share <= share.min() + _SAME_SHARE]
    nats = tied["nats"]
    if nats.notna().all():
        tied = tied.loc[nats <= nats.min() + _SAME_NATS]
    deepest = int(np.argmax([layers[-1] for layers in tied["layers"]]))
    return str(tied["intervention"].iloc[deepest])


def steps_table(removal: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``removal_steps.parquet``: the paired effect of what was removed, by split, task and step.

    Args:
        removal: ``removal.parquet``.
        chance: (task, protocol) -> accuracy by guessing.
        seed: seed of the bootstrap.
    """
    counted = removal["task"].isin(tasks_that_count(removal, chance))
    used = removal.loc[counted & (removal["chosen"] | (removal["step"] == 0))]
    parts = [_steps(used.loc[used["split"] == s], chance, seed, s) for s in (SELECTION, HELD_OUT)]
    return pd.concat(parts, ignore_index=True)


def _steps(used: pd.DataFrame, chance: Chance, seed: int, split: str) -> pd.DataFrame:
    if not np.any(used["chosen"]):
        return frame("removal_steps", [])
    named = _once(used).reindex(columns=["intervention", "by", "step", "layers"])
    effects = _effects.effects_table(_as_records(used), chance, seed)
    table = effects.merge(named, on="intervention").assign(split=split)
    return conform("removal_steps", table.sort_values(["task", "step"], ignore_index=True))


def removed_label(by: str, layers: Sequence[int]) -> str:
    """What a step removed: the layer that it added, or the block, e.g. ``"20-24"``."""
    if by == GREEDY or len(layers) == 1:
        return str(layers[-1])
    return f"{layers[0]}-{layers[-1]}"


def _once(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[~table["intervention"].duplicated()]


def _as_records(table: pd.DataFrame) -> pd.DataFrame:
    """The rows as ablation records: whole layers skipped, by the number of them."""
    return table.assign(kind="skip", site="layer", layer=table["step"])
