"""The plans of a distillation and of healing: what training and evaluation cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from layerwise.analyses.contract import PlannedJob, PlannedJobs, PlanOptions
from layerwise.analyses.shared.texts import Texts
from layerwise.errors import UserError
from layerwise.models.decoder.packed import weight_bytes
from layerwise.models.instance.facts import model_origin
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.models.meta_model import load_meta_model
from layerwise.models.own_files import model_folder, refuse_no_files
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.runs.controls import answers_as_is
from layerwise.runs.dry_sweeps import cost_of_sweeps
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.sweep.plans.cost import Cost, matrix_flop
from layerwise.sweep.run import model_shape
from layerwise.tasks import Task

from .api import read_pruned_folder
from .training.batches import batches_that_fit
from .training.examples import Example, training_examples
from .training.loop import Trainer, Training, refuse_steps
from .training.losses import Objective
from .training.memory import StepMemory, step_memory
from .training.names import DISTILLED, STUDENT, TEACHER
from .training.student import Student, Teacher, refuse_incomparable

_NOTES = (
    "A backward counts as two forwards. Answers are taken to be the tasks' own; those of the "
    "teacher (`answers`) come on top.",
)
# Steps of a training are timed for so long, and one that warms up comes before.
SECONDS = 1.5
# Of texts that a student writes itself so much is expected of the length that they may have.
HALF = 0.5


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one of the three models."""

    setup: Setup  # the model with tasks and protocols

    def expected_cost(self, task: Task, /, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, evaluated together."""
        make = partial(answers_as_is, self.setup, task, protocols, "engine")
        return cost_of_sweeps(self.setup, task, make)


def plan_distillation(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """Plan of a distillation."""
    if options["student"] is None:
        raise UserError(
            "The plan of a distillation needs a student: expected the name or folder of a model; "
            "name it as `student` (`--student` at the command line)."
        )
    student = _meta_model(setup, options["student"], options["backend"])
    refuse_incomparable(setup.model, student, Objective())
    return _jobs(setup, _setup_for(setup, student), options)


def plan_healing(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """Plan of healing."""
    name, _, _ = read_pruned_folder(Path(setup.loaded.name))
    teacher = _meta_model(setup, options["original"] or name, options["backend"])
    refuse_incomparable(teacher, setup.model, Objective())
    return _jobs(_setup_for(setup, teacher), setup, options)


def _meta_model(setup: Setup, name: str | os.PathLike[str] | Model, backend: str) -> Model:
    """A model as it would stand beside another; of one that is named no weights are read."""
    if isinstance(name, Model):
        return name
    dtype, device = setup.loaded.dtype, setup.loaded.device
    return load_meta_model(name, dtype=dtype, device=device, backend=backend)


def _setup_for(setup: Setup, other: Model) -> Setup:
    """The same tasks and protocols for another model."""
    prepared = prepare(
        other, setup.tasks, setup.protocols, seed=setup.seed, chat=setup.chat,
        memory_budget=setup.memory_budget,
    )  # fmt: skip
    # The plan's own setup keeps the sweeps whose cost is computed, and so must this one.
    return replace(
        setup, **{field.name: getattr(prepared, field.name) for field in fields(prepared)}
    )


def _jobs(teacher: Setup, student: Setup, options: PlanOptions) -> PlannedJobs:
    refuse_steps(options["rank"], options["batch"], options["steps"])
    refuse_no_files(student.model)
    chosen = None if options["layers"] is None else check_layers(options["layers"], student.model)
    training = Training(
        training_examples(student, teacher, options["text"], options["n_texts"]),
        Objective(on_policy=options["on_policy"]), chosen, options["rank"], options["batch"],
        # Any rate: it does not change what a step takes.
        options["steps"], 1e-6, student.seed, student.memory_budget,
    )  # fmt: skip
    evaluations: dict[str, PlannedJob] = {
        host: Evaluation(setup)
        for host, setup in ((TEACHER, teacher), (STUDENT, student), (DISTILLED, student))
    }
    work = TrainingWork(teacher.model, student.model, training)
    return PlannedJobs(evaluations, _NOTES, {"training": work})


class PassWork(NamedTuple):
    """Tokens pushed through layers, and operations."""

    passes: int
    flop: float

    @classmethod
    def from_batch(cls, model: Model, batch: Sequence[Example]) -> PassWork:
        """Of a forward of a padded batch; attention's pairs are not counted."""
        n_layers, n_encoder = model.cfg.n_layers, n_encoder_layers(model)
        if isinstance(model, Seq2SeqModel):
            n_prompt = max(example.n_prompt for example in batch)
            n_decoded = max(len(example.targets) for example in batch) + len(model.prefix) - 1
            a_text = n_encoder * n_prompt + (n_layers - n_encoder) * n_decoded
            a_pass = 2 * sum(weight.numel() for weight in model.parameters()) / n_layers
        else:
            a_text = n_layers * max(len(example.tokens) - 1 for example in batch)
            a_pass = matrix_flop(model_shape(model), n_layers, 0, 1) / n_layers
        return cls(len(batch) * a_text, len(batch) * a_text * a_pass)

    def __add__(self, other: Any) -> PassWork:
        return PassWork(self.passes + other.passes, self.flop + other.flop)

    def __mul__(self, n: Any) -> PassWork:
        return PassWork(self.passes * n, self.flop * n)


@dataclass(frozen=True)
class TrainingWork:
    """A training as a plan needs it."""

    teacher: Model  # the teacher, or its meta model
    student: Model  # the student, or its meta model
    training: Training  # texts, steps and sizes

    @property
    def models(self) -> tuple[Model, Model]:
        """Teacher and student."""
        return self.teacher, self.student

    @property
    def words(self) -> tuple[str, str]:
        """Texts that it is trained on, and for how long."""
        return f"{len(self.training.examples.train)} texts", f"{self.training.steps} steps"

    def cost(self) -> Cost:
        """All of it; texts that the student writes are taken to be half as long as they may be."""
        training = self.training
        steps = range(training.steps)
        read, expected, most = (self.work(steps, share) for share in (None, HALF, 1.0))
        activations, weights = self.memory()
        return Cost(
            requests=training.steps * min(training.batch, len(training.examples.train)),
            interventions=1,
            walks=training.steps,
            prompt_token_passes=read.passes,
            text_token_passes=float(expected.passes - read.passes),
            most_text_token_passes=most.passes - read.passes,
            brute_force_token_passes=float(expected.passes),
            prompt_flop=read.flop,
            text_flop=expected.flop - read.flop,
            peak_bytes=activations,
            weight_bytes=weights,
        )

    def work(self, steps: Sequence[int], share: float | None) -> PassWork:
        """Work of some steps, of own texts so long a share of the most; without these if None."""
        training = self.training
        n_points = sum(training.at_point(step + 1) for step in steps) + (0 in steps)
        total = self._pass_work(training.curve_examples()) * n_points
        for step in steps:
            examples, own = self._step_examples(step, share)
            total += self._pass_work(examples, n_student=3)
            # Prompts are padded to the longest before anything is written.
            longest = max((example.n_given for example in own), default=0)
            written = [
                example._replace(tokens=(*longest * (0,), *example.targets), n_prompt=longest)
                for example in own
            ]
            total += self._pass_work(written, n_teacher=0)
        return total

    def _step_examples(self, step: int, share: float | None) -> tuple[list[Example], list[Example]]:
        """The texts of a step, and those of them that the student writes."""
        drawn = self.training.step_texts(step)
        examples, own = [], []
        for place, is_own in zip(drawn.places, drawn.own, strict=True):
            example = self.training.examples.train[place]
            if is_own and share is None:
                continue
            if is_own:
                tokens = (
                    *example.given_tokens,
                    *(0,) * max(1, round((share or 0.0) * example.most)),
                )
                example = example._replace(tokens=tokens, n_prompt=example.n_given)
                own.append(example)
            examples.append(example)
        return examples, own

    def _pass_work(
        self, examples: Sequence[Example], n_teacher: int = 1, n_student: int = 1
    ) -> PassWork:
        """Work of so many passes of both models; a backward is two forwards."""
        total = PassWork(0, 0.0)
        for batch in self._batches(examples):
            total += PassWork.from_batch(self.teacher, batch) * n_teacher
            total += PassWork.from_batch(self.student, batch) * n_student
        return total

    def _batches(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        return batches_that_fit(examples, self.teacher.cfg.d_vocab, self.training.memory_budget)

    def memory(self) -> tuple[int, int]:
        """Bytes that a step works on, and bytes of weights, gradients and moments, at the most."""
        step = self.step_memory()
        loaded = sum(map(weight_bytes, (self.teacher, self.student)))
        # AdamW keeps two moments of each trained weight; a state is packed into bytes twice.
        state = step.trained * (1 + 2)
        # Gradients stand with the weights. A state is kept when there are none.
        on_top = max(step.made, 2 * state) - step.trained
        weights = loaded + step.copied + state
        # The distilled student is loaded and compared beside both models.
        loading = loaded + weight_bytes(self.student) + step.copied
        return on_top, max(weights, loading - on_top)

    def step_memory(self) -> StepMemory:
        """Memory of a step of the largest batch, none of it written by the student itself."""
        steps = (self._step_examples(step, 1.0) for step in range(self.training.steps))
        batches = (batch for examples, _ in steps for batch in self._batches(examples))
        largest = max(batches, key=lambda batch: PassWork.from_batch(self.student, batch).passes)
        # So many steps that none is a point of the curve.
        of_step = replace(
            self.training, examples=Texts(tuple(largest), tuple(largest), ""), batch=len(largest),
            objective=Objective(), steps=10_000,
        )  # fmt: skip
        return step_memory(self.teacher, self.student, of_step)

    def seconds(self, loaded: Callable[[Model], Model]) -> float:
        """About how long it takes: that of two of its steps at least, scaled by operations."""
        teacher, student = loaded(self.teacher), loaded(self.student)
        origin = model_origin(student)
        assert origin is not None
        training = self.training
        trained = Student.from_model(
            student, model_folder(student), training.layers, training.rank, 0
        )
        # So many steps that no point of the curve is among those that are timed.
        timed = replace(training, steps=training.steps + 10_000)
        trainer = Trainer(Teacher(teacher), trained, origin.tokenizer, timed)
        trainer.step()
        started = time.perf_counter()
        while trainer.done < 3 or time.perf_counter() - started < SECONDS:
            trainer.step()
        spent = time.perf_counter() - started
        done = replace(self, training=timed).work(range(1, trainer.done), HALF)
        return spent / done.flop * self.work(range(training.steps), HALF).flop
