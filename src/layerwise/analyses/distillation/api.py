"""Distillation: a student trained to say what a teacher says, and what it can do afterwards.

The training is in ``training``, its losses in ``losses``, its texts in ``lessons``; the folder is
that of a written model, as ``pruning.folder`` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.analyses.arguments import READERS, check_arguments
from layerwise.analyses.execute import read_finished
from layerwise.analyses.pruning.folder import TABLES, refuse_occupied
from layerwise.errors import UserError
from layerwise.ground.readers import one_of
from layerwise.models.in_turn import several_in_turn
from layerwise.models.kinds import Model
from layerwise.models.own_files import files_of
from layerwise.runs.folder import RunFolder
from layerwise.runs.progress import meter
from layerwise.runs.setup import Setup, TaskLike, check_layers, prepare
from layerwise.storage.atomic_files import write_atomically

from .adapters import need_peft
from .answers import teacher_answers
from .card import card
from .fit import refuse_strangers
from .job import Distillation
from .lessons import (
    Lesson,
    Lessons,
    Question,
    lessons_of_file,
    lessons_of_questions,
    questions_of_tasks,
    task_answer,
)
from .losses import Objective
from .names import ANSWERS, DIVERGENCES, OF_TASK
from .result import DistillationResult

CARD = "README.md"
# No step of a descent is larger.
LARGEST_RATE = 1.0


def refuse_training(
    temperature: float = 1.0,
    mixture: float = 0.5,
    on_policy: float = 0.0,
    cross_entropy: float = 0.0,
    hidden: float = 0.0,
    rank: int | None = None,
    batch: int = 8,
    steps: int = 200,
    rate: float = 0.0001,
) -> None:
    """Refuse numbers that no student can be trained with.

    Raises:
        UserError: names the number and what it may be.
    """
    Objective(
        temperature=temperature, mixture=mixture, on_policy=on_policy,
        cross_entropy=cross_entropy, hidden=hidden,
    ).refuse_impossible()  # fmt: skip
    if steps < 1 or batch < 1 or not 0 < rate <= LARGEST_RATE:
        raise UserError(
            f"A student cannot be trained in {steps} steps of {batch} texts at rate {rate:g}; "
            f"expected one or more of both, and a rate above 0 and at most {LARGEST_RATE:g}."
        )
    if rank is not None:
        if rank < 1:
            raise UserError(
                f"The rank of the adapters is {rank}; expected 1 or more, or none to train the "
                "weights themselves."
            )
        need_peft()


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
    """Train a student to say what a teacher says, and ask both and the student before it.

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) of next-token distributions,
    generalized: with other divergences, and on texts that the student writes itself (Agarwal et
    al. 2024, arXiv:2306.13649). The distilled student is written as a Hugging Face folder, loaded
    back, and asked the tasks' items beside the teacher and the student before it; none of these
    items is trained on. ``docs/distillation.md`` has definitions and tests.

    Args:
        model: the teacher.
        student: the student, from ``load_model``; it is not changed. It has the teacher's
            tokenizer.
        tasks: task names, capabilities, JSONL files, or ``Task`` values: what is measured, and,
            without ``text``, trained on by other items.
        protocols: ``letter``, ``continuation``, ``generate``.
        out: the folder to write; it must not exist or be empty, or be that of the same call,
            which goes on there after an interruption. Tables go into its folder ``compared``.
        text: a ``.txt`` file with a blank line between texts, or a ``.jsonl`` file with a field
            ``text``, to train on in place of the tasks' prompts.
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
    refuse_training(**{k: v for k, v in objective.settings().items() if k != "divergence"},
                    rank=rank, batch=batch, steps=steps, rate=rate)  # fmt: skip
    out = Path(out)
    with several_in_turn(model, student):
        refuse_strangers(model, student, objective)
        folder = files_of(student)
        refuse_occupied(out)
        taught = prepare(
            student, tasks, protocols, seed=seed, limit=limit, fewshot=fewshot, chat=chat,
            memory_budget=memory_budget, out=out / TABLES,
        )  # fmt: skip
        teaches = prepare(
            model, taught.tasks, taught.protocols, seed=seed, chat=chat,
            memory_budget=taught.memory_budget, out=out / TABLES,
        )  # fmt: skip
        chosen = None if layers is None else check_layers(layers, student)
        lessons = _lessons(taught, teaches, text, answers, n_texts)
        job = Distillation(
            taught, teaches, folder, lessons, answers, text is not None, objective, chosen, rank,
            batch, steps, rate,
        )  # fmt: skip
        return _carried_out(job, out, progress)


def _lessons(
    taught: Setup, teaches: Setup, text: str | Path | None, answers: str, n_texts: int
) -> Lessons:
    if text is not None:
        return lessons_of_file(Path(text), taught, n_texts)
    groups = questions_of_tasks(taught, n_texts)
    n_ctx = min(one.model.cfg.n_ctx for one in (taught, teaches))
    if answers == OF_TASK:
        return lessons_of_questions(
            groups, lambda one: task_answer(taught, one), taught, n_texts, n_ctx
        )
    every = [question for group in groups for question in group]
    found = teacher_answers(teaches, taught, every)
    by_question = {id(question): found.get(place) for place, question in enumerate(every)}

    def answer(question: Question) -> Lesson | None:
        return by_question[id(question)]

    return lessons_of_questions(groups, answer, taught, n_texts, n_ctx)


def _carried_out(job: Distillation, out: Path, progress: bool) -> DistillationResult:
    settings = job.student.settings(analysis="distillation", **job.settings())
    with RunFolder.open(out / TABLES, settings) as run:
        result = read_finished(run, DistillationResult.load) if run.finished else None
        if result is None:
            with meter(progress) as told:
                result, files = job.run(run, out, settings, told)
            run.refuse_deleted()
            result.save(run.path)
            run.finish(result.facts, {f"../{name}": digest for name, digest in files.items()})
        write_atomically(out / CARD, card(result).encode())
    return result
