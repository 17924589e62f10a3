"""Distillation: a student trained on a teacher's predictions, and what it can do afterwards.

Its course is in ``course``, the training in ``training``, its losses in ``losses``, its texts in
``examples``; the folder is that of a written model, as ``pruning.folder`` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.ground.readers import one_of
from layerwise.models.instance.kinds import Model
from layerwise.runs.options import TrainingOptions
from layerwise.runs.setup import TaskLike

from .losses import Objective
from .names import ANSWERS, DIVERGENCES
from .pipeline import refuse_steps, train_student
from .result import DistillationResult


@check_arguments(
    Objective,
    refuse_steps,
    divergence=one_of("divergence", DIVERGENCES),
    answers=one_of("kind of answers", ANSWERS),
)
def distill(
    model: Model,
    student: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation", "generate"),
    *,
    out: str | Path,
    **training: Unpack[TrainingOptions],
) -> DistillationResult:
    """Train a student on a teacher's predictions, and evaluate it beside both.

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) of next-token distributions,
    generalized: with other divergences, and on texts that the student writes itself (Agarwal et
    al. 2024, arXiv:2306.13649). The distilled student is written as a Hugging Face folder, loaded
    back, and asked the tasks' items beside the teacher and the student before it; none of these
    items is trained on. ``docs/distillation.md`` has definitions and tests.

    Args:
        model: the teacher.
        student: the student, a model with files and with the teacher's tokenizer; it is not
            changed.
        tasks: task names, capabilities, JSONL files, or ``Task`` values: what is measured, and,
            without ``text``, trained on by other items.
        out: the folder to write; it must not exist or be empty, or be that of the same call,
            which goes on there after an interruption. Tables go into its folder ``compared``.

    Returns:
        One record per model, item and protocol, and the curve of the training; ``gains()``
        follows from them.

    Raises:
        UserError: for two models that do not fit, with the difference named, for anything
            unknown, out of range or contradictory, too few texts, a training that diverges, or a
            folder that cannot be written.
    """
    return train_student(model, student, tasks, protocols, Path(out), training)
