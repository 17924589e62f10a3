"""What each change moves of the gap between two models, with intervals and tests over items.

Definitions are in ``docs/transplant.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.effects import ALPHA, N_RESAMPLES, Chance, bounded_columns
from layerwise.stats.families.over_run import effects_over_run
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import (
    Clusters,
    design_effects,
    independent_items,
    paired_p_values,
    sample_and_resamples,
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
    "acc_diff_run_low": "run_low", "acc_diff_run_high": "run_high", "n_lost": "n_moved",
    "n_gained": "n_against", "share_lost": "share",
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
    as_one = whole.assign(head=pd.array([None] * len(whole), dtype="Int64"))
    over_run = effects_over_run(as_one, n_asked=len(gaps))
    found = whole.assign(**over_run).rename(columns=_AS_EFFECTS)
    return conform("transplant_effects", found)


def _effects(pair: Pair, host: str, chance: Chance, seed: int, found: bool) -> pd.DataFrame:
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
        signal=found,
        **_bootstrapped(pair, host, seed, has_scale=found),
    )
    table["p_holm"] = table.groupby(["exchange", "set", "t"])["p"].transform(
        lambda p: stats.holm(p.to_numpy())
    )
    table["significant"] = found & (table["p_holm"] < ALPHA) & (table["acc_diff"] > 0)
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


def _draws(pair: Pair, seed: int) -> np.ndarray:
    """The sample and resamples of a task's clusters, the same under all protocols."""
    named = stats.generator(seed, pair.base.task)
    return sample_and_resamples(pair.clusters.n, N_RESAMPLES, named)


def _bootstrapped(pair: Pair, host: str, seed: int, *, has_scale: bool) -> dict[str, Any]:
    cell, brings = pair.cells[host], host == pair.worse
    sign, n = (-1 if brings else 1), len(cell.intact)
    ends = [pair.answers(pair.better), pair.answers(pair.worse), cell.intact]
    together = np.column_stack([*ends, cell.correct, sign * cell.nats])
    means = pair.clusters.resampled_means(together, _draws(pair, seed))
    better, worse, own = (means[:, i : i + 1] for i in range(3))
    changed, nats = np.split(means[:, 3:], 2, axis=1)
    share = stats.shares(better, changed, worse if has_scale else np.full_like(worse, np.inf))
    if brings:
        share = 1 - share
    return (
        bounded_columns(
            ("acc_diff", "acc_diff_low", "acc_diff_high"), sign * (own - changed), n
        )
        | bounded_columns(("share_lost", "share_low", "share_high"), share, n)
        | bounded_columns(("nats", "nats_low", "nats_high"), nats, n)
    )  # fmt: skip


def ranks_table(
    transplant: pd.DataFrame, distances: pd.DataFrame, gaps: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """``transplant_ranks.parquet``: do the layers that move most of the gap differ most in weight?

    Spearman's rank correlation over single layers, or heads, between distance of weights and moved
    accuracy, with a smoothed bootstrap interval over items: for these layers, and other items
    like these.
    """
    found = set(map(tuple, gaps.loc[gaps["found"], ["task", "protocol"]].to_numpy().tolist()))
    rows = [
        row
        for pair in pairs_of(transplant)
        if (pair.base.task, pair.base.protocol) in found
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
    means = pair.clusters.resampled_means(moved, _draws(pair, seed))
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
            "rho": _plain(rho.estimate),
            "rho_low": _plain(rho.low),
            "rho_high": _plain(rho.high),
            "rho_p": rho.p,
        }
    ]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
