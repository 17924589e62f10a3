"""What the table of a distillation says of each row, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import (
    Column,
    Row,
    estimated,
    named,
    numbered,
    p_column,
    plain,
)


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
