"""A distillation: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.analyses.contract import Analysis, PlannableAnalysis, PlannedJobs, PlanOptions
from layerwise.presentation.claim import (
    ESTABLISHED,
    OPEN,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.over_run import every_test
from layerwise.presentation.rows import claim_scope, numbers, records
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import number, percent, protocol_phrase
from layerwise.storage.run_tables import RunTables

from .result import GAINS, DistillationResult
from .training.names import objective_in_words, student_in_words, trained_weights_words

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

KIND = "distillation"
_MOST = 3
_WORDS = (
    "A student was trained to imitate its teacher on other texts. Both answered the same items, "
    "the student before and after training."
)


def findings(run: RunTables) -> list[Claim]:
    """Gains and costs of training, a claim for each task and protocol where it is sure."""
    gains = run.table("distillation_gains")
    if gains is None or gains.empty:
        return []
    student = "The healed model" if "removed" in run.facts.settings else "The student"
    claims, n = [], len(gains)
    for row in records(gains.loc[gains["improved"] | gains["worse"]]):
        has, had, teacher = (
            f"{number(100 * row[f'acc_{host}'])} %" for host in ("distilled", "student", "teacher")
        )
        details = [f"The teacher has {teacher}."]
        if row["improved"] and row["leads"]:
            share = percent(*(row[name] for name in ("closed", "closed_low", "closed_high")))
            details.append(f"The gain is {share} of the teacher's lead.")
        short = f"{student} is {'better' if row['improved'] else 'worse'} than before in "
        short += f"{row['task']} {protocol_phrase(row['protocol'])}: {has} are right, {had} were."
        claims.append(_claim(run, row, pd.DataFrame([row]), n, short, details))
    if claims:
        return most_important(claims, _MOST)
    top = max(records(gains), key=lambda row: abs(row["gain"]))
    largest = f"{top['task']} {protocol_phrase(top['protocol'])}"
    cases = largest if n == 1 else f"any of {n} tasks and ways of scoring"
    short = f"{student} is not established to be better or worse than before in {cases}."
    return [_claim(run, top, gains, n, short, [f"The largest change is in {largest}."])]


def _claim(
    run: RunTables, row: dict[str, Any], about: pd.DataFrame, n: int, short: str, details: list[str]
) -> Claim:
    """A claim on a row of the table of gains, one of n, or on all of them."""
    gain, low, high = (100 * float(row[name]) for name in ("gain", "gain_run_low", "gain_run_high"))
    sure = row["improved"] or row["worse"]
    which = "the smallest; " * (len(about) > 1)
    return Claim(
        kind=KIND,
        short=short,
        evidence=ESTABLISHED if sure else OPEN,
        importance=weight(0.8, abs(row["gain"])) if sure else weight(0.4, 0.0),
        source=source(
            "distillation_gains", {}, task=str(row["task"]), protocol=str(row["protocol"])
        ),
        estimate=Estimate(
            gain, low, high, "accuracy points gained",
            f"bounds for {every_test(n)} of the run together",
        ),
        p=float(numbers(about, "p_holm").min()),
        test=f"{which}exact McNemar test, Holm over {every_test(n)} of the run",
        details=(f"It is {student_in_words(run.facts)}.", *details),
        **claim_scope(about),
    )  # fmt: skip


def _figures(run: RunTables) -> list[FigureSpec]:
    """Distance of the student from its teacher."""
    from .figures import training_curve

    curve = run.table("distillation_curve")
    if curve is None:
        return []
    settings = dict(run.facts.settings)
    caption = (
        f"Training of the student ({trained_weights_words(settings)}). Line: the "
        f"divergence that is "
        f"minimised ({objective_in_words(settings)}), a mean over the last steps. Points: "
        "KL(teacher, student) at temperature 1 on texts that it is not trained on."
    )
    alt = "Line chart of the divergence between student and teacher against the step of training."
    return [FigureSpec("distillation", partial(training_curve, curve), caption, alt)]


def sections(run: RunTables) -> list[Section]:
    """Gains of training, and how it went."""
    gains = run.table("distillation_gains")
    if gains is None:
        return []
    table = Table("What the student can do before and after", heads(GAINS), cells(GAINS, gains))
    return [
        Section("distilled", "Distilled from a teacher", 17, _WORDS, tuple(_figures(run)),
                (table,), kinds=(KIND,)),
    ]  # fmt: skip


def _jobs(which: str, setup: Setup, options: PlanOptions) -> PlannedJobs:
    from . import planned

    return getattr(planned, which)(setup, options)


_OPTIONS = ("layers", "text", "on_policy", "rank", "n_texts", "batch", "steps")
ANALYSIS = Analysis(
    "distillation", DistillationResult, sections, findings,
    plans=(
        PlannableAnalysis(
            "distill", partial(_jobs, "plan_distillation"), options=("student", *_OPTIONS)
        ),
        PlannableAnalysis("heal", partial(_jobs, "plan_healing"), options=("original", *_OPTIONS)),
    ),
    done={
        "distillation": "A student was trained on the teacher's predictions.",
    },
)  # fmt: skip
