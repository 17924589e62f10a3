"""Distillation: a student trained to say what a teacher says, and what it can do afterwards.

Its course is in ``course``, the training in ``training``, its losses in ``losses``, its texts in
``lessons``; the folder is that of a written model, as ``pruning.folder`` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.analyses.arguments import READERS, check_arguments
from layerwise.ground.readers import one_of
from layerwise.models.instance.kinds import Model
from layerwise.runs.setup import TaskLike

from .course import Course, refuse_training, taught
from .losses import Objective
from .names import ANSWERS, DIVERGENCES
from .result import DistillationResult


@check_arguments(
    refuse_training,
    student=READERS["model"],
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
    text: str | Path | None = None,
    answers: str = "task",
    divergence: str = "forward",
    temperature: float = 1.0,
    mixture: float = 0.5,
    on_policy: float = 0.0,
    cross_entropy: float = 0.0,
    hidden: float = 0.0,
    layers: Sequence[int | str] | None = None,
    rank: int | None = None,
    n_texts: int = 512,
    batch: int = 8,
    steps: int = 200,
    rate: float = 0.0001,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    memory_budget: int | None = None,
    progress: bool = True,
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
        protocols: ``letter``, ``continuation``, ``generate``.
        out: the folder to write; it must not exist or be empty, or be that of the same call,
            which goes on there after an interruption. Tables go into its folder ``compared``.
        text: a ``.txt`` file with a blank line between texts, or a ``.jsonl`` file with a field
            ``text``. It replaces the tasks' prompts.
        answers: whose answers to the prompts are trained on: ``task``, worked out where the task
            has them so, or ``teacher``, as it answers itself.
        divergence: ``forward``, KL(teacher, student); ``reverse``, KL(student, teacher); or
            ``jensen-shannon``.
        temperature: both models' logits are divided by it.
        mixture: the teacher's share of the mixture that ``jensen-shannon`` compares with.
        on_policy: share of the texts that the student writes itself, in 0..1.
        cross_entropy: weight of the cross-entropy on the answers, beside the divergence.
        hidden: weight of the distance of the residual streams behind the layers, of models of one
            width.
        layers: the layers that are trained, from 0, or by address such as ``decoder.3``; all
            weights if None.
        rank: rank of low-rank adapters that are trained instead and merged at the end; needs
            ``peft``.
        n_texts: at most so many texts; a fifth of them is not trained on.
        batch: texts a step.
        steps: number of steps.
        rate: largest step size.
        limit: measure the first so many items of each task.
        seed: decides the items of built-in suites, what is held out, and all draws.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        progress: show a progress bar on a terminal.

    Returns:
        One record per model, item and protocol, and the curve of the training; ``gains()``
        follows from them.

    Raises:
        UserError: for two models that do not fit, with the difference named, for anything
            unknown, out of range or contradictory, too few texts, a training that diverges, or a
            folder that cannot be written.
    """
    objective = Objective(divergence, temperature, mixture, on_policy, cross_entropy, hidden)
    course = Course(
        tasks, protocols, Path(out), None if text is None else Path(text), answers, objective,
        layers, rank, n_texts, batch, steps, rate, limit, seed, fewshot, chat, memory_budget,
        progress,
    )  # fmt: skip
    return taught(model, student, course)
