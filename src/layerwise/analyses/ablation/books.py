"""What a passage protects: the same questions closed and open book, change by change.

Which items are pairs is told by the records (``closed_book``); definitions are in
``docs/statistics.md``, columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import ALPHA, N_RESAMPLES, Cell, bounded_columns, cells, scale_of
from layerwise.stats.families.over_run import (
    exact_difference_bounds,
    exact_where_alike,
    over_run,
    sizes_of,
)
from layerwise.stats.items.clusters import independent_items, sample_and_resamples
from layerwise.stats.share_tests.dissociation import Dissociation, crossed
from layerwise.stats.share_tests.scoring_steps import (
    ScoringStep,
    StepAnswers,
    of_one_draw,
    same_items,
    step_answers,
)
from layerwise.stats.share_tests.share_bounds import bounded, difference_wide_enough, no_narrower
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

CLOSED, OPEN = _KINDS = ("closed", "open")


class Pair(NamedTuple):
    """The records of two tasks that ask the same, of the items that both have.

    Attributes:
        closed: without the passage.
        open: with it; items go by the names of those without.
    """

    closed: pd.DataFrame
    open: pd.DataFrame


def book_tables(
    records: pd.DataFrame, signal: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``books.parquet`` and ``book_pairs.parquet``: what a passage protects from each change.

    Changes are compared only where both tasks have signal under the protocol.
    """
    places = zip(signal["task"], signal["protocol"], strict=True)
    has = dict(zip(places, signal["signal"].tolist(), strict=True))
    pairs: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    # answers are compared one by one, which means over draws of examples are not
    comparable = () if has_several_examples(records) else tuple(_pairs(of_one_draw(records)))
    for pair in comparable:
        both = tuple(next(cells(one)) for one in pair)
        where = {CLOSED: both[0].task, OPEN: both[1].task, "protocol": both[0].protocol}
        known = where | _described(both, facts)
        known |= {f"signal_{k}": has[c.task, c.protocol] for k, c in zip(_KINDS, both, strict=True)}
        asked = _comparable(pair, facts) if known["signal_closed"] and known["signal_open"] else []
        for kind, site, first, second in asked:
            turned = crossed(first.answers, second.answers, first.cell.clusters)
            tables.append(_compared(first, second, turned.apart, facts).assign(**where))
            more = tables[-1]["loses_more"].to_numpy(dtype=object)
            pairs.append(
                known
                | {"kind": kind, "site": site, "p": turned.p}
                | {f"n_{one}_more": int(np.count_nonzero(more == one)) for one in _KINDS}
            )
        pairs += [] if asked else [known]
    _correct(pairs)
    whole = pd.concat(tables, ignore_index=True) if tables else frame("books", [])
    return {
        "books": conform("books", _over_run(whole, len(comparable))) if tables else whole,
        "book_pairs": frame("book_pairs", pairs),
    }


def _pairs(records: pd.DataFrame) -> Iterator[Pair]:
    """Tasks of which one names items of the other as asking the same without the passage."""
    if "closed_book" not in records:
        return
    named = records.loc[records["closed_book"].notna()]
    for (task, protocol), mine in named.groupby(["task", "protocol"], sort=True):
        others = (records["protocol"] == protocol) & (records["task"] != task)
        twins = records.loc[others & records["item"].isin(mine["closed_book"])]
        for _, closed in twins.groupby("task", sort=True):
            first = pd.DataFrame(closed)
            of_item = dict(zip(first["item"], first["cluster"], strict=True))
            there = pd.DataFrame(mine.loc[mine["closed_book"].isin(list(of_item))])
            if not _ask_the_same(there, of_item):
                continue
            item = there["closed_book"].astype(first["item"].dtype)
            cluster = pd.Series([of_item[one] for one in item], index=there.index, dtype=object)
            yield Pair(first, there.assign(item=item, cluster=cluster))


def _ask_the_same(opened: pd.DataFrame, of_item: dict[Any, Any]) -> bool:
    """Whether no two items say that they ask for different things, as with other arguments."""
    told = zip(opened["closed_book"], opened["cluster"], strict=True)
    said = {(of_item[item], cluster) for item, cluster in told}
    return all(one == other for one, other in said if not (pd.isna(one) or pd.isna(other)))


def _described(both: tuple[Cell, ...], facts: Facts) -> dict[str, Any]:
    closed, opened = both
    floors = [cell.floor(facts.chance(cell.task, cell.protocol)).mean() for cell in both]
    return {
        "n_pairs": len(closed.items),
        "n_clusters": closed.clusters.n,
        "acc_closed": float(closed.intact.mean()),
        "acc_open": float(opened.intact.mean()),
        "floor_closed": float(floors[0]),
        "floor_open": float(floors[1]),
        "n_common": int((closed.intact & opened.intact).sum()),
    }


def _comparable(pair: Pair, facts: Facts) -> list[tuple[str, str, StepAnswers, StepAnswers]]:
    """Both tasks' answers under the changes of each kind and site that both were asked under."""
    protocol = str(pair.closed["protocol"].iloc[0])
    rung = ScoringStep(protocol, protocol, "correct", protocol)
    found = [one for records in pair for one in step_answers(records, rung, facts.chance)]
    if len(found) != 2:
        return []
    places = found[0].cell.interventions[["kind", "site"]].dropna().drop_duplicates()
    both = [(k, s, found[0].only(k, s), found[1].only(k, s)) for k, s in places.to_numpy()]
    return [one for one in both if same_items(*one[2:]) and len(one[2].cell.items) > 1]


def _compared(
    first: StepAnswers, second: StepAnswers, found: Dissociation, facts: Facts
) -> pd.DataFrame:
    cell, common = first.cell, max(found.n_common, 1)
    p, heads = found.two_sided, cell.interventions["head"].notna().to_numpy()
    corrected = np.where(heads, stats.benjamini_hochberg(p), stats.holm(p))
    more = np.where(found.p_first <= found.p_second, CLOSED, OPEN)
    table = cell.interventions.assign(
        n_pairs=len(cell.items),
        n_common=found.n_common,
        only_closed=found.only_first,
        only_open=found.only_second,
        lost_both=found.both,
        luck_closed=first.luck,
        luck_open=second.luck,
        protected=(found.only_first - found.only_second) / common if found.n_common else np.nan,
        p=p,
        p_corrected=corrected,
        loses_more=[one if p < ALPHA else None for one, p in zip(more, corrected, strict=True)],
        n_independent=_independent(first, second),  # for exact bounds; not saved
        **_bootstrapped(first, second, facts),
    )
    return table.assign(**_with_unseen_items(table, cell))


def _independent(first: StepAnswers, second: StepAnswers) -> Float[np.ndarray, " changes"]:
    """What the items that are right both ways are worth, as independent ones."""
    common = first.cell.intact & second.cell.intact
    if not common.any():
        return np.zeros(len(first.luck))
    clusters = first.cell.clusters.only(common)
    lost = ~first.cell.correct[common], ~second.cell.correct[common]
    alone = [lost[0] & ~lost[1], lost[1] & ~lost[0]]
    return np.minimum(*(independent_items(one, clusters) for one in alone))


def _bootstrapped(first: StepAnswers, second: StepAnswers, facts: Facts) -> dict[str, Any]:
    """Losses in points, shares and nats, and their differences in the same resamples."""
    cell, n = first.cell, len(first.cell.items)
    indices = sample_and_resamples(
        cell.clusters.n, N_RESAMPLES, stats.generator(facts.seed, cell.task)
    )
    both = [
        np.column_stack([one.intact[:, None] * 1.0 - one.correct, one.nats, one.margins])
        for one in (first.cell, second.cell)
    ]
    above = np.stack([first.above, second.above], axis=1)
    means = cell.clusters.resampled_means(np.column_stack([above, *both]), indices)
    scale = np.where(means[:, :2] > 0, means[:, :2], np.nan)
    draws = np.split(means[:, 2:], 6, axis=1)
    loss, nats, margin = (draws[i::3] for i in range(3))
    share = tuple(one / scale[:, i : i + 1] for i, one in enumerate(loss))
    levels = [facts.chance(one.cell.task, one.cell.protocol) for one in (first, second)]
    columns: dict[str, Any] = {}
    for name, values, ends in (
        ("loss", loss, ("difference", "low", "high")),
        ("share", share, ("share_difference", "share_low", "share_high")),
        ("nats", nats, ("nats_difference", "nats_low", "nats_high")),
        ("margin", margin, ("margin_difference", "margin_low", "margin_high")),
    ):
        columns |= {f"{name}_{k}": one[0] for k, one in zip(_KINDS, values, strict=True)}
        columns |= bounded_columns(ends, values[0] - values[1], n)
    scales = [scale_of(r.cell, level) for r, level in zip((first, second), levels, strict=True)]
    each = [bounded(one, scale) for one, scale in zip(share, scales, strict=True)]
    apart = (columns["share_low"], columns["share_high"])
    ends = difference_wide_enough(columns["share_difference"], apart, *each)
    named = zip(("share_low", "share_high"), ends, strict=True)
    return columns | {name: np.where(np.isfinite(end), end, np.nan) for name, end in named}


def _with_unseen_items(table: pd.DataFrame, cell: Cell) -> dict[str, Float[np.ndarray, " changes"]]:
    """Bounds of differences in points, no narrower than items that the sample would not show allow.

    Each of these loses at most 1 one way and gains at most 1 the other.
    """
    alone = independent_items(np.zeros((len(cell.items), len(table))), cell.clusters)
    estimate, low, high = (
        table[one].to_numpy(dtype=float) for one in ("difference", "low", "high")
    )
    ends = no_narrower((low, high), exact_where_alike(estimate, alone, 2.0))
    return dict(zip(("low", "high"), ends, strict=True))


def _over_run(table: pd.DataFrame, n_pairs: int) -> pd.DataFrame:
    """With p-values over all tests of the run, and bounds that cover together over them."""
    heads, told = table["head"].notna().to_numpy(), np.ones(len(table), dtype=bool)
    sizes = sizes_of(table, heads, n_pairs, [*_KINDS, "protocol"])
    low, high = np.full((2, len(table)), np.nan)
    for mine, n_tests in zip((~heads, heads), sizes, strict=True):
        part = table.loc[mine & (table["n_common"] > 0).to_numpy()]
        n, alone = (part[c].to_numpy(dtype=float) for c in ("n_common", "n_independent"))
        lost, kept = (part[c].to_numpy(dtype=float) for c in ("only_closed", "only_open"))
        low[part.index], high[part.index] = exact_difference_bounds(
            lost * alone / n, kept * alone / n, alone, n_tests=n_tests
        )
    p = table["p"].to_numpy(dtype=float)
    return table.assign(
        p_run=over_run(p, told, heads, sizes),
        run_tests=sizes.of_rows(told, heads),
        protected_run_low=low,
        protected_run_high=high,
    )


def _correct(pairs: list[dict[str, Any]]) -> None:
    """Holm over all pairs that were compared: are there changes of both sorts?"""
    told = [row for row in pairs if "p" in row]
    for row, p in zip(told, stats.holm(np.array([row["p"] for row in told])), strict=True):
        row |= {"p_holm": float(p), "both_sorts": bool(p < ALPHA)}
