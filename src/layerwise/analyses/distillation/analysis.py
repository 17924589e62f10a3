"""A distillation: claims, part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.analyses.contract import Analysis, Planned, PlannedJobs, PlanOptions
from layerwise.presentation.claim import ESTABLISHED, OPEN, Claim, Estimate, source, spaced, weight
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.over_run import every_test
from layerwise.presentation.rows import asked_of, numbers, records
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import number, percent, when
from layerwise.storage.run_tables import RunTables

from .names import objective_in_words, student_in_words, trained_in_words
from .result import GAINS, DistillationResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

KIND = "distillation"
_GAINS_TABLE = "distillation_gains"
_MOST = 3
Row = dict[str, Any]
_WORDS = (
    "A student was trained to imitate its teacher on other texts. Both answered the same items, "
    "the student before and after training."
)


def findings(run: RunTables) -> list[Claim]:
    """What training brought and cost, a claim for each task and protocol where it is sure."""
    gains = run.table(_GAINS_TABLE)
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
    cases = largest if n == 1 else f"any of {n} tasks and protocols"
    return Claim(
        short=f"{_student(run)} is not established to be better or worse than before in {cases}.",
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
        "source": source(_GAINS_TABLE, {}, task=str(row["task"]), protocol=str(row["protocol"])),
        "estimate": Estimate(gain, low, high, "accuracy points gained", together),
        "p": float(numbers(about, "p_holm").min()),
        "test": f"{which}exact McNemar test, Holm over {every_test(n)} of the run",
        "details": (f"It is {student_in_words(run.facts)}.", *details),
        **asked_of(about),
    }


def _student(run: RunTables) -> str:
    return "The healed model" if "removed" in run.facts.settings else "The student"


def _figures(run: RunTables) -> list[FigureSpec]:
    """How near the student came to its teacher."""
    from .figures import training_curve

    curve = run.table("distillation_curve")
    if curve is None:
        return []
    settings = dict(run.facts.settings)
    caption = (
        f"Training of the student ({trained_in_words(settings)}). Line: the divergence that is "
        f"minimised ({objective_in_words(settings)}), a mean over the last steps. Points: "
        "KL(teacher, student) at temperature 1 on texts that it is not trained on."
    )
    alt = "Line chart of the divergence between student and teacher against the step of training."
    return [FigureSpec("distillation", partial(training_curve, curve), caption, alt)]


def _tables(run: RunTables) -> list[Table]:
    gains = run.table("distillation_gains")
    if gains is None:
        return []
    title = "What the student can do before and after"
    return [Table(title, heads(GAINS), cells(GAINS, gains))]


def sections(run: RunTables) -> list[Section]:
    """What training brought, and how it went."""
    if run.table("distillation_gains") is None:
        return []
    return [
        Section("distilled", "Distilled from a teacher", 17, _WORDS, tuple(_figures(run)),
                tuple(_tables(run)), kinds=(KIND,)),
    ]  # fmt: skip


def _distilled(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .planned import distilled

    return distilled(setup, options)


def _healed(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .planned import healed

    return healed(setup, options)


_OPTIONS = ("layers", "text", "on_policy", "rank", "n_texts", "batch", "steps")
ANALYSIS = Analysis(
    "distillation", DistillationResult, sections, findings,
    plans=(
        Planned("distill", _distilled, options=("student", *_OPTIONS)),
        Planned("heal", _healed, options=("original", *_OPTIONS)),
    ),
)  # fmt: skip
