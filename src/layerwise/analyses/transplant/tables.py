"""What each change moves of the gap between two models, with intervals and tests over items.

Definitions are in ``docs/transplant.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.effects import Chance
from layerwise.stats.families.estimate import bounded_columns, estimate, exact, resampled
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import (
    Clusters,
    design_effects,
    independent_items,
    paired_p_values,
    with_design_effect,
)
from layerwise.stats.share_tests.share_bounds import share_scale, with_unseen_items
from layerwise.stats.signals.signal import (
    above_chance_p_values,
    better_than_all_p_value,
    without_the_question,
)
from layerwise.storage.parquet import conform, frame

from .gaps import Pair, pairs_of
from .names import BASE, BRINGS, DESTROYS, HOSTS, OTHER, SINGLE, WEIGHTS

# What statistics of effects call the columns of moved accuracy.
_AS_EFFECTS = {
    "acc_diff": "moved", "acc_diff_low": "moved_low", "acc_diff_high": "moved_high",
    "n_lost": "n_moved", "n_gained": "n_against", "share_lost": "share",
}  # fmt: skip


def effects_table(
    transplant: pd.DataFrame, gaps: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``transplant_effects.parquet``: what every change moves of the gap between the two models."""
    known = gaps.set_index(["task", "protocol"])["found"] if len(gaps) else {}
    tables = [
        _effects(pair, host, chance, seed, bool(known[pair.base.task, pair.base.protocol]))
        for pair in pairs_of(transplant)
        for host in HOSTS
        if len(pair.cells[host].interventions)
    ]
    if not tables:
        return frame("transplant_effects", [])
    whole = pd.concat(tables, ignore_index=True)
    # One family of all tests, corrected by Holm's method, of heads too.
    by = ["task", "protocol", "host", "exchange", "set", "t"]
    table = estimate(whole, exact, by, n_asked=len(gaps))
    table["significant"] &= table["acc_diff"] > 0
    return conform("transplant_effects", table.rename(columns=_AS_EFFECTS))


def _effects(pair: Pair, host: str, chance: Chance, seed: int, has_gap: bool) -> pd.DataFrame:
    """One model with everything that was put into it."""
    cell = pair.cells[host]
    brings = host == pair.worse
    changed = cell.correct.astype(int) - cell.intact[:, None]
    net = changed if brings else -changed
    moved, against = net > 0, net < 0
    alone = [independent_items(each, pair.clusters) for each in (moved, against)]
    p = paired_p_values(net, pair.clusters)
    if brings:  # what a model that guesses anew gets right by luck is not brought
        level = chance(cell.task, cell.protocol)
        guessing = _above_chance(cell.correct, level, pair.clusters)
        p = np.maximum.reduce([p, guessing, _above_controls(cell.correct, pair)])
    names = list(cell.interventions["intervention"])
    table = pair.described.loc[names].reset_index()
    table = table.assign(
        task=cell.task,
        capability=cell.capability,
        protocol=cell.protocol,
        host=host,
        direction=BRINGS if brings else DESTROYS,
        n_items=len(net),
        n_clusters=pair.clusters.n,
        n_independent=np.minimum(*alone),
        acc_base=pair.answers(BASE).mean(),
        acc_other=pair.answers(OTHER).mean(),
        acc=cell.correct.mean(axis=0),
        n_lost=moved.sum(axis=0),
        n_gained=against.sum(axis=0),
        p=p,
        signal=has_gap,
        **_bootstrapped(pair, host, seed, has_scale=has_gap),
    )
    gap = pair.answers(pair.better).astype(int) - pair.answers(pair.worse)
    return table.assign(**with_unseen_items(table, share_scale(gap, pair.clusters)))


def _above_chance(
    correct: np.ndarray, chance: float, clusters: Clusters
) -> Float[np.ndarray, " changes"]:
    """One-sided exact tests of changed models' accuracies against guessing, by clusters."""
    n = np.full(correct.shape[1], len(correct))
    p = above_chance_p_values(correct.sum(axis=0), n, np.full(len(n), chance))
    return with_design_effect(p, design_effects(correct.astype(float), clusters), clusters)


def _above_controls(correct: np.ndarray, pair: Pair) -> Float[np.ndarray, " changes"]:
    """Tests of changed models' answers against those without the question, the largest of each.

    Held against them is what the better model gets right of other items' questions, and what a
    guesser does of the options alone: the changed models are asked neither.
    """
    controls = without_the_question(pair.cells[pair.better])
    return np.array([better_than_all_p_value(one, controls, pair.clusters) for one in correct.T])


def _bootstrapped(pair: Pair, host: str, seed: int, *, has_scale: bool) -> dict[str, Any]:
    cell, brings = pair.cells[host], host == pair.worse
    sign, n = (-1 if brings else 1), len(cell.intact)
    better, worse, own, changed, nats = resampled(
        pair.base.task, pair.clusters, seed, pair.answers(pair.better), pair.answers(pair.worse),
        cell.intact, cell.correct, sign * cell.nats,
    )  # fmt: skip
    share = stats.shares(better, changed, worse if has_scale else np.full_like(worse, np.inf))
    if brings:
        share = 1 - share
    return (
        bounded_columns("acc_diff", "acc_diff_", sign * (own - changed), n)
        | bounded_columns("share_lost", "share_", share, n)
        | bounded_columns("nats", "nats_", nats, n)
    )


def ranks_table(
    transplant: pd.DataFrame, distances: pd.DataFrame, gaps: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """``transplant_ranks.parquet``: do the layers that move most of the gap differ most in weight?

    Spearman's rank correlation over single layers, or heads, between distance of weights and moved
    accuracy, with a smoothed bootstrap interval over items: for these layers, and other items
    like these.
    """
    with_gap = set(map(tuple, gaps.loc[gaps["found"], ["task", "protocol"]].to_numpy().tolist()))
    rows = [
        row
        for pair in pairs_of(transplant)
        if (pair.base.task, pair.base.protocol) in with_gap
        for host in HOSTS
        for row in _ranks(pair, host, distances, seed)
    ]
    return frame("transplant_ranks", rows)


def _ranks(pair: Pair, host: str, distances: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    cell = pair.cells[host]
    names = list(cell.interventions["intervention"])
    of = pair.described.loc[names]
    alone = (of["set"] == SINGLE) & (of["t"] == 1) & (of["exchange"] == WEIGHTS)
    chosen = np.flatnonzero(alone)
    if len(chosen) < 3:
        return []
    site = str(of["site"].iloc[chosen[0]])
    apart = distances.loc[distances["site"] == site].set_index(["layer", "head"])["distance"]
    places = pd.MultiIndex.from_frame(of[["layer", "head"]].iloc[chosen])
    sign = 1 if host == pair.worse else -1
    moved = sign * (cell.correct[:, chosen].astype(float) - cell.intact[:, None])
    (means,) = resampled(pair.base.task, pair.clusters, seed, moved)
    far = np.broadcast_to(apart.reindex(places).to_numpy(dtype=float), means.shape)
    random = stats.generator(seed, "rank correlation", pair.base.task, host)
    # distances of weights are no means over items
    rho = rank_correlation(far, means, pair.clusters.n, random, sampled=(False, True))
    return [
        {
            "task": cell.task,
            "capability": cell.capability,
            "protocol": cell.protocol,
            "host": host,
            "direction": BRINGS if host == pair.worse else DESTROYS,
            "site": site,
            "n_layers": len(chosen),
            "n_items": len(cell.intact),
            **rho.columns("rho", "rho_"),
        }
    ]
