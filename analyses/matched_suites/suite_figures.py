"""The tables of ``docs/tasks/matched.md``, written from ``results/accuracy.csv`` alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from layerwise.stats.signals.signal import have_signal

DOCS = Path(__file__).parents[2] / "docs" / "tasks" / "matched.md"
BEGIN, END = "<!-- intact accuracies, by analyses/matched_suites/run.py -->", "<!-- end -->"
SCORING_STEPS = ("letter", "choice", "first token", "teacher forcing", "generate")
WHOLE = 200
"""Matched suites are measured on so many items; the others, on fewer, to show what they are."""


def write_docs(accuracy: pd.DataFrame) -> None:
    """Put the tables between the marks of the page."""
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n{tables(accuracy)}\n{END}{after}", encoding="utf-8")


def tables(accuracy: pd.DataFrame) -> str:
    """Matched suites, then all others, as tables in Markdown.

    Args:
        accuracy: a row per model, suite, seed and rung.
    """
    told = accuracy.assign(signal=False)
    for _, rows in accuracy.groupby(["model", "limit"]):
        told.loc[rows.index, "signal"] = have_signal(rows["p"].to_numpy(dtype=float))
    matched = told.loc[told["limit"] >= WHOLE]
    others = told.loc[told["limit"] < WHOLE]
    return "\n\n".join(_table(part) for part in (matched, others) if len(part))


def _table(rows: pd.DataFrame) -> str:
    rungs = [rung for rung in SCORING_STEPS if rung in set(rows["rung"])]
    lines = [
        f"| model | suite | seed | n | {' | '.join(rungs)} | margin |",
        f"|{'---|' * (len(rungs) + 5)}",
    ]
    for (model, task, seed), group in rows.groupby(["model", "task", "seed"], sort=False):
        by_rung = {str(one["rung"]): one for _, one in group.iterrows()}
        cells = [_cell(by_rung[rung]) if rung in by_rung else "" for rung in rungs]
        n, margin = int(group["n_items"].iloc[0]), float(group["margin"].iloc[0])
        named = f"| `{model}` | `{task}` | {seed} | {n} "
        lines.append(f"{named}| {' | '.join(cells)} | {margin:.1f} |")
    return "\n".join(lines)


def _cell(row: pd.Series) -> str:
    """An accuracy with its interval; in italics where there is no signal."""
    told = f"{_share(row['accuracy'])} [{_share(row['low'])}, {_share(row['high'])}]"
    return told if row["signal"] else f"*{told}*"


def _share(value: float) -> str:
    """Two digits, without the zero in front of the point."""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
