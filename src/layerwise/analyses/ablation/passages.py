"""What a passage protects: the same questions closed and open book, change by change.

Which items are pairs is told by the records (``closed_book``); definitions are in
``docs/statistics.md``, columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.presentation.rows import rows
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import ALPHA, Cell, cells, scale_of
from layerwise.stats.families.estimate import (
    Ends,
    bounded_columns,
    estimate,
    exact_difference_bounds,
    exact_where_alike,
    resampled,
    with_holm,
)
from layerwise.stats.items.clusters import independent_items
from layerwise.stats.share_tests.dissociation import Dissociation, crossed
from layerwise.stats.share_tests.scoring_steps import (
    ScoringStep,
    StepAnswers,
    of_one_draw,
    same_items,
    step_answers,
)
from layerwise.stats.share_tests.share_bounds import bounded, difference_wide_enough, no_narrower
from layerwise.stats.signals.signal import signals_of
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

CLOSED, OPEN = _KINDS = ("closed", "open")


def book_tables(
    records: pd.DataFrame, signal: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``books.parquet`` and ``book_pairs.parquet``: what a passage protects from each change.

    Changes are compared only where both tasks have signal under the protocol.
    """
    has = signals_of(signal)
    pairs: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    # answers are compared one by one, which means over draws of examples are not
    comparable = () if has_several_examples(records) else tuple(_pairs(of_one_draw(records)))
    for sides in comparable:
        closed, opened = (next(cells(side)) for side in sides)
        where = {CLOSED: closed.task, OPEN: opened.task, "protocol": closed.protocol}
        known = where | {
            "n_pairs": len(closed.items),
            "n_clusters": closed.clusters.n,
            "n_common": int((closed.intact & opened.intact).sum()),
        }
        for kind, cell in ((CLOSED, closed), (OPEN, opened)):
            floor = cell.floor(facts.chance(cell.task, cell.protocol)).mean()
            known |= {
                f"acc_{kind}": float(cell.intact.mean()),
                f"floor_{kind}": float(floor),
                f"signal_{kind}": has[cell.task, cell.protocol],
            }
        places = (
            _comparable(sides, facts) if known["signal_closed"] and known["signal_open"] else []
        )
        for kind, site, first, second in places:
            turned = crossed(first.answers, second.answers, first.cell.clusters)
            tables.append(_compared(first, second, turned.apart, facts).assign(**where))
            pairs.append(known | {"kind": kind, "site": site, "p": turned.p})
        pairs += [] if places else [known]
    if not tables:
        return {"books": frame("books", []), "book_pairs": frame("book_pairs", pairs)}
    whole = pd.concat(tables, ignore_index=True)
    heads = whole["head"].notna().to_numpy(dtype=bool)
    table = estimate(
        whole, _exact, _KEY, by_rate=heads, n_asked=len(comparable), part=_KEY[:3],
        ends="protected_run_",
    )  # fmt: skip
    table["loses_more"] = table["more"].where(table["significant"], None)
    # Are there changes of both sorts? Corrected over all pairs that were compared.
    for pair in (tested := with_holm([row for row in pairs if "p" in row])):
        more = list(rows(table, **{name: pair[name] for name in _KEY})["loses_more"])
        pair |= {f"n_{kind}_more": more.count(kind) for kind in _KINDS}
        pair["both_sorts"] = pair["p_holm"] < ALPHA
    in_turn = iter(tested)
    return {
        "books": conform("books", table),
        "book_pairs": frame("book_pairs", [next(in_turn) if "p" in p else p for p in pairs]),
    }


_KEY = [*_KINDS, "protocol", "kind", "site"]


def _pairs(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Records of two tasks that ask the same, without the passage and with it.

    Items of the task with the passage go by the names of those without.
    """
    if "closed_book" not in records:
        return
    named = records.loc[records["closed_book"].notna()]
    for (task, protocol), part in named.groupby(["task", "protocol"], sort=True):
        others = (records["protocol"] == protocol) & (records["task"] != task)
        twins = records.loc[others & records["item"].isin(part["closed_book"])]
        for _, closed in twins.groupby("task", sort=True):
            first = pd.DataFrame(closed)
            of_item = dict(zip(first["item"], first["cluster"], strict=True))
            there = pd.DataFrame(part.loc[part["closed_book"].isin(list(of_item))])
            if not _ask_the_same(there, of_item):
                continue
            item = there["closed_book"].astype(first["item"].dtype)
            cluster = pd.Series([of_item[name] for name in item], index=there.index, dtype=object)
            yield first, there.assign(item=item, cluster=cluster)


def _ask_the_same(opened: pd.DataFrame, of_item: dict[Any, Any]) -> bool:
    """Whether no two items say that they ask for different things, as with other arguments."""
    named = zip(opened["closed_book"], opened["cluster"], strict=True)
    pairs = {(of_item[item], cluster) for item, cluster in named}
    return all(first == other for first, other in pairs if not (pd.isna(first) or pd.isna(other)))


def _comparable(
    sides: tuple[pd.DataFrame, pd.DataFrame], facts: Facts
) -> list[tuple[str, str, StepAnswers, StepAnswers]]:
    """Both tasks' answers under the changes of each kind and site that both were asked under."""
    protocol = str(sides[0]["protocol"].iloc[0])
    as_asked = ScoringStep(protocol, protocol, "correct", protocol)
    answers = [step for records in sides for step in step_answers(records, as_asked, facts.chance)]
    if len(answers) != 2:
        return []
    places = answers[0].cell.interventions[["kind", "site"]].dropna().drop_duplicates()
    both = [(k, s, answers[0].only(k, s), answers[1].only(k, s)) for k, s in places.to_numpy()]
    return [place for place in both if same_items(*place[2:]) and len(place[2].cell.items) > 1]


def _compared(
    first: StepAnswers, second: StepAnswers, tests: Dissociation, facts: Facts
) -> pd.DataFrame:
    cell, common = first.cell, max(tests.n_common, 1)
    table = cell.interventions.assign(
        n_pairs=len(cell.items),
        n_common=tests.n_common,
        only_closed=tests.only_first,
        only_open=tests.only_second,
        lost_both=tests.both,
        luck_closed=first.luck,
        luck_open=second.luck,
        protected=(tests.only_first - tests.only_second) / common if tests.n_common else np.nan,
        p=tests.two_sided,
        more=np.where(tests.p_first <= tests.p_second, CLOSED, OPEN),
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
    return np.minimum(*(independent_items(names, clusters) for names in alone))


def _bootstrapped(first: StepAnswers, second: StepAnswers, facts: Facts) -> dict[str, Any]:
    """Losses in points, shares and nats, and their differences in the same resamples."""
    cell, n = first.cell, len(first.cell.items)
    both = [
        (cell.intact[:, None] * 1.0 - cell.correct, cell.nats, cell.margins)
        for cell in (first.cell, second.cell)
    ]
    *above, loss1, nats1, margin1, loss2, nats2, margin2 = resampled(
        cell.task, cell.clusters, facts.seed, first.above, second.above, *both[0], *both[1]
    )
    loss, nats, margin = (loss1, loss2), (nats1, nats2), (margin1, margin2)
    share = tuple(
        lost / np.where(whole > 0, whole, np.nan) for lost, whole in zip(loss, above, strict=True)
    )
    columns: dict[str, Any] = {}
    for name, values, ends in (
        ("loss", loss, ("difference", "")),
        ("share", share, ("share_difference", "share_")),
        ("nats", nats, ("nats_difference", "nats_")),
        ("margin", margin, ("margin_difference", "margin_")),
    ):
        columns |= {f"{name}_{k}": value[0] for k, value in zip(_KINDS, values, strict=True)}
        columns |= bounded_columns(*ends, values[0] - values[1], n)
    chances = [facts.chance(step.cell.task, step.cell.protocol) for step in (first, second)]
    each = [
        bounded(values, scale_of(step.cell, chance))
        for values, step, chance in zip(share, (first, second), chances, strict=True)
    ]
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
        table[end].to_numpy(dtype=float) for end in ("difference", "low", "high")
    )
    ends = no_narrower((low, high), exact_where_alike(estimate, alone, 2.0))
    return dict(zip(("low", "high"), ends, strict=True))


def _exact(table: pd.DataFrame, n_tests: int) -> Ends:
    """Exact bounds of what a passage protects; nan where no item is right both ways."""
    names = ("only_closed", "only_open", "n_independent", "n_common")
    lost, kept, alone, n = (table[name].to_numpy(dtype=float) for name in names)
    there = np.where(n > 0, n, np.nan)
    low, high = exact_difference_bounds(
        lost * alone / there, kept * alone / there, alone, n_tests=n_tests
    )
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)
