"""The plans of a distillation and of healing: what training and evaluation cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from layerwise.analyses.contract import PlannedJob, PlannedJobs, PlanOptions
from layerwise.analyses.shared.texts import Texts
from layerwise.errors import UserError
from layerwise.models.decoder.packed import weight_bytes
from layerwise.models.huggingface.meta_model import load_meta_model
from layerwise.models.instance.facts import origin_of
from layerwise.models.instance.kinds import Model, decoder_prefix, is_seq2seq
from layerwise.models.instance.own_files import files_of, refuse_no_files
from layerwise.runs.controls import answers_as_is
from layerwise.runs.dry_sweeps import cost_of_sweeps
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .amounts import (
    NOTHING,
    Amount,
    StepMemory,
    amount_of,
    amount_written,
    batch_amount,
    flop_of,
    passes_of,
    step_memory,
)
from .api import pruned_from
from .batches import fitting
from .examples import Example, training_examples
from .losses import Objective
from .names import DISTILLED, STUDENT, TEACHER
from .student import Student, Teacher, refuse_incomparable
from .training import Trainer, Training, refuse_steps

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

    def expected(self, task: Task, /, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, evaluated together."""
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
    refuse_incomparable(setup.model, student, Objective())
    return _jobs(setup, _beside(setup, student), options)


def healed(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """What healing costs."""
    name, _, _ = pruned_from(Path(setup.loaded.name))
    teacher = _meta_model(setup, options["original"] or name, options["backend"])
    refuse_incomparable(teacher, setup.model, Objective())
    return _jobs(_beside(setup, teacher), setup, options)


def _meta_model(setup: Setup, name: str | os.PathLike[str] | Model, backend: str) -> Model:
    """A model as it would stand beside another; of one that is named no weights are read."""
    if isinstance(name, Model):
        return name
    dtype, device = setup.loaded.dtype, setup.loaded.device
    return load_meta_model(name, dtype=dtype, device=device, backend=backend)


def _beside(setup: Setup, other: Model) -> Setup:
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


class TokensRead(NamedTuple):
    """Tokens that the models of a training read."""

    teacher: Amount  # those of the teacher
    trained: Amount  # those of the student with its gradient
    besides: Amount  # those of the student without: held-out texts, and what it writes itself


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
        """What it is trained on, and for how long."""
        return f"{len(self.training.examples.train)} texts", f"{self.training.steps} steps"

    def cost(self) -> Cost:
        """All of it; texts that the student writes are taken to be half as long as they may be."""
        steps = range(self.training.steps)
        fixed, expected, most = (self.read(steps, share) for share in (None, HALF, 1.0))
        (passes, flop), (all_passes, all_flop) = self._work(fixed), self._work(expected)
        activations, weights = self.memory()
        return Cost(
            requests=len(steps) * min(self.training.batch, len(self.training.examples.train)),
            interventions=1,
            walks=len(steps),
            prompt_token_passes=passes,
            text_token_passes=float(all_passes - passes),
            most_text_token_passes=self._work(most)[0] - passes,
            brute_force_token_passes=float(all_passes),
            prompt_flop=flop,
            text_flop=all_flop - flop,
            peak_bytes=activations,
            weight_bytes=weights,
        )

    def read(self, steps: Sequence[int], share: float | None) -> TokensRead:
        """Tokens that are read in some steps, of texts that the student writes a share of all."""
        held_out = self._amount(self.training.curve_examples())
        n_points = sum(self.training.at_point(step + 1) for step in steps) + (0 in steps)
        trained, written = NOTHING, NOTHING
        for step in steps:
            examples, own = self._examples_at(step, share)
            lengths = [len(example.targets) for example in own]
            trained = trained + self._amount(examples)
            budget = self.training.memory_budget
            written = written + amount_written(own, lengths, self.student, budget)
        curve = n_points * held_out
        return TokensRead(trained + curve, trained, written + curve)

    def _examples_at(self, step: int, share: float | None) -> tuple[list[Example], list[Example]]:
        """The texts of a step, and those of them that the student writes; without these if None."""
        drawn = self.training.texts_at(step)
        examples, own = [], []
        for place, is_own in zip(drawn.places, drawn.own, strict=True):
            example = self.training.examples.train[place]
            if is_own:
                if share is None:
                    continue
                # So many meaningless tokens are its targets.
                tokens = (*example.given, *(0,) * max(1, round(share * example.most)))
                example = example._replace(tokens=tokens, n_prompt=example.n_given)
                own.append(example)
            examples.append(example)
        return examples, own

    def _amount(self, examples: Sequence[Example]) -> Amount:
        d_vocab, memory_budget = self.teacher.cfg.d_vocab, self.training.memory_budget
        return amount_of(examples, self.student, d_vocab, memory_budget)

    def _work(self, read: TokensRead) -> tuple[int, float]:
        """Token-passes and operations; a backward is two forwards, for inputs and for weights."""
        passes, flop = (
            of(read.teacher, self.teacher)
            + of(read.besides, self.student)
            + 3 * of(read.trained, self.student)
            for of in (passes_of, flop_of)
        )
        return int(passes), flop

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
        """Memory of the step whose texts are most tokens, none written by the student itself."""
        budget, d_vocab = self.training.memory_budget, self.teacher.cfg.d_vocab
        batches = [
            batch
            for step in range(self.training.steps)
            for batch in fitting(self._examples_at(step, 1.0)[0], d_vocab, budget)
        ]
        prefix = decoder_prefix(self.student) if is_seq2seq(self.student) else None
        largest = max(batches, key=lambda batch: batch_amount(batch, prefix)[:2].sum())
        # So many steps that none is a point of the curve.
        of_step = replace(
            self.training, examples=Texts(tuple(largest), tuple(largest), ""), batch=len(largest),
            objective=Objective(), steps=10_000,
        )  # fmt: skip
        return step_memory(self.teacher, self.student, of_step)

    def seconds(self, loaded: Callable[[Model], Model]) -> float:
        """About how long it takes, from a few of its steps."""
        teacher, student = loaded(self.teacher), loaded(self.student)
        origin = origin_of(student)
        assert origin is not None
        training = self.training
        trained = Student.of(student, files_of(student), training.layers, training.rank, 0)
        # So many steps that no point of the curve is among those that are timed.
        timed = replace(training, steps=training.steps + 10_000)
        trainer = Trainer(Teacher(teacher), trained, origin.tokenizer, timed)
        trainer.step()
        started = time.perf_counter()
        while trainer.done < 2 or time.perf_counter() - started < SECONDS:
            trainer.step()
        spent = time.perf_counter() - started
        done = replace(self, training=timed).read(range(1, trainer.done), HALF)
        whole = self.read(range(training.steps), HALF)
        return spent / self._work(done)[1] * self._work(whole)[1]
