"""A planned distillation: train the student, write and load it, evaluate it beside the others.

Each step is kept in the run's folder, where an interrupted one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.shared.written_model import write_model
from layerwise.ground.layer_names import layer_name
from layerwise.models import weights_hash
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.models.own_files import load_like, model_folder
from layerwise.runs.checkpoints import concat_parts
from layerwise.runs.controls import guessed_rows, records_as_is
from layerwise.runs.folder import RunFolder
from layerwise.runs.pieces import joined_work
from layerwise.runs.progress import Meter
from layerwise.runs.records import work_entry
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.parquet import frame
from layerwise.storage.schemas import SCHEMAS
from layerwise.tasks import Task

from .result import DistillationResult
from .training.loop import Trainer, Training
from .training.names import DISTILLED, STUDENT, TEACHER
from .training.student import Student, Teacher, matching_layers

# Seconds after which a training is kept between two points of its curve.
KEPT_EVERY = 120.0
_STATE, _CURVE = "training", "curve"


@dataclass(frozen=True)
class Distillation:
    """A planned distillation."""

    student: Setup  # what it starts from, with the student before training
    teacher: Setup  # the same with the teacher
    training: Training  # texts, steps and sizes
    answers: str  # whose answers the texts have
    from_file: bool  # whether they are a file's
    # The teacher's layers that the student lacks, where it is the teacher without them.
    removed: tuple[int, ...] | None = None

    def settings(self) -> dict[str, Any]:
        """Settings that make it this distillation and no other."""
        training, examples = self.training, self.training.examples
        n_encoder = self.teacher.loaded.n_encoder_layers
        settings = {
            "teacher": self.teacher.loaded.name,
            "teacher_hash": self.teacher.loaded.hash,
            **vars(training.objective),
            "answers": self.answers,
            "from_file": self.from_file,
            "layers": None if training.layers is None else list(training.layers),
            "rank": training.rank,
            "text": examples.source,
            "text_hash": examples.hash,
            "texts_trained_on": len(examples.train),
            "texts_held_out": len(examples.held_out),
            "batch": training.batch,
            "steps": training.steps,
            "rate": training.rate,
        }
        if self.removed is not None:  # as the teacher names them
            settings["removed"] = [layer_name(layer, n_encoder) for layer in self.removed]
        return settings

    def run(
        self, run: RunFolder, out: Path, settings: dict[str, Any], progress: Meter
    ) -> tuple[DistillationResult, dict[str, str]]:
        """Train and evaluate, from where an interrupted run stopped."""
        step_flop = self._step_flop()
        progress.expect(step_flop * self.training.steps)
        files = write_model(
            run, out, lambda place: self._train(run, progress, step_flop).save(place)
        )
        curve = frame("distillation_curve", run.read_part(_CURVE).to_dict("records"))
        written = load_like(out, self.student.model)
        records, work = self._evaluate(run, written, progress)
        facts = settings | {"written_hash": weights_hash(written)}
        return DistillationResult(records, curve, self.student.facts(facts, work)), files

    def _step_flop(self) -> float:
        """Operations of a step: one pass of the teacher, three of the student with its gradient."""
        texts = self.training.examples.train
        length = sum(len(text.tokens) for text in texts) / max(len(texts), 1)
        passed = self.teacher.loaded.n_parameters + 3 * self.student.loaded.n_parameters
        return length * min(self.training.batch, len(texts)) * 2 * passed

    def _train(self, run: RunFolder, progress: Meter, step_flop: float) -> Student:
        """The student as it is after all steps, from where an interrupted run stopped."""
        trainer = self._trainer()
        state = run.read_bytes(_STATE)
        progress.set_activity("training the student")
        if state is None:
            trainer.begin()
        else:
            trainer.resume(state)
            progress.add_work(step_flop * trainer.done)
        saved_at = time.monotonic()
        while trainer.done < self.training.steps:
            trainer.step()
            progress.add_work(step_flop)
            if self.training.at_point(trainer.done) or time.monotonic() - saved_at > KEPT_EVERY:
                run.write_bytes(_STATE, trainer.state())
                saved_at = time.monotonic()
        run.write_part(_CURVE, frame("distillation_curve", trainer.rows))
        return trainer.student

    def _trainer(self) -> Trainer:
        setup, training = self.student, self.training
        folder = model_folder(setup.model)
        student = Student.from_model(
            setup.model, folder, training.layers, training.rank, training.seed
        )
        teacher_layers: tuple[int, ...] = ()
        if training.objective.hidden and self.removed is not None:
            layers = range(self.teacher.loaded.n_layers)
            teacher_layers = tuple(layer for layer in layers if layer not in self.removed)
        elif training.objective.hidden:
            teacher_layers = matching_layers(_stacks(setup.model), _stacks(self.teacher.model))
        teacher = Teacher(self.teacher.model, teacher_layers)
        return Trainer(teacher, student, setup.tokenizer, training)

    def _evaluate(
        self, run: RunFolder, written: Model, progress: Meter
    ) -> tuple[pd.DataFrame, Sequence[dict[str, Any]]]:
        """Records and work of the three models."""
        after = prepare(
            written, self.student.tasks, self.student.protocols, seed=self.student.seed,
            chat=self.student.chat, memory_budget=self.student.memory_budget,
        )  # fmt: skip
        after = replace(after, tokens_at_once=self.student.tokens_at_once)
        names = []
        for host, setup in ((TEACHER, self.teacher), (STUDENT, self.student), (DISTILLED, after)):
            for task in setup.tasks:
                name = f"{host} {task.name}"
                progress.set_activity(f"asking the {host}: {task.name}")
                if not run.has_part(f"records {name}", f"work {name}"):
                    records, work = answer_records(setup, host, task, self.student)
                    run.write_part(f"work {name}", work)
                    run.write_part(f"records {name}", records)
                names.append(name)
        work = concat_parts(run, [f"work {name}" for name in names]).to_dict("records")
        records = concat_parts(run, [f"records {name}" for name in names])
        return records, [{str(key): value for key, value in entry.items()} for entry in work]


def _stacks(model: Model) -> list[int]:
    """Layers of each stack."""
    n_encoder = n_encoder_layers(model)
    sizes = [n_encoder, model.cfg.n_layers - n_encoder]
    return [size for size in sizes if size]


def answer_records(
    setup: Setup, host: str, task: Task, guessed_by: Setup
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model's answers to a task's items and to its controls, and what they cost."""
    rows, stats = records_as_is(setup, task, setup.protocols, "engine", setup)
    rows += guessed_rows(guessed_by, task, task.items, setup.protocols)
    work = pd.DataFrame([work_entry("distillation", task.name, entry) for entry in stats])
    names = SCHEMAS["distillation"].names
    kept = [{name: (row | {"host": host}).get(name) for name in names} for row in rows]
    return frame("distillation", kept), pd.DataFrame(joined_work([work]))
