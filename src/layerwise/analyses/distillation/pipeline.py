"""From two loaded models to a written distilled one, as ``distill`` and ``heal`` need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from layerwise.analyses.execute import read_finished
from layerwise.analyses.shared.written_model import TABLES, refuse_occupied
from layerwise.errors import UserError
from layerwise.ground.options import of_kind
from layerwise.models.instance.exclusive import several_exclusive
from layerwise.models.instance.kinds import Model
from layerwise.models.instance.own_files import files_of
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.rows import records
from layerwise.presentation.wording import capitalised, interval, number, p_value
from layerwise.runs.checkpoints import with_origin
from layerwise.runs.folder import RunFolder
from layerwise.runs.options import PromptOptions, TrainingOptions
from layerwise.runs.progress import meter
from layerwise.runs.setup import Setup, TaskLike, check_layers, prepare
from layerwise.storage.atomic_files import remove_temporaries, write_atomically
from layerwise.sweep import Generate, Generated, Scored, intact
from layerwise.sweep.requests import Outcome

from .examples import (
    Example,
    Examples,
    Question,
    example_of,
    examples_of_file,
    examples_of_questions,
    questions_of_tasks,
    task_answer,
)
from .job import Distillation
from .losses import Objective
from .names import OF_TASK, objective_in_words, student_in_words, trained_in_words
from .result import DistillationResult
from .student import need_peft, refuse_incomparable

_LIMITS = (
    "The accuracies are those of these suites, whose items are made by rule; they say nothing of "
    "other questions.",
    "Texts to train on share neither question nor fact with the measured items, yet they come "
    "from the same rules and templates: this is what the student learned to do, not how far it "
    "carries.",
    "One training with one seed. Another seed gives another student.",
)


def card(result: DistillationResult) -> str:
    """The text of ``README.md``."""
    with naming_layers_of(result.facts.model):
        return "\n".join(_lines(result)) + "\n"


def _lines(result: DistillationResult) -> list[str]:
    facts, settings = result.facts, result.facts.settings
    return [
        "---",
        "library_name: transformers",
        "tags:",
        "- distillation",
        "- layerwise",
        "---",
        "",
        f"# {capitalised(student_in_words(facts))}",
        "",
        f"Trained by `layerwise {'heal' if 'removed' in settings else 'distill'}` to say what the "
        "teacher says. The facts below, and every answer, are in `compared/` as JSON and Parquet.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(result)),
        "",
        "## Held-out items",
        "",
        *_table(result),
        "",
        "McNemar's exact test of the same items before and after, corrected by Holm over the "
        "tasks and protocols; intervals are exact (95 %).",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in _LIMITS),
    ]


def _facts(result: DistillationResult) -> Iterator[tuple[str, str]]:
    facts = result.facts
    settings: dict[str, Any] = dict(facts.settings)
    yield (
        "teacher",
        f"{_code(settings['teacher'])}, SHA-256 of its weights {settings['teacher_hash']}",
    )
    yield "student", f"{_code(facts.model.name)}, SHA-256 of its weights {facts.model.hash}"
    yield "this model", f"SHA-256 of its weights {settings['written_hash']}"
    yield "loss", objective_in_words(settings)
    yield "trained", trained_in_words(settings)
    yield (
        "texts",
        (
            f"{settings['texts_trained_on']} from {settings['text']} (SHA-256 "
            f"{settings['text_hash'][:16]}), {settings['texts_held_out']} held out"
        ),
    )
    yield (
        "steps",
        (
            f"{settings['steps']}, each of {settings['batch']} texts, rate "
            f"{number(settings['rate'], 6)}, seed {facts.seed}"
        ),
    )
    kl = result.distillation_curve["held_out_kl"].dropna()
    if len(kl):
        yield (
            "KL(teacher, student) on held-out texts",
            (f"{number(kl.iloc[0], 3)} nats a token before, {number(kl.iloc[-1], 3)} after"),
        )
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())


def _table(result: DistillationResult) -> Iterator[str]:
    yield "| task | asked by | n | teacher | before | after | gain, points [95 %] | p | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in records(result.gains()):
        share = [number(100 * row[f"acc_{model}"]) for model in ("teacher", "student", "distilled")]
        gain = interval(*(100 * row[name] for name in ("gain", "gain_low", "gain_high")))
        verdict = "better" if row["improved"] else "worse" if row["worse"] else ""
        yield (
            f"| {row['task']} | {row['protocol']} | {row['n_items']} | {' % | '.join(share)} % "
            f"| {gain} | {p_value(row['p_holm'])} | {verdict} |"
        )


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ').replace('|', ' ')}`"


CARD = "README.md"
# No step of a descent is larger.
LARGEST_RATE = 1.0


def refuse_steps(rank: int | None, batch: int, steps: int, rate: float = LARGEST_RATE) -> None:
    """Check the sizes of a training."""
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


def train_student(
    teacher: Model,
    student: Model,
    tasks: TaskLike | Sequence[TaskLike],
    protocols: str | Sequence[str],
    out: Path,
    training: TrainingOptions,
    removed: tuple[int, ...] | None = None,
) -> DistillationResult:
    """Train a student, write it, and evaluate teacher, student and distilled student."""
    objective = Objective(**{field.name: training[field.name] for field in fields(Objective)})
    rank, batch, steps = training["rank"], training["batch"], training["steps"]
    rate = training["rate"]
    refuse_steps(rank, batch, steps, rate)
    with several_exclusive(teacher, student):
        refuse_incomparable(teacher, student, objective)
        folder = files_of(student)
        refuse_occupied(out)
        prompts = of_kind(PromptOptions, training)
        student_setup = prepare(student, tasks, protocols, out=out / TABLES, **prompts)
        teacher_setup = prepare(
            teacher, student_setup.tasks, student_setup.protocols, seed=student_setup.seed,
            chat=student_setup.chat, memory_budget=student_setup.memory_budget, out=out / TABLES,
        )  # fmt: skip
        student_setup = replace(student_setup, beside=(teacher_setup,))
        layers = training["layers"]
        layers = None if layers is None else check_layers(layers, student)
        job = Distillation(
            student_setup, teacher_setup, folder,
            _examples(student_setup, teacher_setup, training), training["answers"],
            training["text"] is not None, objective, layers, rank, batch, steps, rate, removed,
        )  # fmt: skip
        return _run(job, out, training["progress"])


def training_examples(
    student_setup: Setup, text: str | Path | None, n_texts: int, n_ctx: int
) -> Examples:
    """The texts of a file, or prompts of the tasks with the tasks' own answers."""
    if text is not None:
        return examples_of_file(Path(text), student_setup, n_texts)

    def answer(question: Question) -> Example | None:
        return task_answer(student_setup, question)

    questions = questions_of_tasks(student_setup, n_texts)
    return examples_of_questions(questions, answer, student_setup, n_texts, n_ctx)


def _examples(student_setup: Setup, teacher_setup: Setup, training: TrainingOptions) -> Examples:
    n_ctx = min(setup.model.cfg.n_ctx for setup in (student_setup, teacher_setup))
    text, n_texts = training["text"], training["n_texts"]
    if text is not None or training["answers"] == OF_TASK:
        return training_examples(student_setup, text, n_texts, n_ctx)
    groups = questions_of_tasks(student_setup, n_texts)
    questions = [question for group in groups for question in group]
    answers = teacher_answers(teacher_setup, student_setup, questions)
    by_question = {id(question): answers.get(place) for place, question in enumerate(questions)}

    def answer(question: Question) -> Example | None:
        return by_question[id(question)]

    return examples_of_questions(groups, answer, student_setup, n_texts, n_ctx)


def _run(job: Distillation, out: Path, progress: bool) -> DistillationResult:
    settings = job.student.settings(analysis="distillation", **job.settings())
    with RunFolder.open(out / TABLES, settings) as run:
        results = read_finished(run, (DistillationResult,)) if run.finished else None
        if results:
            (result,) = results
        else:
            with meter(progress) as progress_meter:
                result, files = job.run(run, out, settings, progress_meter)
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
) -> dict[int, Example]:
    """The teacher's answers: the option that it finds most likely, or what it writes, greedily."""
    requests = [request.request for question in questions for request in question.requests]
    (outcomes,) = teacher.sweep([intact()], requests).outcomes
    answers, examples = iter(outcomes), dict[int, Example]()
    for place, question in enumerate(questions):
        example = _answer(student, question, [next(answers) for _ in question.requests])
        if example is not None:
            examples[place] = example
    return examples


def _answer(setup: Setup, question: Question, outcomes: Sequence[Outcome]) -> Example | None:
    if question.protocol == "generate":
        (outcome,), (request,) = outcomes, question.requests
        assert isinstance(outcome, Generated)
        assert isinstance(request.request, Generate)
        ended = len(outcome.tokens) < request.request.max_tokens and not any(
            stop in setup.tokenizer.decode(outcome.tokens) for stop in request.request.stop
        )
        prompt, answer = request.request.context, outcome.tokens
        return example_of(setup, question, prompt, answer, end=ended) if answer or ended else None
    options = [
        (outcome.logprob, request.request)
        for outcome, request in zip(outcomes, question.requests, strict=True)
        if isinstance(outcome, Scored) and not isinstance(request.request, Generate)
    ]
    _, best = max(options, key=lambda option: option[0])
    return example_of(setup, question, best.context, best.continuation, end=False)
