"""Tables of removed layers: candidates' scores, the best of them, and the curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.stats import effects as _effects
from layerwise.stats.effects import Chance
from layerwise.stats.families.estimate import finite_or_none
from layerwise.stats.families.multiplicity import (
    Sizes,
    correct_family,
    correct_rows,
    correct_run_wide,
)
from layerwise.stats.items.clusters import Clusters, draws_of_tasks, paired_p_values
from layerwise.stats.share_tests.share_bounds import wide_enough
from layerwise.stats.signals.signal import signals
from layerwise.storage.parquet import conform, frame

GREEDY, BLOCK = "greedy", "block"
EFFECT, DEEP, ANGULAR, INFLUENCE = "effect", "deep", "angular", "influence"
SEARCHES = (GREEDY, BLOCK)
WAYS = (*SEARCHES, EFFECT, DEEP, ANGULAR, INFLUENCE)
BLOCKS = (BLOCK, ANGULAR)
# Shares are computed from counts, nats by an engine that agrees with its reference to 1e-4.
_SAME_SHARE, _SAME_NATS = 1e-9, 1e-4


def signal_table(removal: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``signal`` of the selection items: is the intact model better than blind?"""
    # Here ``chosen`` says of a layer that it was removed; in records it is the option taken.
    baselines = _baselines(removal, SELECTION).drop(columns="chosen", errors="ignore")
    return _effects.signal_table(_as_records(baselines), chance)


def tasks_that_count(removal: pd.DataFrame, chance: Chance) -> list[str]:
    """The tasks with signal on the selection items, corrected over those of a protocol."""
    # The tests of other protocols are not waited for, because layers are chosen by these tasks
    # before the items of the next protocol are asked.
    counting: set[str] = set()
    for _, intact in _baselines(removal, SELECTION).groupby("protocol"):
        have = signals(list(_cells(intact)), chance)
        counting |= {task for (task, _), signal in have.items() if signal}
    return sorted(counting)


def _baselines(removal: pd.DataFrame, split: str) -> pd.DataFrame:
    """The intact model on a split's items, and what it is measured by."""
    intact = removal.loc[(removal["split"] == split) & (removal["step"] == 0)]
    # every order has them
    return intact.drop_duplicates(["task", "protocol", "item", "intervention"])


def _cells(table: pd.DataFrame) -> Iterator[_effects.Cell]:
    return _effects.cells(_as_records(table))


def candidates_table(removal: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``removal_candidates``: what each loses on selection items, a mean over tasks."""
    parts = [_candidates(order, chance) for order in _orders(removal)]
    return pd.concat(parts, ignore_index=True)


def _orders(removal: pd.DataFrame) -> list[pd.DataFrame]:
    return [order for _, order in removal.groupby(["by", "protocol"], sort=False)]


def _candidates(removal: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    counted = removal["task"].isin(tasks_that_count(removal, chance))
    scored = removal["kind"].isin((_effects.INTACT, "skip")) & (removal["split"] == SELECTION)
    measured = removal.loc[counted & scored]
    floors = {
        cell.task: float(cell.floor(chance(cell.task, cell.protocol)).mean())
        for cell in _cells(_baselines(removal, SELECTION))
    }
    means = measured.groupby(["task", "intervention"], sort=False, as_index=False).agg(
        step=("step", "first"),
        protocol=("protocol", "first"),
        n_items=("item", "nunique"),
        acc=("correct", "mean"),
        gold=("gold_logprob", "mean"),
    )
    if means.empty:
        return frame("removal_candidates", [])
    changed = means.loc[means["step"] > 0]
    intact = means.loc[means["step"] == 0].set_index("task").loc[changed["task"]]
    before, acc = (table["acc"].to_numpy(dtype=float)[:, None] for table in (intact, changed))
    floor = changed["task"].map(floors).to_numpy(dtype=float)[:, None]
    share = stats.shares(before, acc, floor)
    lost = changed.assign(share_lost=share[:, 0], nats=intact["gold"].to_numpy() - changed["gold"])
    table = lost.groupby(["step", "intervention"], sort=False, as_index=False).agg(
        protocol=("protocol", "first"),
        n_tasks=("task", "nunique"),
        n_items=("n_items", "sum"),
        share_lost=("share_lost", "mean"),
        nats=("nats", "mean"),
    )
    named = _first_of_each_intervention(measured).reindex(
        columns=["intervention", "by", "layers", "chosen"]
    )
    return conform("removal_candidates", table.merge(named, on="intervention"))


def best_candidate(candidates: pd.DataFrame) -> tuple[int, ...]:
    """The layers that lose least of a step's candidates: by share, by nats, the deepest first."""
    share = candidates["share_lost"]
    tied = candidates.loc[share <= share.min() + _SAME_SHARE]
    nats = tied["nats"]
    if nats.notna().all():
        tied = tied.loc[nats <= nats.min() + _SAME_NATS]
    layers: list[Any] = list(tied["layers"])
    return tuple(map(int, max(layers, key=lambda layers: layers[-1])))


def steps_table(removal: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``removal_steps``: the paired effect of what was removed, by split, task and step."""
    baselines = {split: _baselines(removal, split) for split in (SELECTION, HELD_OUT)}
    parts = [
        _steps(used.loc[used["split"] == split], baselines[split], chance, seed)
        for used in (_chosen_rows(order, chance) for order in _orders(removal))
        for split in baselines
    ]
    whole = pd.concat(parts, ignore_index=True)
    held_out = whole["split"].eq(HELD_OUT).to_numpy(dtype=bool)
    tested = held_out & whole["signal"].eq(True).to_numpy(dtype=bool)
    sizes = Sizes(int(held_out.sum()), 0)
    p = correct_run_wide(whole["p"].to_numpy(dtype=float), tested, sizes=sizes)
    return whole.assign(p_run=p, run_tests=sizes.by_row(tested))


def _chosen_rows(order: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """Choice of each step, of the tasks that count."""
    return order.loc[order["chosen"] & order["task"].isin(tasks_that_count(order, chance))]


def curves_table(removal: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``removal_curves``: what each step loses of a capability, on held-out items."""
    # Of several tasks it is the mean of the shares of the above-floor accuracy, each with the same
    # weight, for accuracies with other floors cannot be averaged. p is then the larger of that of
    # the pooled items, which is exact, and that of this mean; a step is significant only where both
    # point one way. Tasks without signal on the held-out items, after correction over all tasks and
    # protocols that were asked there, do not count.
    rows: list[dict[str, Any]] = []
    n_silent = 0
    baselines = _baselines(removal, HELD_OUT)
    signal = signals(list(_cells(baselines)), chance)
    for order in _orders(removal):
        used = _chosen_rows(order, chance)
        held_out = used.loc[used["split"] == HELD_OUT]
        named = _first_of_each_intervention(held_out).set_index("step")[
            ["by", "intervention", "layers"]
        ]
        all_cells = _cells(pd.concat([baselines, held_out], ignore_index=True))
        swept = [cell for cell in all_cells if len(cell.interventions)]
        judged = [cell for cell in swept if signal[cell.task, cell.protocol]]
        steps = {cell.capability: len(cell.interventions) for cell in swept}
        n_silent += sum(steps[name] for name in steps.keys() - {cell.capability for cell in judged})
        for capability in dict.fromkeys(cell.capability for cell in judged):
            cells = [cell for cell in judged if cell.capability == capability]
            for row in _curve(cells, chance, seed):
                rows.append(dict(named.loc[row["step"]]) | row)
    size = len(rows) + n_silent
    judged = correct_rows([row | {"run_tests": size} for row in rows], size, to="p_run")
    return frame("removal_curves", judged)


def _curve(cells: list[_effects.Cell], chance: Chance, seed: int) -> list[dict[str, Any]]:
    """The steps of one capability under one protocol."""
    every = [cell.clusters for cell in cells]
    draws, together = [], Clusters.concatenate(every)
    drawn = draws_of_tasks([cell.task for cell in cells], every, _effects.N_RESAMPLES, seed)
    net = np.concatenate([cell.intact[:, None].astype(int) - cell.correct for cell in cells])
    for cell, counts in zip(cells, drawn, strict=True):
        floor = cell.floor(chance(cell.task, cell.protocol))
        right = np.column_stack([cell.intact, floor, cell.correct])
        means = cell.clusters.means_of_counts(right, counts)
        draws.append(stats.shares(means[:, :1], means[:, 2:], means[:, 1:2]))
    share = np.mean(draws, axis=0)
    scales = [_effects.cell_scale(c, chance(c.task, c.protocol)) for c in cells]
    of_sample = np.stack([draw[0] for draw in draws])
    low, high = wide_enough(stats.percentile_bounds(share[1:], 0.95), of_sample, scales)
    p = paired_p_values(net, together)
    if len(cells) > 1:
        p = np.maximum(p, _mean_share_p_values(cells, chance, together))
    p_holm = correct_family(p)
    # tasks of unlike numbers of items: pooled, what one gains may outweigh what another loses
    agree = np.sign(net.sum(axis=0)) == np.sign(share[0])
    same = {
        "protocol": cells[0].protocol,
        "capability": cells[0].capability,
        "tasks": ",".join(cell.task for cell in cells),
        "n_tasks": len(cells),
        "n_items": len(net),
    }
    return [
        {
            **same,
            "step": int(step),
            "share_lost": float(share[0, i]),
            "share_low": finite_or_none(low[i]),
            "share_high": finite_or_none(high[i]),
            "p": float(p[i]),
            "p_holm": float(p_holm[i]),
            "significant": bool(p_holm[i] < _effects.ALPHA and agree[i]),
        }
        for i, step in enumerate(cells[0].interventions["layer"])
    ]


def _mean_share_p_values(
    cells: Sequence[_effects.Cell], chance: Chance, together: Clusters
) -> Float[np.ndarray, " steps"]:
    """Two-sided tests of "the mean over tasks of the shares lost is 0", by step."""
    # Each item counts by what it adds to its task's share, numerator and denominator (the delta
    # method: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 2.7.2);
    # Student's t, over clusters, of as many as the task with the fewest has.
    from scipy.stats import t

    shares, parts = [], []
    for cell in cells:
        lost = cell.intact[:, None] - cell.correct.astype(float)
        above = cell.intact - cell.floor(chance(cell.task, cell.protocol))
        shares.append(lost.mean(axis=0) / above.mean())
        parts.append((lost - shares[-1] * above[:, None]) / (above.sum() * len(cells)))
    summed = together.sums(np.concatenate(parts))
    error = np.sqrt((summed**2).sum(axis=0) * together.n / (together.n - 1))
    mean = np.mean(shares, axis=0)
    statistic = np.divide(np.abs(mean), error, out=np.full(len(mean), np.inf), where=error > 0)
    fewest = min(cell.clusters.n for cell in cells)
    return np.where(mean == 0, 1.0, 2 * t.sf(statistic, max(fewest - 1, 1)))


def _steps(used: pd.DataFrame, baselines: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """The effects of one order's steps; signal is corrected over all that was asked."""
    if used.empty:
        return frame("removal_steps", [])
    named = _first_of_each_intervention(used).reindex(
        columns=["intervention", "by", "step", "split"]
    )
    answers = pd.concat([baselines, used], ignore_index=True)
    effects = _effects.effects_table(_as_records(answers), chance, seed)
    table = effects.merge(named, on="intervention")
    return conform("removal_steps", table.sort_values(["task", "step"], ignore_index=True))


def removed_label(by: str, layers: Sequence[int], name: Callable[[int], str] = str) -> str:
    """Layers that a step removed: the layer that it added, or the block, e.g. ``"20-24"``."""
    if by not in BLOCKS or len(layers) == 1:
        return name(layers[-1])
    return f"{name(layers[0])}-{name(layers[-1])}"


def _first_of_each_intervention(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[~table["intervention"].duplicated()]


def _as_records(table: pd.DataFrame) -> pd.DataFrame:
    """The rows as ablation records: whole layers skipped, by the number of them."""
    return table.assign(site="layer", layer=table["step"])
