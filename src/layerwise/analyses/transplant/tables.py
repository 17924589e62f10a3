"""The gap between two models, and what each change moves of it, with intervals and tests.

Definitions are in ``docs/transplant.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.errors import UserError
from layerwise.presentation.rows import numbers, rows
from layerwise.stats.cells import Cell, cells_by_host, intact_nats
from layerwise.stats.effects import ALPHA, INTACT, Chance
from layerwise.stats.families.estimate import (
    bootstrap_means,
    bounded_columns,
    estimate,
    exact,
    finite_or_none,
    mean_columns,
    paired_bounds,
)
from layerwise.stats.families.multiplicity import correct_rows
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
    have_signal,
    signal_p_values,
    without_the_question,
)
from layerwise.storage.parquet import conform, frame
from layerwise.tasks import Task

from .exchange.names import BASE, BRINGS, DESTROYS, HOSTS, OTHER, SINGLE, WEIGHTS

# What statistics of effects call the columns of moved accuracy.
_AS_EFFECTS = {
    "acc_diff": "moved", "acc_diff_low": "moved_low", "acc_diff_high": "moved_high",
    "n_lost": "n_moved", "n_gained": "n_against", "share_lost": "share",
}  # fmt: skip
DESCRIBED = ["set", "site", "layer", "layers", "t", "head", "heads", "exchange"]


class HostPair(NamedTuple):
    """One task under one protocol, asked of both models."""

    cells: dict[str, Cell]  # by host, its records as matrices; rows are the same items
    # By host, the intact model's gold log-probabilities; nan where there are none.
    nats: dict[str, Float[np.ndarray, " items"]]
    described: pd.DataFrame  # by intervention, what was exchanged
    better: str  # the model that is right more often, ``other`` if neither is
    worse: str  # the other one

    @property
    def clusters(self) -> Clusters:
        """Clusters of items that ask for the same thing."""
        return self.cells[BASE].clusters

    @property
    def key(self) -> tuple[str, str]:
        """Task and protocol."""
        return self.cells[BASE].task, self.cells[BASE].protocol

    @property
    def lead(self) -> Int[np.ndarray, " items"]:
        """Items that the better model has right and the other has not, minus the reverse."""
        return self.cells[self.better].intact.astype(int) - self.cells[self.worse].intact

    def cell_columns(self) -> dict[str, Any]:
        """Task, capability and protocol."""
        base = self.cells[BASE]
        return {"task": base.task, "capability": base.capability, "protocol": base.protocol}


def host_pairs(transplant: pd.DataFrame) -> Iterator[HostPair]:
    """Both models' records by task and protocol, in alphabetical order."""
    transplant = transplant.loc[transplant["split"].isna()]
    for cells in cells_by_host(transplant, HOSTS, "both models; run the transplant"):
        base, other = cells[BASE], cells[OTHER]
        of = rows(transplant, task=base.task, protocol=base.protocol)
        once = of.loc[of["set"].notna()].drop_duplicates("intervention")
        order = HOSTS if base.intact.sum() > other.intact.sum() else HOSTS[::-1]
        yield HostPair(
            cells, intact_nats(of, base), once.set_index("intervention")[DESCRIBED], *order
        )


def gaps_table(transplant: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``transplant_gaps``: is one of the two models better than the other, and which?

    A gap is found where the better model is right on significantly more of the same items
    (McNemar's exact test, by clusters; Holm over all tasks and protocols) and has signal itself.
    """
    pairs = list(host_pairs(transplant))
    if not pairs:
        return frame("transplant_gaps", [])
    cells = [pair.cells[host] for pair in pairs for host in HOSTS]
    signal = have_signal(signal_p_values(cells, chance)).reshape(-1, 2).tolist()
    gaps = correct_rows([_gap(pair, seed) for pair in pairs])
    for row, pair, of_hosts in zip(gaps, pairs, signal, strict=True):
        has: dict[str, bool] = dict(zip(HOSTS, of_hosts, strict=True))
        row |= {f"signal_{host}": has[host] for host in HOSTS}
        row["found"] = row["p_holm"] < ALPHA and has[pair.better]
        row["chance"] = chance(row["task"], row["protocol"])
    return frame("transplant_gaps", gaps)


def _gap(pair: HostPair, seed: int) -> dict[str, Any]:
    net, clusters = pair.lead, pair.clusters
    low, high = paired_bounds(net, clusters)
    apart = (pair.nats[pair.better] - pair.nats[pair.worse])[:, None]
    random = stats.generator(seed, pair.cells[BASE].task)
    nats = mean_columns("nats", "nats_", apart, clusters, random)
    return {
        **pair.cell_columns(),
        "better": pair.better,
        "n_items": len(net),
        "n_clusters": clusters.n,
        **{f"acc_{host}": float(pair.cells[host].intact.mean()) for host in HOSTS},
        "gap": float(net.mean()),
        "gap_low": low,
        "gap_high": high,
        "n_better": int((net > 0).sum()),
        "n_worse": int((net < 0).sum()),
        "p": float(paired_p_values(net[:, None], clusters)[0]),
        **{name: finite_or_none(values[0]) for name, values in nats.items()},
    }


def effects_table(
    transplant: pd.DataFrame, gaps: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``transplant_effects``: what every change moves of the gap between the two models."""
    found = with_gap(gaps)
    tables = [
        _effects(pair, host, chance, seed, has_gap=pair.key in found)
        for pair in host_pairs(transplant)
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


def with_gap(gaps: pd.DataFrame) -> set[tuple[str, str]]:
    """Tasks and protocols with a gap that can be moved."""
    return {(row.task, row.protocol) for row in gaps.loc[gaps["found"]].itertuples()}


def _effects(
    pair: HostPair, host: str, chance: Chance, seed: int, *, has_gap: bool
) -> pd.DataFrame:
    """One model with everything that was put into it."""
    cell, clusters, brings = pair.cells[host], pair.clusters, host == pair.worse
    changed = cell.correct.astype(int) - cell.intact[:, None]
    net = changed if brings else -changed
    moved, against = net > 0, net < 0
    p = paired_p_values(net, clusters)
    if brings:  # what a model that guesses anew gets right by luck is not brought
        n = np.full(net.shape[1], len(net))
        level = np.full(len(n), chance(cell.task, cell.protocol))
        guessing = with_design_effect(
            above_chance_p_values(cell.correct.sum(axis=0), n, level),
            design_effects(cell.correct.astype(float), clusters),
            clusters,
        )
        # The changed models are not asked without the question: the better model's answers to
        # other items' questions stand for theirs, and a guesser's of the options alone.
        controls = without_the_question(pair.cells[pair.better])
        blind = [better_than_all_p_value(right, controls, clusters) for right in cell.correct.T]
        p = np.maximum.reduce([p, guessing, np.array(blind)])
    table = pair.described.loc[list(cell.interventions["intervention"])].reset_index()
    table = table.assign(
        **pair.cell_columns(),
        host=host,
        direction=BRINGS if brings else DESTROYS,
        n_items=len(net),
        n_clusters=clusters.n,
        n_independent=np.minimum(*(independent_items(one, clusters) for one in (moved, against))),
        **{f"acc_{name}": pair.cells[name].intact.mean() for name in HOSTS},
        acc=cell.correct.mean(axis=0),
        n_lost=moved.sum(axis=0),
        n_gained=against.sum(axis=0),
        p=p,
        signal=has_gap,
        **_bootstrap_columns(pair, host, seed, has_scale=has_gap),
    )
    return table.assign(**with_unseen_items(table, share_scale(pair.lead, clusters)))


def _bootstrap_columns(pair: HostPair, host: str, seed: int, *, has_scale: bool) -> dict[str, Any]:
    cell, brings = pair.cells[host], host == pair.worse
    sign, n = (-1 if brings else 1), len(cell.intact)
    intact = (pair.cells[name].intact for name in (pair.better, pair.worse, host))
    better, worse, own, changed, nats = bootstrap_means(
        cell.task, pair.clusters, seed, *intact, cell.correct, sign * cell.nats
    )
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
    """``transplant_ranks``: do the layers that move most of the gap differ most in weight?

    Spearman's rank correlation over single layers, or heads, between distance of weights and moved
    accuracy, with a smoothed bootstrap interval over items: for these layers, and other items
    like these.
    """
    found = with_gap(gaps)
    ranks = [
        _ranks(pair, host, distances, seed)
        for pair in host_pairs(transplant)
        if pair.key in found
        for host in HOSTS
    ]
    return frame("transplant_ranks", [row for row in ranks if row])


def _ranks(pair: HostPair, host: str, distances: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The correlation in one host; nothing of fewer than three layers."""
    cell = pair.cells[host]
    of = pair.described.loc[list(cell.interventions["intervention"])]
    single = (of["set"] == SINGLE) & (of["t"] == 1) & (of["exchange"] == WEIGHTS)
    chosen = np.flatnonzero(single)
    if len(chosen) < 3:
        return {}
    site = str(of["site"].iloc[chosen[0]])
    apart = distances.loc[distances["site"] == site].set_index(["layer", "head"])["distance"]
    places = pd.MultiIndex.from_frame(of[["layer", "head"]].iloc[chosen])
    sign = 1 if host == pair.worse else -1
    moved = sign * (cell.correct[:, chosen].astype(float) - cell.intact[:, None])
    (means,) = bootstrap_means(cell.task, pair.clusters, seed, moved)
    far = np.broadcast_to(apart.reindex(places).to_numpy(dtype=float), means.shape)
    random = stats.generator(seed, "rank correlation", cell.task, host)
    # distances of weights are no means over items
    rho = rank_correlation(far, means, pair.clusters.n, random, sampled=(False, True))
    return {
        **pair.cell_columns(),
        "host": host,
        "direction": BRINGS if host == pair.worse else DESTROYS,
        "site": site,
        "n_layers": len(chosen),
        "n_items": len(cell.intact),
        **rho.columns("rho", "rho_"),
    }


def split_by_cluster(task: Task, held_out: float, seed: int) -> dict[str, Task]:
    """A task's items to choose by, and those held out; what asks for the same is in one part."""
    named = [item.id if item.cluster is None else item.cluster for item in task.items]
    clusters = list(dict.fromkeys(named))
    n = round(held_out * len(clusters))
    if not 0 < n < len(clusters):
        raise UserError(
            f"Of task {task.name!r} {n} of {len(clusters)} items would be held out; expected at "
            "least one item to choose layers by and one held out: take more items, or another "
            "held_out."
        )
    drawn = stats.generator(seed, HELD_OUT).permutation(len(clusters))[:n]
    out = {clusters[i] for i in drawn.tolist()}
    halves = {SELECTION: [], HELD_OUT: []}
    for item, cluster in zip(task.items, named, strict=True):
        halves[HELD_OUT if cluster in out else SELECTION].append(item)
    return {split: replace(task, items=tuple(items)) for split, items in halves.items()}


def best_change(tried: Sequence[pd.DataFrame], direction: str) -> int:
    """Index of the change that moves most: by accuracy, then log-probability, then the first."""
    sign = 1 if direction == BRINGS else -1
    means = [
        [sign * float(numbers(table, name).mean()) for name in ("correct", "gold_logprob")]
        for table in tried
    ]
    scores = [(right, 0.0 if np.isnan(nats) else nats, -i) for i, (right, nats) in enumerate(means)]
    return -max(scores)[2]


def greedy_table(
    transplant: pd.DataFrame, gaps: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``transplant_greedy``: what layers that were chosen one after the other move."""
    held_out = rows(transplant, split=HELD_OUT)
    if held_out.empty:
        return frame("transplant_greedy", [])
    plain = transplant.loc[(transplant["kind"] == INTACT) & transplant["split"].isna()]
    items = held_out[["task", "protocol", "item"]].drop_duplicates()
    joined = pd.concat([plain.merge(items), held_out.assign(split=None)])
    effects = effects_table(conform("transplant", joined), gaps, chance, seed)
    change = ["task", "protocol", "host", "intervention"]
    steps = pd.DataFrame(held_out[[*change, "step"]]).drop_duplicates(change)
    chosen = effects.merge(steps, on=change)
    chosen_by = [_selection(row, transplant) for row in chosen.to_dict("records")]
    table = pd.concat([chosen, pd.DataFrame(chosen_by)], axis=1)
    order = ["task", "protocol", "host", "step"]
    return conform("transplant_greedy", table.sort_values(order).reset_index(drop=True))


def _selection(row: dict[str, Any], transplant: pd.DataFrame) -> dict[str, Any]:
    """Number of changes tried at a step, and what the chosen one moved on its own items."""
    about = {name: row[name] for name in ("task", "protocol", "host")}
    tried = rows(transplant, **about, split=SELECTION, step=row["step"])
    with_change = rows(tried, intervention=row["intervention"])
    plain = rows(transplant, **about, kind=INTACT, item=list(with_change["item"]))
    moved = float(numbers(with_change, "correct").mean() - numbers(plain, "correct").mean())
    return {
        "n_candidates": len(set(tried["intervention"])),
        "n_selection": len(with_change),
        "moved_selection": moved if row["direction"] == BRINGS else -moved,
    }
