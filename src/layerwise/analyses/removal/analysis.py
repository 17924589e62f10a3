"""The removal of layers: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart, saved_tables
from layerwise.presentation.claim import OPEN, Claim, Estimate, most_important, source, weight
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.over_run import run_wide_evidence
from layerwise.presentation.rows import claim_scope, parts, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    few_layers,
    in_order,
    interval,
    p_value,
    protocol_phrase,
    spread,
)
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import STEPS, RemovalResult, held_out_words, next_steps, removal_orders
from .tables import WAYS

REMOVAL = "removal"
HOW = {
    "greedy": "one by one, greedily",
    "block": "as the best block of each size",
    "effect": "one by one, by the effect of each alone",
    "deep": "one by one, from the last on",
    "angular": "as the blocks with the least angular distance",
    "influence": "one by one, by block influence",
}
_REMOVAL_WORDS = (
    "Several layers left out at once: each step tried all that were left, and removed what cost "
    "least. Read the held-out items; the best of many tries looks better than it is on the items "
    "that it was chosen by."
)


def removals(run: RunTables) -> list[Claim]:
    """Per capability and order, how many layers can go under each protocol on held-out items."""
    curves = run.table("removal_curves")
    if curves is None:
        return []
    claims = []
    for (capability, by), curve in parts(curves, capability=CAPABILITY_ORDER, by=WAYS):
        about = source("removal_curves", {"capability": capability, "by": by})
        of_protocols = parts(curve, protocol=PROTOCOL_ORDER)
        ends = sorted(
            (_StepsUntilLoss.from_steps(steps) for _, steps in of_protocols),
            key=lambda until: (not until.is_loss, until.n_steps_without_loss),
        )
        n = [until.n_steps_without_loss for until in ends]
        size = weight(0.8, (max(n) - min(n)) / 10 if len(n) > 1 else max(n) / 20)
        claims.append(_claim(ends, curve, curves, size, about))
    return most_important(claims, 3)


class _StepsUntilLoss(NamedTuple):
    """The steps up to the first significant loss; all of them if there is none."""

    steps: list[dict[str, Any]]
    is_loss: bool

    @classmethod
    def from_steps(cls, steps: pd.DataFrame) -> _StepsUntilLoss:
        listed = records(steps.sort_values(by="step"))
        lost = [row["significant"] and row["share_lost"] > 0 for row in listed]
        return cls(listed[: lost.index(True) + 1], True) if any(lost) else cls(listed, False)

    @property
    def row(self) -> dict[str, Any]:
        return self.steps[-1]

    @property
    def n_steps_without_loss(self) -> int:
        return len(self.steps) - self.is_loss

    def __str__(self) -> str:
        n = self.row["step"]
        shown = f"a loss from {n} on" if self.is_loss else f"no loss up to {n}"
        return f"{shown} {protocol_phrase(self.row['protocol'])}"


def _claim(
    ends: list[_StepsUntilLoss],
    steps: pd.DataFrame,
    every: pd.DataFrame,
    size: float,
    about: dict[str, Any],
) -> Claim:
    """The loss of an order that comes first, under whatever protocol; the others beside it."""
    first, *others = ends
    row = first.row
    details = ["No layer was chosen by these items."]
    if first.is_loss and len(first.steps) > 1:
        details.append(f"Before that: {_share_lost_estimate(first.steps[-2])}.")
    for other in others:
        tested = _test_evidence(other, every)
        details.append(f"{capitalise(str(other))}: "
f"{interval(*_share_lost_estimate(other.row)[:3])} % lost "
                       f"({tested['evidence']}, {p_value(tested['p'])}).")  # fmt: skip
    return Claim(
        kind=REMOVAL, importance=size, source=about, layers=tuple(sorted(row["layers"])),
        short=f"With layers removed {HOW[row['by']]}, {row['capability']} shows {first}.",
        estimate=_share_lost_estimate(row), details=tuple(details),
        caveat="" if first.is_loss else "No significant loss is not no loss.",
        **_test_evidence(first, every), **claim_scope(steps, "held-out item"),
    )  # fmt: skip


def _test_evidence(until: _StepsUntilLoss, every: pd.DataFrame) -> dict[str, Any]:
    mean = " and t-test of the mean over tasks, the larger p" * (until.row["n_tasks"] > 1)
    within = ("p_holm", "over the steps (Holm)")
    evidence = run_wide_evidence(until.row, every, f"exact McNemar test{mean}", within)
    return evidence if until.is_loss else evidence | {"evidence": OPEN}


def _share_lost_estimate(row: dict[str, Any]) -> Estimate:
    value, low, high = (100 * row[name] for name in ("share_lost", "share_low", "share_high"))
    layers = few_layers(row["layers"])
    return Estimate(value, low, high, f"% of the above-floor accuracy lost without {layers}")


def _figures(run: RunTables) -> list[FigureSpec]:
    """The accuracy that is left as layers are removed; of several orders the share of it."""
    from .figures import removal_curve, removal_orders

    removal, curves = run.table("removal_steps"), run.table("removal_curves")
    if removal is None or curves is None:
        return []
    if len(removal.groupby(["by", "protocol"])) > 1:
        caption = (
            "What is left of the accuracy above the floor as layers are removed in different "
            "orders, by capability and way of scoring: 100 % is the intact model, 0 % the floor "
            "(the accuracy without any layer; stated chance where it was not measured); mean over "
            f"the capability's tasks with signal (n = {spread(curves['n_items'])} held-out items, "
            "which no order was made from). Bands: paired bootstrap 95 % interval. Filled: "
            "significant loss after Holm's correction over the steps (exact McNemar test, "
            "p < 0.05)."
        )
        alt = "Charts of accuracy left against layers removed, by capability and way of scoring."
        return [FigureSpec("removal_orders", partial(removal_orders, curves), caption, alt)]
    first = removal.iloc[0]
    counts = [
        f"{split} items: n = {spread(rows(removal, split=split)['n_items'])}"
        for split in in_order(removal["split"], ())
    ]
    caption = (
        f"Accuracy {protocol_phrase(first['protocol'])}, as layers are removed "
        f"{HOW[str(first['by'])]}; what "
        f"each step removed stands along the upper edge ({', '.join(counts)}). The choice was made "
        "on the selection items, so their line is too good; held-out items were not seen by the "
        "search. Dotted: the intact model. Dashed: floor, the accuracy without any layer (stated "
        "chance where it was not measured). Bands: paired bootstrap 95 % interval of the loss."
    )
    alt = "Line charts of accuracy against the number of layers removed, one chart per task."
    return [FigureSpec("removal", partial(removal_curve, removal), caption, alt)]


def _words(run: RunTables) -> str:
    """Explanation: how to read it, what was removed and not tested, the command to write it."""
    removal, curves = run.table("removal"), run.table("removal_curves")
    made = {} if removal is None else removal_orders(removal)
    steps = next_steps(made, pd.DataFrame() if curves is None else curves, run.facts)
    return " ".join([_REMOVAL_WORDS, *held_out_words(run.facts), *steps])


def sections(run: RunTables) -> list[Section]:
    """Accuracy by layers removed, and the steps in numbers."""
    tables = run_table_as_text(run, "removal_steps", "Steps of the removal ({n})", STEPS)
    return [
        Section("removal", "Removal of layers", 75, _words(run),
                tuple(_figures(run)), tuple(tables), kinds=(REMOVAL,)),
    ]  # fmt: skip


# Orders of removal that are known without trying every set of layers.
CHEAP_ORDERS = ("effect", "deep", "angular", "influence")


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from .job import Removal, n_encoder_layers
    from .orders import largest_removal

    model = start.able.model
    n_layers = model.cfg.n_layers
    sizes = n_encoder_layers(model), n_layers
    n_removed = min(n_layers // 2, *(largest_removal(by, *sizes) for by in CHEAP_ORDERS))
    if n_removed:
        yield Removal(start.able, n_removed, CHEAP_ORDERS, held_out=0.5)


def _tables(result: RemovalResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """Its own, and what the intact model can do where no other result says that."""
    is_known = any("signal" in other.derived_tables() for other in others)
    return saved_tables(result, others) | ({} if is_known else {"signal": result.signal()})


_ORDERS = "orders of removing layers that are known beforehand"
ANALYSIS = Analysis(
    "removal", RemovalResult, sections, removals, tables=_tables,
    files={"signal": "removal.parquet, answers counted"},
    extras=(Extra("removal", _ORDERS, _jobs_of_a_profile),),
    done={
        "removal": "Layers were removed one after another.",
    },
)  # fmt: skip
