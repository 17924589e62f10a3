"""The plans of a distillation and of healing: what the training costs, and what is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from layerwise.analyses.contract import PlannedJob, PlannedJobs, PlanOptions
from layerwise.errors import UserError
from layerwise.models.huggingface.meta_model import load_meta_model
from layerwise.models.instance.facts import origin_of
from layerwise.models.instance.kinds import Model, decoder_prefix, is_seq2seq
from layerwise.models.instance.own_files import files_of, refuse_no_files
from layerwise.models.weights.footprint import weight_bytes
from layerwise.runs.controls import answers_as_is
from layerwise.runs.dry_sweeps import cost_of_sweeps
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .amounts import (
    Amount,
    amount_read,
    amount_together,
    amount_written,
    with_length,
)
from .batches import fitting
from .course import lessons_to_train_on, refuse_steps
from .dry_step import StepMemory, step_memory
from .healing import pruned_from
from .lessons import Lesson, Lessons
from .losses import Objective
from .names import DISTILLED, STUDENT, TEACHER
from .student import Student, Teacher, refuse_strangers
from .training import Trainer, at_point, drawn_at, of_curve

TRAINING = "training"
_NOTES = (
    "A backward counts as two forwards. Answers are taken to be the tasks' own; those of the "
    "teacher (`answers`) come on top.",
)
# A backward is about two forwards: one for what comes in, one for the weights.
WITH_BACKWARD = 3
# AdamW keeps two moments of each trained weight.
MOMENTS = 2
# A state is packed into bytes twice: each tensor, and all of them.
OF_STATE = 2
# Steps of a training are timed for so long, and one that warms up comes before.
SECONDS = 1.5
# Of texts that a student writes itself so much is expected of the length that they may have.
HALF = 0.5


@dataclass(frozen=True)
class Asking:
    """The questions that one of the three models is asked.

    Attributes:
        setup: the model, as it is asked.
    """

    setup: Setup

    def expected(self, task: Task, /, *protocols: str) -> Cost:
        """What a task is expected to cost under some protocols, asked together."""
        make = partial(answers_as_is, self.setup, task, protocols, "engine")
        return cost_of_sweeps(self.setup, task, make)


def distilled(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """What a distillation costs."""
    if options["student"] is None:
        raise UserError(
            "The plan of a distillation needs a student: expected the name or folder of a model; "
            "name it as `student` (`--student` at the command line)."
        )
    student = _meta_model(setup, options["student"], options["backend"])
    refuse_strangers(setup.model, student, Objective())
    return _jobs(setup, _beside(setup, student), options)


def healed(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """What healing costs."""
    pruned = pruned_from(Path(setup.loaded.name))
    teacher = _meta_model(setup, options["original"] or pruned.name, options["backend"])
    refuse_strangers(teacher, setup.model, Objective())
    return _jobs(_beside(setup, teacher), setup, options)


def _meta_model(setup: Setup, name: str | os.PathLike[str] | Model, backend: str) -> Model:
    """A model as it would stand beside another; of one that is named no weights are read."""
    if isinstance(name, Model):
        return name
    dtype, device = setup.loaded.dtype, setup.loaded.device
    return load_meta_model(name, dtype=dtype, device=device, backend=backend)


def _beside(setup: Setup, other: Model) -> Setup:
    """The same questions to another model."""
    made = prepare(
        other, setup.tasks, setup.protocols, seed=setup.seed, chat=setup.chat,
        memory_budget=setup.memory_budget,
    )  # fmt: skip
    # The plan's own setup notes what is asked, and so must this one.
    return replace(setup, **{one.name: getattr(made, one.name) for one in fields(made)})


def _jobs(teaches: Setup, learns: Setup, options: PlanOptions) -> PlannedJobs:
    objective = Objective(on_policy=options["on_policy"])
    refuse_steps(options["rank"], options["batch"], options["steps"])
    refuse_no_files(learns.model)
    chosen = None if options["layers"] is None else check_layers(options["layers"], learns.model)
    n_ctx = min(one.model.cfg.n_ctx for one in (learns, teaches))
    training = TrainingWork(
        teaches.model, learns.model,
        lessons_to_train_on(learns, options["text"], options["n_texts"], n_ctx), objective, chosen,
        options["rank"], options["batch"], options["steps"], learns.seed, learns.memory_budget,
    )  # fmt: skip
    asked: dict[str, PlannedJob] = {
        host: Asking(setup)
        for host, setup in ((TEACHER, teaches), (STUDENT, learns), (DISTILLED, learns))
    }
    return PlannedJobs(asked, _NOTES, {TRAINING: training})


class Read(NamedTuple):
    """What the models of a training read.

    Attributes:
        teacher: what the teacher reads.
        trained: what the student reads with its gradient.
        besides: what it reads without: held-out texts, and what it writes itself.
    """

    teacher: Amount
    trained: Amount
    besides: Amount

    def __add__(self, other: object) -> Read:
        assert isinstance(other, Read)
        return Read(*(mine + its for mine, its in zip(self, other, strict=True)))


NOTHING = Read(Amount(), Amount(), Amount())


@dataclass(frozen=True)
class TrainingWork:
    """A training as a plan needs it.

    Attributes:
        teacher: the teacher, or its outline.
        student: the student, or its outline.
        lessons: texts to train on and to test on.
        objective: what is minimised.
        layers: the layers that are trained; None for all weights.
        rank: of low-rank adapters; None for none.
        batch: texts a step.
        steps: number of steps.
        seed: of all draws.
        memory_budget: bytes for logits.
    """

    teacher: Model
    student: Model
    lessons: Lessons
    objective: Objective
    layers: tuple[int, ...] | None
    rank: int | None
    batch: int
    steps: int
    seed: int
    memory_budget: int

    @property
    def models(self) -> tuple[Model, Model]:
        """Teacher and student."""
        return self.teacher, self.student

    @property
    def words(self) -> tuple[str, str]:
        """What it is trained on, and for how long."""
        return f"{len(self.lessons.train)} texts", f"{self.steps} steps"

    def cost(self) -> Cost:
        """All of it; texts that the student writes are taken to be half as long as they may be."""
        steps = range(self.steps)
        fixed, expected, most = (self.read(steps, share) for share in (None, HALF, 1.0))
        (passes, flop), (all_passes, all_flop) = self._work(fixed), self._work(expected)
        activations, weights = self.memory()
        return Cost(
            requests=self.steps * min(self.batch, len(self.lessons.train)),
            interventions=1,
            walks=self.steps,
            prompt_token_passes=passes,
            text_token_passes=float(all_passes - passes),
            most_text_token_passes=self._work(most)[0] - passes,
            brute_force_token_passes=float(all_passes),
            prompt_flop=flop,
            text_flop=all_flop - flop,
            peak_bytes=activations,
            weight_bytes=weights,
        )

    def read(self, steps: Sequence[int], share: float | None) -> Read:
        """What is read in some steps."""
        found = sum((self._read_at(step, share) for step in steps), start=NOTHING)
        n_points = sum(at_point(step + 1, self.steps) for step in steps) + (0 in steps)
        held_out = self._amount(of_curve(self.lessons.held_out, self.seed))
        curve = Read(held_out, Amount(), held_out)
        return sum((curve for _ in range(n_points)), start=found)

    def _read_at(self, step: int, share: float | None) -> Read:
        texts, own = self._texts(step, share)
        amount = self._amount(texts)
        if not own:
            return Read(amount, amount, Amount())
        lengths = [len(one.said) for one in own]
        wrote = amount_written(own, lengths, self.student, self.memory_budget)
        return Read(amount, amount, wrote)

    def _texts(self, step: int, share: float | None) -> tuple[list[Lesson], list[Lesson]]:
        """The texts of a step, and those of them that the student writes."""
        train = self.lessons.train
        drawn = drawn_at(step, self.seed, len(train), self.batch, self.objective.on_policy)
        texts, own = [], []
        for place, wrote in zip(drawn.places, drawn.own, strict=True):
            one = train[place]
            if wrote and share is None:
                continue
            if wrote and share is not None:
                one = with_length(one, max(1, round(share * one.most)))
                own.append(one)
            texts.append(one)
        return texts, own

    def _amount(self, texts: Sequence[Lesson]) -> Amount:
        if not texts:
            return Amount()
        return amount_read(texts, self.student, self.teacher.cfg.d_vocab, self.memory_budget)

    def _work(self, read: Read) -> tuple[int, float]:
        """Token-passes and operations, a backward as two forwards."""
        teacher, student = self.teacher, self.student
        passes = read.teacher.passes(teacher) + read.besides.passes(student)
        flop = read.teacher.flop(teacher) + read.besides.flop(student)
        return (
            passes + WITH_BACKWARD * read.trained.passes(student),
            flop + WITH_BACKWARD * read.trained.flop(student),
        )

    def memory(self) -> tuple[int, int]:
        """Bytes that a step works on, and bytes of weights, gradients and moments, at the most."""
        step = self.step_memory()
        loaded = sum(map(weight_bytes, (self.teacher, self.student)))
        kept = step.trained * (1 + MOMENTS)
        # Gradients stand with the weights. A state is kept when there are none.
        on_top = max(step.made, OF_STATE * kept) - step.trained
        weights = loaded + step.copied + step.trained + MOMENTS * step.trained
        # The distilled student is loaded and compared beside both models.
        loading = loaded + weight_bytes(self.student) + step.copied
        return on_top, max(weights, loading - on_top)

    def step_memory(self) -> StepMemory:
        """Memory of the step whose texts are most tokens."""
        batches = [
            texts
            for step in range(self.steps)
            for texts in fitting(
                self._texts(step, 1.0)[0], self.teacher.cfg.d_vocab, self.memory_budget
            )
        ]
        prefix = decoder_prefix(self.student) if is_seq2seq(self.student) else None
        largest = max(batches, key=lambda texts: amount_together(texts, prefix).tokens)
        return step_memory(
            self.teacher, self.student, largest, self.layers, self.rank, self.memory_budget
        )

    def seconds(self, loaded: Callable[[Model], Model]) -> float:
        """About how long it takes, from a few of its steps."""
        teacher, student = loaded(self.teacher), loaded(self.student)
        origin = origin_of(student)
        assert origin is not None
        trainer = Trainer(
            Teacher(teacher), Student.of(student, files_of(student), self.layers, self.rank, 0),
            self.lessons.train, self.lessons.held_out, self.objective, origin.tokenizer,
            # So many steps that no point of the curve is among those that are timed.
            self.steps + 10_000, 1e-6, self.batch, self.seed, self.memory_budget,
        )  # fmt: skip
        trainer.step()
        started = time.perf_counter()
        while trainer.done < 2 or time.perf_counter() - started < SECONDS:
            trainer.step()
        spent = time.perf_counter() - started
        timed = replace(self, steps=trainer.steps).read(range(1, trainer.done), HALF)
        return spent / self._work(timed)[1] * self.cost().flop
