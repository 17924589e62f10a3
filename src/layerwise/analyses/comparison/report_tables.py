"""A comparison's tables as rows of text for its page.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.table import Table, bounds, others
from layerwise.presentation.wording import number

from .compared import ComparedRuns
from .measures import UNITS, digits_of, scale_of
from .quantities import COMPARED, FAMILIES

_WHAT = ("capability", "protocol", "method", "measure", "axis")
_MOST = 1000


def runs_table(comparison: ComparedRuns) -> Table:
    """Which runs were compared."""
    grouped = bool(comparison.facts.groups)
    columns = (
        *(("group",) if grouped else ()), "run", "model", "layers", "parameters", "hash", "made",
    )  # fmt: skip
    cells = []
    for run in comparison.facts.runs:
        model = run.facts.model
        first = model.n_encoder_layers
        layers = f"{first} encoder, {model.n_layers - first} decoder" if first else model.n_layers
        cells.append(
            [
                *([run.group or ""] if grouped else []), run.name, model.name, str(layers),
                f"{model.n_parameters:,}".replace(",", "\u202f"), model.hash[:12],
                run.facts.created.strftime("%Y-%m-%d %H:%M UTC"),
            ]
        )  # fmt: skip
    return Table("Runs", columns, cells)


def tasks_table(comparison: ComparedRuns) -> Table:
    """Which tasks were compared, the same items in all runs."""
    cells = [
        [task.name, task.capability, str(task.n_items), str(task.n_fewshot), task.hash[:12]]
        for task in comparison.facts.runs[0].facts.tasks
    ]
    return Table("Tasks compared", ("task", "capability", "items", "few-shot", "hash"), cells)


def difference_tables(comparison: ComparedRuns) -> list[Table]:
    """All differences of each family, the surest first."""
    found = []
    for family in COMPARED:
        mine = rows(comparison.differences, family=family)
        if len(mine):
            found.append(_differences(family, mine))
    return found


def _differences(family: str, mine: pd.DataFrame) -> Table:
    unit, scale, digits = UNITS[family][0], scale_of(family), digits_of(family)
    by_run = bool((mine["unit"] == "run").all())
    ranked = mine.iloc[numbers(mine, "p_holm").argsort(kind="stable")].head(_MOST)
    cells = [
        [
            row["first"], row["second"], row["tasks"], *(str(row[name]) for name in _WHAT),
            *(number(scale * row[f"estimate_{which}"], digits) for which in ("first", "second")),
            bounds(row, "difference", "low", "high", scale, digits),
            f"{row['n_second']} against {row['n_first']}" if by_run else str(row["n_items"]),
            f"{row['p']:.3g}", f"{row['p_holm']:.3g}",
            "–" if pd.isna(row["p_run"]) else f"{row['p_run']:.3g}",
            "established" if row["significant"] else "not established",
        ]
        for row in records(ranked)
    ]  # fmt: skip
    columns = (
        "first", "second", "tasks", *_WHAT, "of first", "of second", f"difference, {unit}",
        "runs" if by_run else "n", "p", "p (Holm, of this kind)", "p (Holm, of the page)",
        "difference is",
    )  # fmt: skip
    note = others(len(mine), len(cells), "rows are in comparison_differences.parquet")
    return Table(f"Differences: {family} ({len(mine)})", columns, cells, True, note)


def estimate_tables(comparison: ComparedRuns) -> list[Table]:
    """Each run by itself."""
    found = []
    for family in FAMILIES:
        mine = rows(comparison.estimates, family=family)
        unit, scale, digits = UNITS[family][0], scale_of(family), digits_of(family)
        cells = [
            [row["run"], row["tasks"], *(str(row[name]) for name in _WHAT), str(row["n_items"]),
             bounds(row, "estimate", "low", "high", scale, digits)]
            for row in records(mine.head(_MOST))
        ]  # fmt: skip
        columns = ("run", "tasks", *_WHAT, "n", unit)
        if cells:
            found.append(Table(f"Each run by itself: {family} ({len(mine)})", columns, cells, True))
    return found


def spread_table(comparison: ComparedRuns) -> list[Table]:
    """The spread over the runs of each group."""
    cells = [_spread(row) for row in records(comparison.groups.head(_MOST))]
    columns = (
        "group", "runs", "tasks", *_WHAT, "mean", "standard deviation over runs", "least", "most",
    )  # fmt: skip
    title = f"Spread within groups ({len(comparison.groups)})"
    return [Table(title, columns, cells, True)] if cells else []


def _spread(row: dict[str, Any]) -> list[str]:
    scale, digits = scale_of(row["family"]), digits_of(row["family"])
    return [
        row["group"], str(row["n_runs"]), row["tasks"], *(str(row[name]) for name in _WHAT),
        *(number(scale * row[name], digits) for name in ("mean", "sd", "least", "most")),
    ]  # fmt: skip


def left_out_table(comparison: ComparedRuns) -> list[Table]:
    """What was not compared, and why."""
    names = ("runs", "capability", "task", "protocol", "method", "reason")
    cells = [
        ["–" if pd.isna(row[name]) else str(row[name]) for name in names]
        for row in records(comparison.left_out)
    ]
    return [Table(f"Left out, and why ({len(cells)})", names, cells, True)] if cells else []
