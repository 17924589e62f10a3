"""The course of a distillation from two loaded models to a written one, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from layerwise.analyses.execute import read_finished
from layerwise.analyses.shared.written_model import TABLES, refuse_occupied
from layerwise.errors import UserError
from layerwise.ground.options import of_kind
from layerwise.models.instance.exclusive import several_exclusive
from layerwise.models.instance.kinds import Model
from layerwise.models.instance.own_files import files_of
from layerwise.runs.folder import RunFolder
from layerwise.runs.machines import with_origin
from layerwise.runs.options import PromptOptions, TrainingOptions
from layerwise.runs.progress import meter
from layerwise.runs.setup import Setup, TaskLike, check_layers, prepare
from layerwise.storage.atomic_files import remove_temporaries, write_atomically
from layerwise.sweep import Generate, Generated, Scored, intact
from layerwise.sweep.requests import Outcome

from .card import card
from .job import Distillation
from .lessons import (
    Lesson,
    Lessons,
    Question,
    lesson_of,
    lessons_of_file,
    lessons_of_questions,
    questions_of_tasks,
    task_answer,
)
from .losses import Objective
from .names import OF_TASK
from .result import DistillationResult
from .student import need_peft, refuse_strangers

CARD = "README.md"
# No step of a descent is larger.
LARGEST_RATE = 1.0


def refuse_steps(rank: int | None, batch: int, steps: int, rate: float = LARGEST_RATE) -> None:
    """Refuse numbers that no student can be trained with."""
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


def taught(
    teacher: Model,
    student: Model,
    tasks: TaskLike | Sequence[TaskLike],
    protocols: str | Sequence[str],
    out: Path,
    training: TrainingOptions,
    removed: tuple[int, ...] | None = None,
) -> DistillationResult:
    """Train a student, write it, and ask all three."""
    objective = Objective(**{one.name: training[one.name] for one in fields(Objective)})
    rank, batch, steps = training["rank"], training["batch"], training["steps"]
    rate = training["rate"]
    refuse_steps(rank, batch, steps, rate)
    with several_exclusive(teacher, student):
        refuse_strangers(teacher, student, objective)
        folder = files_of(student)
        refuse_occupied(out)
        asked = of_kind(PromptOptions, training)
        learns = prepare(student, tasks, protocols, out=out / TABLES, **asked)
        teaches = prepare(
            teacher, learns.tasks, learns.protocols, seed=learns.seed, chat=learns.chat,
            memory_budget=learns.memory_budget, out=out / TABLES,
        )  # fmt: skip
        learns = replace(learns, beside=(teaches,))
        chosen = None if training["layers"] is None else check_layers(training["layers"], student)
        job = Distillation(
            learns, teaches, folder, _lessons(learns, teaches, training), training["answers"],
            training["text"] is not None, objective, chosen, rank, batch, steps, rate, removed,
        )  # fmt: skip
        return _carried_out(job, out, training["progress"])


def lessons_to_train_on(
    learns: Setup, text: str | Path | None, n_texts: int, n_ctx: int
) -> Lessons:
    """The texts of a file, or prompts of the tasks with the tasks' own answers."""
    if text is not None:
        return lessons_of_file(Path(text), learns, n_texts)
    return lessons_of_questions(
        questions_of_tasks(learns, n_texts), lambda one: task_answer(learns, one), learns, n_texts,
        n_ctx,
    )  # fmt: skip


def _lessons(learns: Setup, teaches: Setup, training: TrainingOptions) -> Lessons:
    n_ctx = min(one.model.cfg.n_ctx for one in (learns, teaches))
    text, n_texts = training["text"], training["n_texts"]
    if text is not None or training["answers"] == OF_TASK:
        return lessons_to_train_on(learns, text, n_texts, n_ctx)
    groups = questions_of_tasks(learns, n_texts)
    every = [question for group in groups for question in group]
    found = teacher_answers(teaches, learns, every)
    by_question = {id(question): found.get(place) for place, question in enumerate(every)}

    def answer(question: Question) -> Lesson | None:
        return by_question[id(question)]

    return lessons_of_questions(groups, answer, learns, n_texts, n_ctx)


def _carried_out(job: Distillation, out: Path, progress: bool) -> DistillationResult:
    settings = job.student.settings(analysis="distillation", **job.settings())
    with RunFolder.open(out / TABLES, settings) as run:
        results = read_finished(run, (DistillationResult,)) if run.finished else None
        if results:
            (result,) = results
        else:
            with meter(progress) as told:
                result, files = job.run(run, out, settings, told)
            run.refuse_deleted()
            run.refuse_changed(job.student.refuse_changed)
            result = with_origin(result, run)
            result.save(run.path)
            run.finish(result.facts, {f"../{name}": digest for name, digest in files.items()})
        remove_temporaries(out, CARD)
        write_atomically(out / CARD, card(result).encode())
    return result


def teacher_answers(
    teacher: Setup, student: Setup, questions: Sequence[Question]
) -> dict[int, Lesson]:
    """The teacher's answers: the option that it finds most likely, or what it writes, greedily."""
    asked = [one.request for question in questions for one in question.requests]
    (outcomes,) = teacher.sweep([intact()], asked).outcomes
    each, found = iter(outcomes), dict[int, Lesson]()
    for place, question in enumerate(questions):
        lesson = _answer(student, question, [next(each) for _ in question.requests])
        if lesson is not None:
            found[place] = lesson
    return found


def _answer(setup: Setup, question: Question, outcomes: Sequence[Outcome]) -> Lesson | None:
    if question.protocol == "generate":
        (outcome,), (asked,) = outcomes, question.requests
        assert isinstance(outcome, Generated)
        assert isinstance(asked.request, Generate)
        ended = len(outcome.tokens) < asked.request.max_tokens and not any(
            stop in setup.tokenizer.decode(outcome.tokens) for stop in asked.request.stop
        )
        read, said = asked.request.context, outcome.tokens
        return lesson_of(setup, question, read, said, end=ended) if said or ended else None
    options = [
        (outcome.logprob, one.request)
        for outcome, one in zip(outcomes, question.requests, strict=True)
        if isinstance(outcome, Scored) and not isinstance(one.request, Generate)
    ]
    _, best = max(options, key=lambda option: option[0])
    return lesson_of(setup, question, best.context, best.continuation, end=False)
