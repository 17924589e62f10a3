"""Interactions of pairs and Shapley values, with intervals and tests over items.

Definitions are in ``docs/interactions.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.stats.effects import ALPHA, N_RESAMPLES, Chance
from layerwise.stats.families.over_run import exact_where_alike, over_run, reach_over_run, sizes_of
from layerwise.stats.items.clusters import Clusters, above_chance, mean_errors
from layerwise.storage.parquet import conform, frame

from .costs import ACCURACY, MARGIN, NATS, Costs, Player, costs_of

REDUNDANT, OVERLAPPING, NATS_ALONE, NONE = "redundant", "overlapping", "nats alone", "none"
PAIRS, PERMUTATIONS = "pairs", "permutations"
# Four log-probabilities, of an engine that agrees with its reference to 1e-4 nats.
ROUNDING = 4e-4
# Of four answers, each right or wrong, two are added and two taken off.
_MOST_BEYOND = 2.0
_INTERACTION, _EXCESS = ("interaction", "low", "high"), ("excess", "excess_low", "excess_high")
_FLIPS, _MOST_SIGNS = 10_000, 20_000_000

PerItem = Float[np.ndarray, "items columns"]


def pairs_table(interactions: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``interaction_pairs.parquet``: what each pair costs beyond the sum of its two."""
    tables = [_pairs(found, seed) for found in costs_of(interactions, chance) if _of_pairs(found)]
    if not tables:
        return frame("interaction_pairs", [])
    n_asked = interactions.groupby(["task", "protocol"]).ngroups
    return conform("interaction_pairs", _over_run(pd.concat(tables, ignore_index=True), n_asked))


def _over_run(table: pd.DataFrame, n_asked: int) -> pd.DataFrame:
    """With p-values, and bounds of interactions that cover together, over all of the run."""
    told = table["signal"].to_numpy(dtype=bool)
    p, error, mean = (table[n].to_numpy(dtype=float) for n in ("p", "error", "interaction"))
    n = table["n_clusters"].to_numpy(dtype=int)
    sizes = sizes_of(table, True, n_asked)
    reach = reach_over_run(error, n, told, True, sizes)
    low, high = mean - reach, mean + reach
    alike = told & (table["measure"] == ACCURACY).to_numpy() & (low == high)
    if alike.any():
        ends = exact_where_alike(mean[alike], n[alike], _MOST_BEYOND, sizes.by_rate)
        low[alike], high[alike] = ends
    return table.assign(
        p_run=over_run(p, told, True, sizes),
        run_tests=sizes.of_rows(told, True),
        run_low=low,
        run_high=high,
    )


def _of_pairs(found: Costs) -> list[tuple[Player, Player]]:
    """The pairs of players if all were removed."""
    pairs = list(combinations(found.players, 2))
    return pairs if all(pair in found.column for pair in pairs) else []


def _pairs(found: Costs, seed: int) -> pd.DataFrame:
    pairs = _of_pairs(found)
    tables = [_measured(found, pairs, measure, seed) for measure in found.costs]
    verdicts = _verdicts(dict(zip(found.costs, tables, strict=True)), found.signal)
    every = [table.assign(verdict=verdicts) for table in tables]
    return pd.concat(every, ignore_index=True)


def _measured(
    found: Costs, pairs: list[tuple[Player, Player]], measure: str, seed: int
) -> pd.DataFrame:
    """The rows of one measure."""
    costs, column = found.costs[measure], found.column
    first, second = (np.array([found.alone(pair[i]) for pair in pairs]) for i in (0, 1))
    both = np.array([column[pair] for pair in pairs])
    beyond = costs[:, both] - costs[:, first] - costs[:, second]
    others = _beyond_others(beyond, pairs, found.players)
    p = _p_values(beyond, found.clusters, stats.generator(seed, found.task, "interactions"))
    p_bh = stats.benjamini_hochberg(p)
    places = {
        f"{which}_{part}": [getattr(pair[i], part) for pair in pairs]
        for i, which in enumerate(("first", "second"))
        for part in ("layer", "head")
    }
    table = pd.DataFrame(places).assign(
        **found.named,
        measure=measure,
        n_items=len(costs),
        cost_first=costs[:, first].mean(axis=0),
        cost_second=costs[:, second].mean(axis=0),
        cost_both=costs[:, both].mean(axis=0),
        **_exact(_with_bounds(_INTERACTION, beyond, found, seed), measure, found, _MOST_BEYOND),
        **_exact(_with_bounds(_EXCESS, others, found, seed), measure, found, 2 * _MOST_BEYOND),
        p=p,
        p_bh=p_bh,
        signal=found.signal,
        significant=found.signal & (p_bh < ALPHA),
        at_floor=_at_floor(found, first, second),
        error=mean_errors(beyond, found.clusters),
        n_clusters=found.clusters.n,
    )
    heads = ["first_head", "second_head"]
    return table.astype(dict.fromkeys(heads, "Int64"))


def _beyond_others(
    beyond: PerItem, pairs: list[tuple[Player, Player]], players: tuple[Player, ...]
) -> PerItem:
    """What a pair's interaction exceeds the mean of those that share one of its two by.

    All nan if there are no others.
    """
    n = len(players)
    if n < 3:
        return np.full(beyond.shape, np.nan)
    within = np.array([[float(player in pair) for player in players] for pair in pairs])
    sums = beyond @ within @ within.T - 2 * beyond
    return beyond - sums / (2 * (n - 2))


def _p_values(
    beyond: PerItem, clusters: Clusters, seed: np.random.Generator
) -> Float[np.ndarray, " columns"]:
    """Sign-flip tests of clusters, with flips enough for a single true pair among all to be found.

    Differences within the engine's accuracy count as none.
    """
    n, m = beyond.shape
    flips = max(_FLIPS, min(20 * m, _MOST_SIGNS // max(n, 1)))
    kept = np.where(np.abs(beyond) < ROUNDING, 0.0, beyond)
    return stats.sign_flip_p_values(clusters.sums(kept), seed=seed, n_flips=flips)


def _at_floor(
    found: Costs, first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"]
) -> np.ndarray:
    """Which of a pair alone already leaves the model not above chance."""
    guesses = np.array(
        [not above_chance(right, found.chance, found.clusters) for right in found.right.T]
    )
    told = np.array(["neither", "first", "second", "both"])
    return told[guesses[first] + 2 * guesses[second]]


def _verdicts(by_measure: dict[str, pd.DataFrame], signal: bool) -> list[str | None]:
    """What nats and margin say of each pair together; null where nothing is claimed."""
    if not signal or NATS not in by_measure or MARGIN not in by_measure:
        return [None] * len(next(iter(by_measure.values())))
    nats, margin = (
        np.sign(by_measure[m]["interaction"]) * by_measure[m]["significant"] for m in (NATS, MARGIN)
    )
    rules = [(nats > 0) & (margin > 0), (nats < 0) & (margin < 0), nats > 0]
    return np.select(rules, [REDUNDANT, OVERLAPPING, NATS_ALONE], NONE).tolist()


def shapley_table(
    interactions: pd.DataFrame, orders: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``shapley.parquet``: how the cost of removing all is shared out among layers or heads."""
    drawn = [
        tuple(
            Player(int(layer), None if pd.isna(head) else int(head))
            for layer, head in zip(order["layer"], order["head"], strict=True)
        )
        for _, order in orders.sort_values(by="place").groupby("permutation", sort=True)
    ]
    tables = []
    for found in costs_of(interactions, chance):
        for measure in found.costs:
            if pairs := _of_pairs(found):
                tables.append(_by_pairs(found, pairs, measure, seed))
            if drawn:
                tables.append(_by_orders(found, drawn, measure, seed))
    return pd.concat(tables, ignore_index=True) if tables else frame("shapley", [])


def _by_pairs(
    found: Costs, pairs: list[tuple[Player, Player]], measure: str, seed: int
) -> pd.DataFrame:
    """The 2-additive approximation: what a player costs alone, and half of its interactions."""
    costs, column = found.costs[measure], found.column
    alone = {player: costs[:, found.alone(player)] for player in found.players}
    values = {player: cost.copy() for player, cost in alone.items()}
    for one, other in pairs:
        half = (costs[:, column[one, other]] - alone[one] - alone[other]) / 2
        values[one] += half
        values[other] += half
    shares = np.column_stack([values[player] for player in found.players])
    return _shared_out(found, measure, shares, seed, by=PAIRS)


def _by_orders(
    found: Costs, drawn: list[tuple[Player, ...]], measure: str, seed: int
) -> pd.DataFrame:
    """The mean over drawn orders of what a player adds to the cost of those before it."""
    costs, column = found.costs[measure], found.column
    place = {player: i for i, player in enumerate(found.players)}
    shares = np.zeros((len(costs), len(place)))
    means = np.zeros((len(drawn), len(place)))
    for number, order in enumerate(drawn):
        sets = [column[tuple(sorted(order[: i + 1]))] for i in range(len(order))]
        added = np.diff(costs[:, sets], axis=1, prepend=0.0)
        at = [place[player] for player in order]
        shares[:, at] += added / len(drawn)
        means[number, at] = added.mean(axis=0)
    sampling = mean_errors(means, Clusters.apart(len(means)))
    more = {"n_permutations": len(drawn), "se_sampling": sampling}
    return _shared_out(found, measure, shares, seed, by=PERMUTATIONS, **more)


def _shared_out(
    found: Costs, measure: str, shares: PerItem, seed: int, *, by: str, **more: Any
) -> pd.DataFrame:
    alone = found.costs[measure][:, [found.alone(player) for player in found.players]]
    table = pd.DataFrame(
        {
            "layer": [player.layer for player in found.players],
            "head": pd.array([player.head for player in found.players], dtype="Int64"),
        }
    ).assign(
        **found.named,
        measure=measure,
        by=by,
        n_items=len(shares),
        alone=alone.mean(axis=0),
        **_with_bounds(("value", "low", "high"), shares, found, seed),
        se=mean_errors(shares, found.clusters),
        total=shares.mean(axis=0).sum(),
        signal=found.signal,
        **{"n_permutations": pd.NA, "se_sampling": np.nan} | more,
    )
    return conform("shapley", table.astype({"n_permutations": "Int64"}))


def _with_bounds(
    names: tuple[str, str, str], values: PerItem, found: Costs, seed: int
) -> dict[str, Any]:
    """Means over items with percentile bootstrap bounds; null of a single cluster."""
    n = found.clusters.n
    drawn = stats.resample_indices(n, N_RESAMPLES, stats.generator(seed, found.task))
    low, high = stats.percentile_bounds(found.clusters.resampled_means(values, drawn), 0.95)
    told = np.isfinite(low) & np.isfinite(high) & (n > 1)
    bounds = (np.where(told, bound, np.nan) for bound in (low, high))
    return dict(zip(names, (values.mean(axis=0), *bounds), strict=True))


def _exact(told: dict[str, Any], measure: str, found: Costs, most: float) -> dict[str, Any]:
    """Bounds in accuracy, exact where all resamples say the same; others as they are."""
    if measure != ACCURACY:
        return told
    estimate, low, high = told.values()
    ends = exact_where_alike(estimate, np.full(len(estimate), found.clusters.n), most)
    bounds = (np.where(low == high, e, b) for e, b in zip(ends, (low, high), strict=True))
    return dict(zip(told, (estimate, *bounds), strict=True))
