"""The plans of a distillation and of healing: the training, and what the three models are asked."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from layerwise.analyses.planned import Planned, PlannedJob, PlannedJobs, PlanOptions
from layerwise.errors import UserError
from layerwise.models.kinds import Model
from layerwise.models.meta_model import load_meta_model
from layerwise.models.own_files import refuse_no_files
from layerwise.runs.controls import asked_blind, without_layers
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.sweep import intact
from layerwise.sweep.cost import Cost
from layerwise.tasks import Task

from .course import lessons_to_train_on, refuse_training
from .fit import refuse_strangers
from .healing import pruned_from
from .losses import Objective
from .names import DISTILLED, STUDENT, TEACHER
from .work import TrainingWork

TRAINING = "training"
OPTIONS = ("text", "on_policy", "rank", "n_texts", "batch", "steps")
_NOTES = (
    "A backward counts as two forwards. Answers are taken to be the tasks' own; those of the "
    "teacher (`answers`) come on top.",
)


@dataclass(frozen=True)
class Asking:
    """The questions that one of the three models is asked.

    Attributes:
        setup: the model, as it is asked.
    """

    setup: Setup

    def expected(self, task: Task, /, *protocols: str) -> Cost:
        """What a task is expected to cost under some protocols, asked together."""
        setup = self.setup
        requests = [
            one.request
            for item in task.items
            for protocol in protocols
            for one in setup.requests(task, item, protocol)
        ]
        cost = setup.cost(task, [intact(), without_layers(setup.model)], requests)
        blind = asked_blind(setup, task, task.items, protocols)
        if blind:
            others = [one.request for item in blind for one in item.requests]
            cost += setup.cost(task, [intact()], others)
        return cost


def _distilled(setup: Setup, options: PlanOptions) -> PlannedJobs:
    if options.student is None:
        raise UserError(
            "The plan of a distillation needs a student: expected the name or folder of a model; "
            "name it as `student` (`--student` at the command line)."
        )
    student = _outline(setup, options.student, options.backend)
    refuse_strangers(setup.model, student, Objective())
    return _jobs(setup, _beside(setup, student), options)


def _healed(setup: Setup, options: PlanOptions) -> PlannedJobs:
    pruned = pruned_from(Path(setup.loaded.name))
    teacher = _outline(setup, options.original or pruned.name, options.backend)
    refuse_strangers(teacher, setup.model, Objective())
    return _jobs(_beside(setup, teacher), setup, options)


def _outline(setup: Setup, name: str | os.PathLike[str] | Model, backend: str) -> Model:
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
    refuse_training(
        on_policy=options.on_policy, rank=options.rank, batch=options.batch, steps=options.steps
    )
    refuse_no_files(learns.model)
    chosen = None if options.layers is None else check_layers(options.layers, learns.model)
    n_ctx = min(one.model.cfg.n_ctx for one in (learns, teaches))
    text = None if options.text is None else Path(options.text)
    training = TrainingWork(
        teaches.model, learns.model, lessons_to_train_on(learns, text, options.n_texts, n_ctx),
        Objective(on_policy=options.on_policy), chosen, options.rank, options.batch, options.steps,
        learns.seed, learns.memory_budget,
    )  # fmt: skip
    asked: dict[str, PlannedJob] = {
        host: Asking(setup)
        for host, setup in ((TEACHER, teaches), (STUDENT, learns), (DISTILLED, learns))
    }
    return PlannedJobs(asked, _NOTES, {TRAINING: training})


DISTILL = Planned("distill", _distilled, options=("student", "layers", *OPTIONS))
HEAL = Planned("heal", _healed, options=("original", "layers", *OPTIONS))
