"""Claims on a distillation: what the student can do more or less than before.

They read the table of gains alone.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import ESTABLISHED, OPEN, Claim, Estimate, source, spaced, weight
from layerwise.presentation.over_run import every_test
from layerwise.presentation.rows import asked_of, numbers, records
from layerwise.presentation.wording import number, percent, when
from layerwise.storage.run_tables import RunTables

from .words import taught_in_words

KIND = "distillation"
GAINS = "distillation_gains"
_MOST = 3

Row = dict[str, Any]


def findings(run: RunTables) -> list[Claim]:
    """What training brought and cost, a claim for each task and protocol where it is sure."""
    gains = run.table(GAINS)
    if gains is None or gains.empty:
        return []
    sure = [row for row in records(gains) if row["improved"] or row["worse"]]
    if not sure:
        return [_nothing(run, gains)]
    return spaced([_of(run, row, len(gains)) for row in sure], _MOST)


def _of(run: RunTables, row: Row, n: int) -> Claim:
    better = bool(row["improved"])
    has, had, teacher = (
        f"{number(100 * row[f'acc_{host}'])} %" for host in ("distilled", "student", "teacher")
    )
    details = [f"The teacher has {teacher}."]
    if better and row["leads"]:
        share = percent(*(row[name] for name in ("closed", "closed_low", "closed_high")))
        details.append(f"The gain is {share} of the teacher's lead.")
    return Claim(
        short=f"{_student(run)} is {'better' if better else 'worse'} than before in {row['task']} "
        f"{when(row['protocol'])}: {has} are right, {had} were.",
        evidence=ESTABLISHED,
        importance=weight(0.8, abs(row["gain"])),
        **_common(run, row, pd.DataFrame([row]), n, details),
    )


def _nothing(run: RunTables, gains: pd.DataFrame) -> Claim:
    top = max(records(gains), key=lambda row: abs(row["gain"]))
    largest, n = f"{top['task']} {when(top['protocol'])}", len(gains)
    asked = largest if n == 1 else f"any of {n} tasks and protocols"
    return Claim(
        short=f"{_student(run)} is not established to be better or worse than before in {asked}.",
        evidence=OPEN,
        importance=weight(0.4, 0.0),
        **_common(run, top, gains, n, [f"The largest change is in {largest}."]),
    )


def _common(
    run: RunTables, row: Row, about: pd.DataFrame, n: int, details: list[str]
) -> dict[str, Any]:
    gain, low, high = (100 * float(row[name]) for name in ("gain", "gain_run_low", "gain_run_high"))
    together = f"bounds for {every_test(n)} of the run together"
    which = "the smallest; " * (len(about) > 1)
    return {
        "kind": KIND,
        "source": source(GAINS, {}, task=str(row["task"]), protocol=str(row["protocol"])),
        "estimate": Estimate(gain, low, high, "accuracy points gained", together),
        "p": float(numbers(about, "p_holm").min()),
        "test": f"{which}exact McNemar test, Holm over {every_test(n)} of the run",
        "details": (f"It is {taught_in_words(run.facts)}.", *details),
        **asked_of(about),
    }


def _student(run: RunTables) -> str:
    return "The healed model" if "removed" in run.facts.settings else "The student"
