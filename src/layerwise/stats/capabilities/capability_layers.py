"""Which layers a capability needs, which it needs more than another does, and which it can spare.

The answers of a capability's tasks and protocols are pooled by item, so that a run asks one
question of each capability and layer. ``docs/statistics.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from layerwise.stats.cells import Cell, cells
from layerwise.stats.depth.item_curves import beyond_background
from layerwise.stats.families.estimate import exact_difference_bounds, with_holm
from layerwise.stats.items.clusters import independent_items, paired_p_values
from layerwise.stats.items.crossed import crossed_means
from layerwise.stats.share_tests.equivalence import no_loss_p_values
from layerwise.stats.signals.signal import signal_p_values, signals
from layerwise.storage.parquet import frame

from .capability_pools import Pool, capabilities_of, pool_of, pools

LEVEL = 0.05
# The change that is meant where several were made.
MAIN = ("skip", "layer")
NEEDED, NEEDED_MORE, SPARE, GAIN = "needed", "needed more", "spare", "gain"
Chance = Callable[[str, str], float]


def estimates_table(records: pd.DataFrame, chance: Chance, smallest_loss: float) -> pd.DataFrame:
    """``estimates.parquet``: what each capability needs, needs more than another, can spare."""
    every = list(cells(records, over_examples=True))
    single = pd.concat([_single(cell.interventions) for cell in every] or [pd.DataFrame()])
    if single.empty:
        return frame("estimates", [])
    names = single[["kind", "site"]].drop_duplicates().to_numpy().tolist()
    kind, site = MAIN if list(MAIN) in names else names[0]
    only = [_of_kind(cell, kind, site) for cell in every]
    floors = {(cell.task, cell.protocol): cell.floor(chance(cell.task, cell.protocol))
              for cell in only}  # fmt: skip
    signal = signals(every, chance)
    pooled = pools(only, signal, floors)
    rows = layer_estimates(pooled, len(capabilities_of(every)), smallest_loss)
    rows += task_gains(only, signal, chance)
    return frame("estimates", [row | {"kind": kind, "site": site} for row in rows])


def _single(interventions: pd.DataFrame) -> pd.DataFrame:
    """Changes of one layer or part of it: no heads, no sets."""
    alone = interventions["layers"].map(len) == 1
    return interventions.loc[interventions["head"].isna() & alone]


def _of_kind(cell: Cell, kind: str, site: str) -> Cell:
    single = _single(cell.interventions)
    chosen = single.loc[(single["kind"] == kind) & (single["site"] == site)]
    return cell._replace(
        interventions=chosen.reset_index(drop=True),
        correct=cell.correct[:, chosen.index],
        n_draws=None if cell.n_draws is None else cell.n_draws[chosen.index],
        of_examples=tuple(_of_kind(of_example, kind, site) for of_example in cell.of_examples),
    )


def layer_estimates(
    every: Sequence[Pool], n_capabilities: int, smallest_loss: float
) -> list[dict[str, Any]]:
    """Rows of ``estimates.parquet``: what each capability needs, needs more, and can spare."""
    rows = [*_needed(every, n_capabilities), *_needed_more(every, n_capabilities)]
    return [*rows, *_spare(every, n_capabilities, smallest_loss)]


def task_gains(
    every: Sequence[Cell], signal: Mapping[tuple[str, str], bool], chance: Chance
) -> list[dict[str, Any]]:
    """Test whether a changed model is better than the intact one at a single task."""
    # What one task gains may be lost in another of its capability. Where the intact model has no
    # signal, the changed one must beat all controls, too. Such tasks are partly those in which the
    # intact model was unlucky, so tests of all tasks and protocols count. Other questions were
    # asked of the intact model alone; stated chance is held as well.
    n_tests = len(every) * max((len(cell.interventions) for cell in every), default=0)
    rows = []
    for cell in every:
        several = cell.n_draws is not None or cell.of_examples
        if several or not len(cell.interventions) or cell.clusters.n < 2:
            continue
        pool = pool_of([cell], {(cell.task, cell.protocol): np.zeros(len(cell.intact))}, 1)
        p = paired_p_values(pool.net, pool.clusters)
        if not signal[cell.task, cell.protocol]:
            changed = [cell._replace(intact=right) for right in cell.correct.T]
            for controls in (changed, [cell._replace(blind=None) for cell in changed]):
                p = np.maximum(p, signal_p_values(controls, chance))
        gain = -pool.loss.mean(axis=0)
        low, high = _loss_bounds(pool, n_tests)
        gains = _rows(GAIN, pool, gain, (-high, -low), np.where(gain > 0, p, 1.0))
        rows += [row | {"share": None} for row in gains]
    return _corrected(rows, n_tests)


def _corrected(rows: list[dict[str, Any]], n_tests: int) -> list[dict[str, Any]]:
    """Holm-corrected p-values and bounds that agree with them."""
    # An established difference lies on its side of 0, whatever the bounds for all tests together
    # say (Holm's simultaneous bounds: Guilbaud 2008, Biom. J. 50; Strassburger and Bretz 2008,
    # Stat. Med. 27).
    corrected = []
    for row in with_holm(rows, n_tests, to="p_family"):
        sure = row["p_family"] < LEVEL
        side = {}
        if sure and row["what"] != SPARE:
            above = row["estimate"] > 0
            side = {"low": max(row["low"], 0.0)} if above else {"high": min(row["high"], 0.0)}
        corrected.append(row | side | {"n_tests": n_tests, "established": sure})
    return corrected


def _needed(every: Sequence[Pool], n_capabilities: int) -> list[dict[str, Any]]:
    """Test whether the net change of right answers is 0, by exact sign flips of items."""
    rows = []
    n_tests = n_capabilities * max((len(pool.layers) for pool in every), default=0)
    for pool in every:
        # Tasks and protocols with signal are partly those that were lucky: any choice of as many
        # could have been tested.
        p = paired_p_values(pool.net, pool.clusters)
        if pool.draws is not None:
            p = np.maximum(p, crossed_means(pool.draws, pool.clusters).p_values())
        p = np.minimum(p * pool.n_choices, 1.0)
        bounds = _loss_bounds(pool, n_tests * pool.n_choices)
        rows += list(_rows(NEEDED, pool, pool.loss.mean(axis=0), bounds, p))
    return _corrected(rows, n_tests)


def _loss_bounds(pool: Pool, n_tests: int) -> tuple[Float[np.ndarray, " layers"], ...]:
    either_way = np.maximum(pool.loss, 0), np.maximum(-pool.loss, 0)
    n = len(pool.loss)
    worth = np.minimum(*(independent_items(each, pool.clusters) for each in either_way))
    lost, gained = (each.sum(axis=0) * worth / n for each in either_way)
    low, high = exact_difference_bounds(lost, gained, worth, n_tests=n_tests)
    if pool.draws is not None:
        means = crossed_means(pool.draws, pool.clusters)
        reach = means.half_widths(LEVEL / 2 / n_tests)
        low, high = np.minimum(low, means.mean - reach), np.maximum(high, means.mean + reach)
    return low, high


def _spare(every: Sequence[Pool], n_capabilities: int, smallest: float) -> list[dict[str, Any]]:
    """Test whether the loss is smaller than the smallest loss of interest."""
    rows = []
    n_tests = n_capabilities * max((len(pool.layers) for pool in every), default=0)
    for pool in every:
        p = no_loss_p_values(pool.loss, smallest, pool.clusters)
        if pool.draws is not None:
            means = crossed_means(pool.draws, pool.clusters)
            p = np.maximum(p, 1 - means.upper_p_values(smallest))
        bounds = _loss_bounds(pool, n_tests)
        rows += list(_rows(SPARE, pool, pool.loss.mean(axis=0), bounds, p))
    return _corrected(rows, n_tests)


def _needed_more(every: Sequence[Pool], n_capabilities: int) -> list[dict[str, Any]]:
    """Test whether one capability loses more than another, also beyond its background loss."""
    # Both are compared under the protocols that both have signal under. Both contrasts of shares
    # must be significant and agree, so p is the larger one.
    rows: list[dict[str, Any]] = []
    n_layers = max((len(pool.layers) for pool in every), default=0)
    n_tests = comb(n_capabilities, 2) * n_layers
    for pair in combinations(every, 2):
        both = [name for name in pair[0].protocols if name in pair[1].protocols]
        # Draws of examples that all items share are no part of Welch's test.
        alike = np.array_equal(pair[0].layers, pair[1].layers) and pair[0].draws is None
        first, second = (pool.under(both) for pool in pair)
        if not both or not alike or min(first.clusters.n, second.clusters.n) < 2:
            continue
        whole = _contrast(first, second, first.loss, second.loss)
        beyond = _contrast(
            first, second, beyond_background(first.loss), beyond_background(second.loss)
        )
        agree = np.sign(whole.difference) == np.sign(beyond.difference)
        p = np.where(agree, np.maximum(whole.p, beyond.p), 1.0)
        reach = whole.reach(LEVEL / max(n_tests, 1))
        more = whole.difference >= 0
        for pool, less, more_here, sign in ((first, second, more, 1), (second, first, ~more, -1)):
            away = sign * whole.difference
            contrasts = list(_rows(NEEDED_MORE, pool, away, (away - reach, away + reach), p))
            shares = [each.shares(each.loss)[0].tolist() for each in (pool, less)]
            rows += [
                row | {"other": less.capability, "n_other": less.clusters.n,
                       "share": shares[0][i], "share_other": shares[1][i]}
                for i, row in enumerate(contrasts) if more_here[i]
            ]  # fmt: skip
    return _corrected(rows, n_tests)


class _Contrast(NamedTuple):
    """Differences of shares lost, by layer."""

    difference: Float[np.ndarray, " layers"]
    error: Float[np.ndarray, " layers"]
    freedom: Float[np.ndarray, " layers"]

    @property
    def p(self) -> Float[np.ndarray, " layers"]:
        from scipy.special import stdtr

        return 2 * stdtr(self.freedom, -np.abs(self.difference) / self.error)

    def reach(self, level: float) -> Float[np.ndarray, " layers"]:
        from scipy.special import stdtrit

        return -stdtrit(self.freedom, level / 2) * self.error


def _contrast(
    first: Pool,
    second: Pool,
    loss: Float[np.ndarray, "answers layers"],
    other_loss: Float[np.ndarray, "others layers"],
) -> _Contrast:
    """Welch's test of two shares (Welch 1947, Biometrika 34), over clusters of items."""
    shares, squared, freedom, moves = [], [], [], []
    for pool, values in ((first, loss), (second, other_loss)):
        share, moved = pool.shares(values)
        shares.append(share)
        moves.append(moved)
        squared.append(np.maximum((moved**2).sum(axis=0), pool.least_error**2))
        freedom.append(pool.clusters.n - 1)
    total = squared[0] + squared[1] + _shared(first, second, moves)
    df = total**2 / sum(each**2 / n for each, n in zip(squared, freedom, strict=True))
    return _Contrast(shares[0] - shares[1], np.sqrt(total), np.minimum(df, sum(freedom)))


def _shared(
    first: Pool, second: Pool, moves: Sequence[Float[np.ndarray, "clusters layers"]]
) -> Shaped[np.ndarray, " layers"]:
    """Covariance from items that both capabilities share; at least 0."""
    rows = first.clusters.row_of_label, second.clusters.row_of_label
    both = sorted(rows[0].keys() & rows[1].keys())
    products = moves[0][[rows[0][b] for b in both]] * moves[1][[rows[1][b] for b in both]]
    return np.maximum(-2 * products.sum(axis=0), 0.0)


def _rows(
    what: str,
    pool: Pool,
    estimate: Float[np.ndarray, " layers"],
    bounds: Sequence[Float[np.ndarray, " layers"]],
    p: Float[np.ndarray, " layers"],
) -> Iterator[dict[str, Any]]:
    share = pool.loss.mean(axis=0) / (pool.scale or np.nan)
    for i, layer in enumerate(pool.layers.tolist()):
        yield {
            "what": what,
            "layer": layer,
            "capability": pool.capability,
            "tasks": ", ".join(pool.tasks),
            "protocols": ", ".join(pool.protocols),
            "n_items": pool.clusters.n,
            **_accuracies(pool, i),
            "estimate": float(estimate[i]),
            "share": float(share[i]),
            "low": float(bounds[0][i]),
            "high": float(bounds[1][i]),
            "p": float(p[i]),
        }


def _accuracies(pool: Pool, i: int) -> dict[str, Any]:
    return {
        "n_answers": len(pool.loss),
        "acc_intact": float(pool.intact.mean()),
        "acc": float((pool.intact - pool.loss[:, i]).mean()),
    }
