"""What training brought a student, paired over items, and the typed result of a distillation.

Definitions are in ``docs/distillation.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.presentation.columns import (
    Column,
    Row,
    estimated,
    in_short,
    named,
    numbered,
    p_column,
    plain,
)
from layerwise.presentation.section import drawn
from layerwise.stats.cells import Cell, cells_by_host, intact_nats
from layerwise.stats.effects import ALPHA, Chance
from layerwise.stats.families.estimate import bounded_columns, known, paired_bounds, resampled
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.stats.share_tests.share_bounds import share_scale, wide_enough
from layerwise.stats.signals.signal import have_signal, signal_p_values
from layerwise.storage.base import Result, computed_once
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts

from .names import DISTILLED, HOSTS, STUDENT, TEACHER


@dataclass(frozen=True, repr=False, eq=False)
class DistillationResult(Result):
    """A distilled student: its training, and its accuracy beside teacher and original student.

    Attributes:
        distillation: ``distillation.parquet``: every item's answer by teacher, student and
            distilled student.
        distillation_curve: ``distillation_curve.parquet``: the course of the training.
        facts: what is needed to repeat the run; the model is the student.
    """

    tables: ClassVar[tuple[str, ...]] = ("distillation", "distillation_curve")
    title: ClassVar[str] = "Distillation: what the student can do, before and after"
    if_empty: ClassVar[str] = "There is no item."

    distillation: pd.DataFrame
    distillation_curve: pd.DataFrame
    facts: Facts

    @computed_once
    def gains(self) -> pd.DataFrame:
        """``distillation_gains.parquet``: what is gained and lost, by task and protocol."""
        return gains_table(self.distillation, self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``distillation_gains``."""
        return {"distillation_gains": self.gains()}

    def plot(self) -> Any:
        """Divergence from the teacher while the student was trained."""
        from .figures import training_curve

        return drawn(self, training_curve, self.distillation_curve)

    def summary_rows(self) -> pd.DataFrame:
        """What is gained and lost, by task and protocol."""
        return in_short(self, GAINS, self.gains())


class TaskAnswers(NamedTuple):
    """One task under one protocol, asked of all three models.

    Attributes:
        cells: by host, its records as matrices; rows are the same items.
        nats: by host, gold log-probabilities; nan where there are none.
    """

    cells: dict[str, Cell]
    nats: dict[str, Float[np.ndarray, " items"]]

    @property
    def clusters(self) -> Clusters:
        """Which items ask for the same thing."""
        return self.cells[STUDENT].clusters


def answers_of(distillation: pd.DataFrame) -> Iterator[TaskAnswers]:
    """The three models' records by task and protocol, in alphabetical order."""
    for by_host in cells_by_host(distillation, HOSTS, "all three models; run the distillation"):
        yield TaskAnswers(by_host, intact_nats(distillation, by_host[STUDENT]))


def gains_table(distillation: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``distillation_gains.parquet``: what the distilled student can do more or less than before.

    A gain is established where McNemar's exact test of the student's answers before and after,
    by clusters of items and corrected by Holm over all tasks and protocols, says so and the
    distilled student has signal itself; a loss, where it does and the student had signal. The
    share of the teacher's lead that is closed is told where that lead is established in the same
    way.
    """
    every = list(answers_of(distillation))
    if not every:
        return frame("distillation_gains", [])
    hosts = [task.cells[host] for task in every for host in HOSTS]
    signal = have_signal(signal_p_values(hosts, chance)).reshape(-1, len(HOSTS))
    p, lead_p = (
        stats.holm(np.array([_p(task, host, STUDENT) for task in every]))
        for host in (DISTILLED, TEACHER)
    )
    rows = []
    for place, task in enumerate(every):
        has: dict[str, bool] = dict(zip(HOSTS, map(bool, signal[place]), strict=True))
        answers = {host: task.cells[host].intact for host in HOSTS}
        gain = int(answers[DISTILLED].sum()) - int(answers[STUDENT].sum())
        lead = int(answers[TEACHER].sum()) - int(answers[STUDENT].sum())
        leads = bool(lead_p[place] < ALPHA and lead > 0 and has[TEACHER])
        sure = bool(p[place] < ALPHA)
        low, high = paired_bounds(_net(task, DISTILLED, STUDENT), task.clusters, len(every))
        rows.append(
            _described(task, chance, has)
            | _difference(task, DISTILLED, STUDENT, "gain")
            | {"n_gained": int((_net(task, DISTILLED, STUDENT) > 0).sum())}
            | {"n_lost": int((_net(task, DISTILLED, STUDENT) < 0).sum())}
            | {"p": _p(task, DISTILLED, STUDENT), "p_holm": float(p[place])}
            | {"improved": sure and gain > 0 and has[DISTILLED]}
            | {"worse": sure and gain < 0 and has[STUDENT]}
            | _difference(task, TEACHER, STUDENT, "lead")
            | {"gain_run_low": low, "gain_run_high": high}
            | {"lead_p_holm": float(lead_p[place]), "leads": leads}
            | _bootstrapped(task, seed, leads=leads)
        )
    return frame("distillation_gains", rows)


def _described(task: TaskAnswers, chance: Chance, has: dict[str, bool]) -> dict[str, Any]:
    cell = task.cells[STUDENT]
    return (
        {
            "task": cell.task,
            "capability": cell.capability,
            "protocol": cell.protocol,
            "n_items": len(cell.intact),
            "n_clusters": task.clusters.n,
            "chance": chance(cell.task, cell.protocol),
        }
        | {f"acc_{host}": float(task.cells[host].intact.mean()) for host in HOSTS}
        | {f"signal_{host}": has[host] for host in HOSTS}
    )


def _net(task: TaskAnswers, host: str, other: str) -> np.ndarray:
    return task.cells[host].intact.astype(int) - task.cells[other].intact


def _p(task: TaskAnswers, host: str, other: str) -> float:
    return float(paired_p_values(_net(task, host, other)[:, None], task.clusters)[0])


def _difference(task: TaskAnswers, host: str, other: str, name: str) -> dict[str, Any]:
    """Accuracy of one model minus that of another, with exact bounds over clusters of items."""
    net = _net(task, host, other)
    low, high = paired_bounds(net, task.clusters)
    return {name: float(net.mean()), f"{name}_low": low, f"{name}_high": high}


def _bootstrapped(task: TaskAnswers, seed: int, *, leads: bool) -> dict[str, Any]:
    """Share of the teacher's lead that is closed, and what is gained in nats."""
    answers = [task.cells[host].intact for host in HOSTS]
    nats = task.nats[DISTILLED] - task.nats[STUDENT]
    teacher, student, distilled, gained = resampled(
        task.cells[STUDENT].task, task.clusters, seed, *answers, nats
    )
    share = 1 - stats.shares(teacher, distilled, student if leads else np.full_like(student, 1.0))
    n = len(nats)
    columns = bounded_columns("nats", "nats_", gained, n)
    columns |= dict(zip(("closed", "closed_low", "closed_high"), _closed(task, share), strict=True))
    return {name: known(value[0]) for name, value in columns.items()}


def _closed(
    task: TaskAnswers, share: Float[np.ndarray, "draws 1"]
) -> list[Float[np.ndarray, " 1"]]:
    """The share of the sample, and bounds no narrower than unseen items allow."""
    teacher, student = (task.cells[host].intact.astype(int) for host in (TEACHER, STUDENT))
    estimate, low, high = bounded_columns("closed", "", share, len(teacher)).values()
    if np.isnan(estimate).any():
        return [estimate, low, high]
    ends = wide_enough((low, high), estimate[None], [share_scale(teacher - student, task.clusters)])
    return [estimate, *(np.where(np.isfinite(end), end, np.nan) for end in ends)]


def _verdict(row: Row) -> str:
    return "better" if row["improved"] else "worse" if row["worse"] else "–"


GAINS = (
    *plain("task", "protocol"),
    named("n", "n_items"),
    numbered("teacher (%)", "acc_teacher", 100),
    numbered("student before (%)", "acc_student", 100),
    numbered("distilled (%)", "acc_distilled", 100),
    estimated("gain (points)", "gain", "gain_", 100),
    estimated("of the teacher's lead (%)", "closed", "closed_", 100),
    estimated("gain (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    Column("established", _verdict),
)
