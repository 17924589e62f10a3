"""Signal and effects of interventions, computed from ablation records.

Definitions are in ``docs/statistics.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from layerwise import stats
from layerwise.errors import UserError
from layerwise.storage.parquet import conform, frame

from .clusters import (
    Clusters,
    clustered_interval,
    clusters_of,
    design_effects,
    independent_items,
    paired_p_values,
    sample_and_resamples,
    with_design_effect,
)
from .equivalence import no_loss_of_nats_p_values, no_loss_p_values
from .interest import Interest
from .over_run import effects_over_run, exact_difference_bounds, exact_where_no_width
from .signal import Blind, have_signal, signal_p_values, signals

N_RESAMPLES = 2000
ALPHA = 0.05
Chance = Callable[[str, str], float]
# Kinds of records beside those of changes: the model as it is, the model as it is asked other
# items' questions, and what is left of it without any layer.
INTACT, BLIND, NO_LAYERS = "intact", "blind", "no layers"
BASELINES = (INTACT, BLIND, NO_LAYERS)
_READ = [
    "task", "capability", "protocol", "intervention", "kind", "site", "layer", "head", "layers",
    "heads", "item", "cluster", "draw", "correct", "gold_logprob", "margin",
]  # fmt: skip


class Cell(NamedTuple):
    """The records of one task under one protocol, as matrices with a row per item.

    Attributes:
        task: the task's name.
        capability: its capability.
        protocol: the protocol.
        interventions: one row per intervention (``intervention``, ``kind``, ``site``,
            ``layer``, ``head``, ``layers``, ``heads``), by kind, site, layer and head; the intact
            model is not among them.
        intact: whether the intact model was right.
        blind: what it answered to other items' questions; None if it was not asked.
        no_layers: whether it was right without any layer; None if it was not asked.
        correct: whether the model was right under each intervention; the share of its draws in
            which it was, where an intervention has several.
        nats: gold log-probability, intact minus intervened; nan where there is none.
        margins: the same of its margin above the best distractor's.
        items: item ids, in the order of the rows.
        clusters: which items ask for the same thing.
        n_draws: draws of each intervention's noise or donors, over which an item's outcomes are
            averaged; None if there is but one of each.
    """

    task: str
    capability: str
    protocol: str
    interventions: pd.DataFrame
    intact: Bool[np.ndarray, " items"]
    correct: Shaped[np.ndarray, "items interventions"]
    nats: Float[np.ndarray, "items interventions"]
    margins: Float[np.ndarray, "items interventions"]
    items: tuple[str, ...]
    clusters: Clusters
    blind: Blind | None = None
    no_layers: Bool[np.ndarray, " items"] | None = None
    n_draws: Int[np.ndarray, " interventions"] | None = None

    @property
    def net(self) -> Int[np.ndarray, "items interventions"]:
        """Draws in which an item is lost minus those in which it is gained."""
        change = self.intact[:, None].astype(int) - self.correct
        return change if self.n_draws is None else np.rint(change * self.n_draws).astype(int)

    def floor(self, chance: float) -> Float[np.ndarray, " items"]:
        """What is left when everything is lost: right answers without any layer, else ``chance``.

        Args:
            chance: accuracy by guessing.
        """
        if self.no_layers is not None:
            return self.no_layers.astype(float)
        return np.full(len(self.intact), chance)


def layer_skips(records: pd.DataFrame) -> pd.DataFrame:
    """The records of single skipped layers, and those that they are measured by."""
    skips = (records["kind"] == "skip") & (records["site"] == "layer")
    return records.loc[skips | records["kind"].isin(BASELINES)]


def cells(records: pd.DataFrame) -> Iterator[Cell]:
    """Records by task and protocol, in alphabetical order.

    Raises:
        UserError: if the intact model is missing, or not every item is there exactly once
            under every intervention and draw.
    """
    if "head" not in records:  # tables of layers alone have no such columns
        records = records.assign(head=pd.array([None] * len(records), dtype="Int64"), heads=None)
    # texts and other scores are not copied about
    read = records[[name for name in _READ if name in records]]
    for _, group in read.groupby(["task", "capability", "protocol"], sort=True):
        yield _cell(pd.DataFrame(group))


def _cell(whole: pd.DataFrame) -> Cell:
    task, capability, protocol = (str(whole[c].iloc[0]) for c in ("task", "capability", "protocol"))
    group = whole.loc[~whole["kind"].isin((BLIND, NO_LAYERS))]
    described = ["kind", "site", "layer", "head", "intervention"]
    first = group.loc[~group["intervention"].duplicated(), [*described, "layers", "heads"]]
    listed = first.sort_values(described)
    changed = listed.loc[listed["intervention"] != INTACT].reset_index(drop=True)
    drawn = _draws(group)
    _check_complete(group, drawn, len(listed), len(changed))
    rows, found = pd.factorize(group["item"], sort=True)
    items = pd.Index(found)
    names = pd.Index([INTACT, *changed["intervention"]])
    columns = names.get_indexer(pd.Index(group["intervention"]))
    place, shape = (drawn, rows, columns), (drawn.max() + 1, len(items), len(listed))
    right = np.zeros(shape, dtype=bool)
    right[place] = group["correct"].to_numpy(dtype=bool)
    in_nats = np.full((2, *shape), np.nan)
    for values, name in zip(in_nats, ("gold_logprob", "margin"), strict=True):
        if name in group:
            values[place] = group[name].to_numpy(dtype=float)
    correct, scores, n_draws = right[0, :, 1:], in_nats[:, 0], None
    if len(right) > 1:
        correct, scores, n_draws = _over_draws(drawn, columns, right, in_nats)
    nats, margins = scores[:, :, :1] - scores[:, :, 1:]
    return Cell(
        task, capability, protocol, changed, right[0, :, 0], correct, nats, margins,
        tuple(map(str, items)), clusters_of(group, items), _blind(whole, items),
        _without_layers(whole, items), n_draws,
    )  # fmt: skip


def _draws(group: pd.DataFrame) -> Int[np.ndarray, " rows"]:
    """Which draw a record is of; 0 where nothing is drawn."""
    if "draw" not in group:
        return np.zeros(len(group), dtype=int)
    return group["draw"].fillna(0).to_numpy(dtype=int)


def _over_draws(
    drawn: Int[np.ndarray, " rows"],
    columns: Int[np.ndarray, " rows"],
    right: Bool[np.ndarray, "draws items listed"],
    in_nats: Float[np.ndarray, "scores draws items listed"],
) -> tuple[Any, Any, Any]:
    """Means over the draws of each item, so that draws are no items.

    Returns:
        Right answers and nats, and over how many draws; the intact model is drawn but once.
    """
    there = np.zeros((right.shape[0], 1, right.shape[2]), dtype=bool)
    there[drawn, 0, columns] = True
    n_draws = there.sum(axis=(0, 1))
    means = np.where(there, in_nats, 0.0).sum(axis=1) / n_draws
    return (right.sum(axis=0) / n_draws)[:, 1:], means, n_draws[1:]


def _blind(whole: pd.DataFrame, items: pd.Index) -> Blind | None:
    rows = whole.loc[whole["kind"] == BLIND]
    if rows.empty:
        return None
    if rows.duplicated(["item", "intervention"]).any():
        raise _incomplete(rows)
    counted = rows["correct"].groupby(rows["item"]).agg(["sum", "size"]).reindex(items)
    right, asked = (counted[name].fillna(0).to_numpy(dtype=int) for name in ("sum", "size"))
    return Blind(right, asked)


def _without_layers(whole: pd.DataFrame, items: pd.Index) -> Bool[np.ndarray, " items"] | None:
    rows = whole.loc[whole["kind"] == NO_LAYERS]
    if rows.empty:
        return None
    if sorted(map(str, rows["item"])) != sorted(map(str, items)):
        raise _incomplete(rows)
    return rows.set_index("item")["correct"].reindex(items).to_numpy(dtype=bool)


def _check_complete(
    group: pd.DataFrame, drawn: Int[np.ndarray, " rows"], n_listed: int, n_changed: int
) -> None:
    if n_listed == n_changed:
        raise UserError(
            f"The records of {_where(group)} lack the intact model: expected rows whose "
            "intervention is 'intact'; run the ablation again."
        )
    each = group[["item", "intervention"]]
    if drawn.any():
        each = each.assign(draw=drawn)
        n_listed = len(each[["intervention", "draw"]].drop_duplicates())
    if each.duplicated().any() or len(group) != n_listed * group["item"].nunique():
        raise _incomplete(group)


def _incomplete(group: pd.DataFrame) -> UserError:
    return UserError(
        f"The records of {_where(group)} are incomplete or doubled: expected every item once under "
        "every intervention; run the ablation again."
    )


def _where(group: pd.DataFrame) -> str:
    return f"task {group['task'].iloc[0]!r} under protocol {group['protocol'].iloc[0]!r}"


def signal_table(records: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``signal.parquet``: does the intact model do better than blind, per task and protocol?

    Args:
        records: ablation records.
        chance: (task, protocol) -> accuracy by guessing.
    """
    every = list(cells(records))
    p = signal_p_values(every, chance)
    taken = _most_taken(records)
    rows = [
        _signal_row(cell, chance(cell.task, cell.protocol))
        | {"p": one, "signal": signal}
        | taken.get((cell.task, cell.protocol), {})
        for cell, one, signal in zip(every, p.tolist(), have_signal(p).tolist(), strict=True)
    ]
    return frame("signal", rows)


def _most_taken(records: pd.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    """By task and protocol, the place of the options that the intact model takes most often."""
    if "chosen" not in records:
        return {}
    intact = records.loc[(records["kind"] == INTACT) & records["chosen"].notna()]
    found = {}
    for (task, protocol), group in intact.groupby(["task", "protocol"]):
        counts = np.bincount(group["chosen"].to_numpy(dtype=int))
        told = {"most_taken": int(counts.argmax()), "n_most_taken": int(counts.max())}
        found[str(task), str(protocol)] = told
    return found


def _signal_row(cell: Cell, chance: float) -> dict[str, Any]:
    found = clustered_interval(cell.intact, cell.clusters)
    blind = np.nan if cell.blind is None else cell.blind.accuracy
    return {
        "task": cell.task,
        "capability": cell.capability,
        "protocol": cell.protocol,
        "n_items": len(cell.intact),
        "n_clusters": cell.clusters.n,
        "chance": chance,
        "accuracy": found.estimate,
        "low": found.low,
        "high": found.high,
        "blind": None if np.isnan(blind) else blind,
        "no_layers": None if cell.no_layers is None else float(cell.no_layers.mean()),
    }


def effects_table(
    records: pd.DataFrame, chance: Chance, seed: int, interest: Interest | None = None
) -> pd.DataFrame:
    """``effects.parquet``: the paired effect of every intervention, per task and protocol.

    Args:
        records: ablation records.
        chance: (task, protocol) -> accuracy by guessing.
        seed: seed of the bootstrap; a task's resamples are the same under all protocols.
        interest: the smallest effects of interest; the usual ones if None.
    """
    smallest = interest or Interest()
    every = list(cells(records))
    signal = signals(every, chance)
    tables = [
        _effects(
            cell,
            chance(cell.task, cell.protocol),
            signal[cell.task, cell.protocol],
            seed,
            smallest,
        )
        for cell in every
        if len(cell.interventions)
    ]
    if not tables:
        return frame("effects", [])
    whole = pd.concat(tables, ignore_index=True)
    rounded = {name: whole[name].round().astype(int) for name in ("n_lost", "n_gained")}
    return conform("effects", whole.assign(**effects_over_run(whole), **rounded))


def _effects(
    cell: Cell, chance: float, signal: bool, seed: int, smallest: Interest
) -> pd.DataFrame:
    change, net = cell.intact[:, None].astype(int) - cell.correct, cell.net
    either_way = np.maximum(change, 0), np.maximum(-change, 0)
    lost, gained = (each.sum(axis=0) for each in either_way)
    alone = [independent_items(each, cell.clusters) for each in either_way]
    p_no_loss = no_loss_p_values(lost, gained, np.full(len(lost), len(cell.intact)), smallest.loss)
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
        n_draws=1 if cell.n_draws is None else cell.n_draws,
        p_no_loss=with_design_effect(
            p_no_loss, design_effects(change.astype(float), cell.clusters), cell.clusters
        ),
        p_no_loss_nats=no_loss_of_nats_p_values(cell.nats, smallest.nats, clusters=cell.clusters),
        **_bootstrapped(cell, cell.floor(chance), seed, has_scale=signal),
    )
    family = table.groupby(["kind", "site"], dropna=False)["p"]
    table["p_holm"] = family.transform(lambda p: stats.holm(p.to_numpy()))
    table["p_bh"] = family.transform(lambda p: stats.benjamini_hochberg(p.to_numpy()))
    table["significant"] = signal & (corrected(table) < ALPHA)
    return table.assign(**exact_where_no_width(table, least_above(cell, chance)))


def least_above(cell: Cell, chance: float) -> float:
    """A lower bound (97.5 %) of the intact accuracy above the floor, of one task and protocol.

    Args:
        cell: its records.
        chance: accuracy by guessing, where the floor was not measured.
    """
    if cell.no_layers is None:
        return clustered_interval(cell.intact, cell.clusters, 0.975).low - chance
    changes = [cell.intact & ~cell.no_layers, ~cell.intact & cell.no_layers]
    alone = min(independent_items(each[:, None], cell.clusters)[0] for each in changes)
    lost, gained = (each.sum(keepdims=True) * (alone / len(each)) for each in changes)
    return float(exact_difference_bounds(lost, gained, np.full(1, alone), 0.975)[0][0])


def corrected(effects: pd.DataFrame) -> pd.Series:
    """The p-values that "significant" goes by: Benjamini-Hochberg of heads, Holm of layers.

    Of hundreds of heads some may be false, at a stated rate; of layers none.
    """
    found = np.where(effects["head"].notna(), effects["p_bh"], effects["p_holm"])
    return pd.Series(found, index=effects.index)


def _bootstrapped(
    cell: Cell, floor: Float[np.ndarray, " items"], seed: int, *, has_scale: bool
) -> dict[str, Any]:
    n = len(cell.intact)
    indices = sample_and_resamples(cell.clusters.n, N_RESAMPLES, stats.generator(seed, cell.task))
    together = np.column_stack([cell.intact, floor, cell.correct, cell.nats, cell.margins])
    means = cell.clusters.resampled_means(together, indices)
    ends = 2 + np.arange(3) * cell.correct.shape[1]
    intact, lowest, changed, nats, margins = np.split(means, [1, *ends], axis=1)
    if not has_scale:
        lowest = np.full_like(lowest, np.inf)
    return (
        bounded_columns(("acc_diff", "acc_diff_low", "acc_diff_high"), intact - changed, n)
        | bounded_columns(
            ("share_lost", "share_low", "share_high"), stats.shares(intact, changed, lowest), n
        )
        | bounded_columns(("nats", "nats_low", "nats_high"), nats, n)
        | bounded_columns(("margin", "margin_low", "margin_high"), margins, n)
    )


def bounded_columns(
    names: tuple[str, str, str], draws: Float[np.ndarray, "draws columns"], n: int
) -> dict[str, Any]:
    """Columns of estimates with their 95 % percentile bounds, by name.

    Args:
        names: of the estimate, and of its lower and upper bound.
        draws: the sample itself (row 0), then resamples.
        n: number of items; of one item there are no bounds.

    Returns:
        Null without an estimate, and where a bound has no end.
    """
    estimate = draws[0]
    bounds = stats.percentile_bounds(draws[1:], 0.95)
    said = ~np.isnan(estimate) & (n > 1)
    low, high = (np.where(said & np.isfinite(b), b, np.nan) for b in bounds)
    return dict(zip(names, (estimate, low, high), strict=True))
