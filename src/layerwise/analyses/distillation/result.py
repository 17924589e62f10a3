"""Gains of a student by training, paired over items, and the typed result of a distillation.

Definitions are in ``docs/distillation.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.presentation.columns import (
    Column,
    Row,
    estimate_column,
    in_short,
    number_column,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.stats.cells import Cell, cells_by_host, intact_nats
from layerwise.stats.effects import ALPHA, Chance
from layerwise.stats.families.estimate import (
    bootstrap_means,
    bounded_columns,
    finite_or_none,
    paired_bounds,
)
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.stats.share_tests.share_bounds import share_scale, wide_enough
from layerwise.stats.signals.signal import have_signal, signal_p_values
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts

from .training.names import DISTILLED, HOSTS, STUDENT, TEACHER


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

    @cache_tables
    def gains(self) -> pd.DataFrame:
        """``distillation_gains``: what is gained and lost, by task and protocol."""
        return gains_table(self.distillation, self.facts.chance, self.facts.seed)

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``distillation_gains``."""
        return {"distillation_gains": self.gains()}

    def _figure(self) -> Any:
        """Divergence from the teacher while the student was trained."""
        from .figures import training_curve

        return draw_table(self, training_curve, self.distillation_curve)

    def summary_rows(self) -> pd.DataFrame:
        """Gains and losses, by task and protocol."""
        return in_short(self, GAINS, self.gains())


def gains_table(distillation: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``distillation_gains``: what the distilled student can do more or less than before.

    A gain is established where McNemar's exact test of the student's answers before and after,
    by clusters of items and corrected by Holm over all tasks and protocols, says so and the
    distilled student has signal itself; a loss, where it does and the student had signal. The
    share of the teacher's lead that is closed is reported where that lead is established in the
    same way.
    """
    every = list(cells_by_host(distillation, HOSTS, "all three models; run the distillation"))
    if not every:
        return frame("distillation_gains", [])
    hosts = [cells[host] for cells in every for host in HOSTS]
    signal = have_signal(signal_p_values(hosts, chance)).reshape(-1, len(HOSTS)).tolist()
    p, lead_p = (np.array([_p(cells, host) for cells in every]) for host in (DISTILLED, TEACHER))
    p_holm, lead_p_holm = correct_family(p), correct_family(lead_p)
    rows = []
    for place, cells in enumerate(every):
        student, clusters = cells[STUDENT], cells[STUDENT].clusters
        has: dict[str, bool] = dict(zip(HOSTS, signal[place], strict=True))
        gain, lead = _net(cells, DISTILLED), _net(cells, TEACHER)
        leads = bool(lead_p_holm[place] < ALPHA and lead.sum() > 0 and has[TEACHER])
        sure = bool(p_holm[place] < ALPHA)
        run_low, run_high = paired_bounds(gain, clusters, len(every))
        nats = intact_nats(distillation, student)
        rows.append(
            {
                "task": student.task,
                "capability": student.capability,
                "protocol": student.protocol,
                "n_items": len(gain),
                "n_clusters": clusters.n,
                "chance": chance(student.task, student.protocol),
                **{f"acc_{host}": float(cells[host].intact.mean()) for host in HOSTS},
                **{f"signal_{host}": has[host] for host in HOSTS},
                **_difference(gain, clusters, "gain"),
                "gain_run_low": run_low,
                "gain_run_high": run_high,
                "n_gained": int((gain > 0).sum()),
                "n_lost": int((gain < 0).sum()),
                "p": float(p[place]),
                "p_holm": float(p_holm[place]),
                "improved": sure and gain.sum() > 0 and has[DISTILLED],
                "worse": sure and gain.sum() < 0 and has[STUDENT],
                **_difference(lead, clusters, "lead"),
                "lead_p_holm": float(lead_p_holm[place]),
                "leads": leads,
                **_bootstrap_gains(cells, nats[DISTILLED] - nats[STUDENT], seed, leads=leads),
            }
        )
    return frame("distillation_gains", rows)


def _net(cells: dict[str, Cell], host: str) -> Int[np.ndarray, " items"]:
    """Items that a model has right and the student before training has not, minus the reverse."""
    return cells[host].intact.astype(int) - cells[STUDENT].intact


def _p(cells: dict[str, Cell], host: str) -> float:
    return float(paired_p_values(_net(cells, host)[:, None], cells[STUDENT].clusters)[0])


def _difference(net: Int[np.ndarray, " items"], clusters: Clusters, name: str) -> dict[str, Any]:
    """A difference of accuracies, with exact bounds over clusters of items."""
    low, high = paired_bounds(net, clusters)
    return {name: float(net.mean()), f"{name}_low": low, f"{name}_high": high}


def _bootstrap_gains(
    cells: dict[str, Cell], nats: Float[np.ndarray, " items"], seed: int, *, leads: bool
) -> dict[str, Any]:
    """Share of the lead that is closed, no surer than unseen items allow; gain in nats."""
    student, n = cells[STUDENT], len(nats)
    answers = (cells[host].intact for host in HOSTS)
    teacher, before, distilled, gained = bootstrap_means(
        student.task, student.clusters, seed, *answers, nats
    )
    share = 1 - stats.shares(teacher, distilled, before if leads else np.full_like(before, 1.0))
    closed, low, high = bounded_columns("closed", "", share, n).values()
    if not np.isnan(closed).any():
        scale = share_scale(_net(cells, TEACHER), student.clusters)
        ends = wide_enough((low, high), closed[None], [scale])
        low, high = (np.where(np.isfinite(end), end, np.nan) for end in ends)
    columns = bounded_columns("nats", "nats_", gained, n)
    columns |= {"closed": closed, "closed_low": low, "closed_high": high}
    return {name: finite_or_none(value[0]) for name, value in columns.items()}


def _verdict(row: Row) -> str:
    return "better" if row["improved"] else "worse" if row["worse"] else "–"


GAINS = (
    *plain("task", "protocol"),
    text_column("n", "n_items"),
    number_column("teacher (%)", "acc_teacher", 100),
    number_column("student before (%)", "acc_student", 100),
    number_column("distilled (%)", "acc_distilled", 100),
    estimate_column("gain (points)", "gain", "gain_", 100),
    estimate_column("of the teacher's lead (%)", "closed", "closed_", 100),
    estimate_column("gain (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    Column("established", _verdict),
)
