"""Sentences on whether methods agree, and how unlike protocols are by depth.

They read tested comparisons; no test is made here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    counted,
    in_order,
    interval,
    joined,
    layer_ranges,
    p_value,
    percent,
    spread,
)
from layerwise.storage.run_tables import RunTables

INTERACTION, AGREEMENT = "interaction", "agreement"
HALF, RANKS = "half-effect depth", "rank correlation"
_LEVEL = 0.05
Row = dict[str, Any]


def interactions(run: RunTables) -> list[Claim]:
    """One sentence per capability whose profile changes with the protocol, and one for the rest."""
    protocol_interaction = run.table("protocol_interaction")
    if protocol_interaction is None:
        return []
    table, differ, alike = protocol_interaction, [], []
    n_tests = len(table[["capability", "first", "second"]].drop_duplicates())
    for capability in in_order(table["capability"], ()):
        mine = rows(table, capability=capability)
        sure = mine.loc[mine["p_holm"] < _LEVEL]
        differ.append(_depends(sure, n_tests)) if len(sure) else alike.append(capability)
    return spaced(differ, 2) + ([_no_evidence(table, alike, n_tests)] if alike else [])


def _depends(sure: pd.DataFrame, n_tests: int) -> Claim:
    """What is said of the pair of protocols with the smallest p, and the widest differences."""
    pairs = [
        rows(sure, first=first, second=second)
        for first, second in in_order(zip(sure["first"], sure["second"], strict=True), ())
    ]
    best = min(pairs, key=lambda pair: (pair["p_holm"].iloc[0], -_apart(pair).max()))
    row = records(best)[int(_apart(best).argmax())]
    sentence = (
        f"For {row['capability']}, how unlike the protocols are depends on the depth "
        f"({row['first']} against {row['second']}: interaction with the layer group, "
        f"{p_value(row['p_holm'])} {after_holm(n_tests)}, n = {row['n_items']}): what skipping "
        f"one layer costs of the above-floor accuracy differs, first minus second, by "
        f"{_differences(best)}; that other layers are needed does not follow, for a harder way of "
        f"scoring loses more wherever something is lost. Most unlike "
        f"the others are the {row['group']} layers ({layer_ranges(row['layers'])}), with "
        f"{_share(row, 'first')} under {row['first']} and {_share(row, 'second')} under "
        f"{row['second']}."
    )
    where = {name: str(row[name]) for name in ("capability", "first", "second")}
    size = weight(0.92, 2 * float(_apart(best).max()))
    at = source("protocol_interaction", where, group=str(row["group"]))
    return finding(sentence, size, INTERACTION, at)


def _apart(pair: pd.DataFrame) -> np.ndarray:
    """How far each group's difference is from the mean difference."""
    difference = numbers(pair, "difference")
    return np.abs(difference - difference.mean())


def _share(row: Row, which: str) -> str:
    return percent(*(row[f"share_{which}{end}"] for end in ("", "_low", "_high")))


def _differences(pair: pd.DataFrame) -> str:
    names = ("difference", "low", "high")
    return joined(
        f"{interval(*(100 * row[name] for name in names))} points in {row['group']} layers"
        for row in records(pair)
    )


def _no_evidence(table: pd.DataFrame, capabilities: list[str], n_tests: int) -> Claim:
    mine = rows(table, capability=capabilities)
    pairs = in_order(zip(mine["first"], mine["second"], strict=True), ())
    sentence = (
        f"There is no evidence that how unlike the protocols are depends on the depth for "
        f"{joined(capabilities)} ({joined(f'{a} against {b}' for a, b in pairs)}; interaction with "
        f"the layer group, smallest {p_value(float(numbers(mine, 'p_holm').min()))} "
        f"{after_holm(n_tests)}, n = {spread(mine['n_items'])})."
    )
    return finding(sentence, weight(0.5, 0.0), INTERACTION,
                   source("protocol_interaction", {"capability": capabilities}))  # fmt: skip


def agreements(run: RunTables) -> list[Claim]:
    """The clearest difference of half-effect depth between methods, and how ranks go together."""
    method_agreement = run.table("method_agreement")
    if method_agreement is None:
        return []
    # tests that an earlier version wrote did not keep their level, and are not told
    depths = rows(method_agreement.loc[method_agreement["significant"].notna()], measure=HALF)
    sure = records(rows(depths, significant=True))
    found = spaced([_differ(row, len(depths), len(sure), run) for row in sure], 1)
    if len(depths) and not sure:
        found = [_not_told_apart(depths)]
    return found + _ranks(rows(method_agreement, measure=RANKS))


def _differ(row: Row, n_tests: int, n_sure: int, run: RunTables) -> Claim:
    earlier, later = ("first", "second") if row["estimate"] > 0 else ("second", "first")
    ahead = interval(*_positive(row), 2)
    sentence = (
        f"Methods do not agree on where {row['capability']} is ({row['protocol']}): by "
        f"{row[later]} its half-effect depth is {row[f'{later}_depth']:.2f}"
        f"{_of_all(row, later, run)}, which is {ahead} of the model's depth later than "
        f"{row[f'{earlier}_depth']:.2f}{_of_all(row, earlier, run)} by {row[earlier]} "
        f"({p_value(row['p_holm'])} {after_holm(n_tests)}, n = {row['n_items']} items of both); "
        f"{n_sure} of {counted(n_tests, 'comparison')} of two methods "
        f"{'differs' if n_sure == 1 else 'differ'} significantly."
    )
    where = {name: str(row[name]) for name in ("capability", "protocol", "first", "second")}
    at = source("method_agreement", {**where, "measure": HALF})
    return finding(sentence, weight(0.7, 2 * abs(float(row["estimate"]))), AGREEMENT, at)


def _of_all(row: Row, which: str, run: RunTables) -> str:
    """The depth that is told of a method by itself, where it is of more items and another."""
    emergence = run.table("emergence")
    if emergence is None:
        return ""
    keys = {name: row[name] for name in ("capability", "protocol", "measure")}
    found = records(rows(emergence, method=row[which], axis=COMPUTATION, **keys))
    same = not found or abs(found[0]["estimate"] - row[f"{which}_depth"]) < 0.005
    if same or found[0]["n_items"] <= row["n_items"]:
        return ""
    return f" (of all {found[0]['n_items']} items {found[0]['estimate']:.2f})"


def _positive(row: Row) -> tuple[float, float, float]:
    values = (row["estimate"], row["low"], row["high"])
    return values if row["estimate"] > 0 else (-values[0], -values[2], -values[1])


def _not_told_apart(depths: pd.DataFrame) -> Claim:
    widest = float(np.nanmax(np.abs(depths[["low", "high"]].to_numpy(dtype=float))))
    sentence = (
        f"No two methods are shown to place a capability at different half-effect depths "
        f"({counted(len(depths), 'comparison')}, smallest "
        f"{p_value(float(numbers(depths, 'p_holm').min()))} {after_holm(len(depths))}, n = "
        f"{spread(depths['n_items'])}); the intervals reach to differences of {widest:.2f} of the "
        "model's depth."
    )
    return finding(sentence, weight(0.5, 0.0), AGREEMENT,
                   source("method_agreement", {"measure": HALF}))  # fmt: skip


def _ranks(ranks: pd.DataFrame) -> list[Claim]:
    if ranks.empty:
        return []
    sure = (numbers(ranks, "p_holm") < _LEVEL) & (numbers(ranks, "estimate") > 0)
    ordered = records(ranks.sort_values(by="estimate"))
    ends = [
        f"{row['first']} and {row['second']} for {row['capability']} under {row['protocol']} "
        f"({interval(row['estimate'], row['low'], row['high'], 2)})"
        for row in (ordered[0], ordered[-1])
    ]
    sentence = (
        f"In {int(sure.sum())} of {counted(len(ranks), 'comparison')} two methods rank the layers "
        f"alike (Spearman's correlation above 0 {after_holm(len(ranks))}, n = "
        f"{spread(ranks['n_items'])}), from {ends[0]} to {ends[1]}."
    )
    if len(ranks) == 1:
        sentence = f"{sentence[: sentence.index(', from ')]}: {ends[0]}."
    return [finding(sentence, weight(0.55, float(sure.mean())), AGREEMENT,
                    source("method_agreement", {"measure": RANKS}))]  # fmt: skip
