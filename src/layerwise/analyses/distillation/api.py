"""``distill`` and ``heal``: a student trained on a teacher's predictions, and what it can do.

The training, its losses and its texts are in ``training``; ``job`` goes from two loaded models to a
written one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute
from layerwise.analyses.shared.written_model import TABLES, refuse_occupied_folder
from layerwise.errors import UserError
from layerwise.ground.arguments import select_options
from layerwise.ground.readers import AnyPath
from layerwise.models import load_model, model_facts
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import several_exclusive
from layerwise.models.instance.kinds import Model
from layerwise.models.own_files import model_folder
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.folder import RunFolder
from layerwise.runs.options import HealingOptions, LoadingOptions, PromptOptions, TrainingOptions
from layerwise.runs.progress import Meter
from layerwise.runs.setup import TaskLike, check_layers, prepare
from layerwise.storage.atomic_files import remove_temporaries, write_atomically
from layerwise.storage.file_list import states
from layerwise.storage.places import OutputFolder
from layerwise.storage.provenance import RUN_FILE, is_finished, listed_files, read_run_file

from .card import card
from .job import Distillation
from .result import DistillationResult
from .training.examples import training_examples
from .training.loop import Training, refuse_steps
from .training.losses import Objective
from .training.names import OF_TASK
from .training.student import refuse_incomparable

CARD = "README.md"


_checked = check_arguments(Objective, refuse_steps)


@_checked
def heal(
    folder: AnyPath,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    out: OutputFolder,
    **training: Unpack[HealingOptions],
) -> DistillationResult:
    """Train a pruned model on its original's predictions, and measure what comes back.

    A distillation whose student is a model out of ``prune_model`` and whose teacher is the model
    that it came from, so that gains are what comes back of what was lost with the layers. What
    comes back, and what does not, is asked by Gromov et al. 2024 (arXiv:2403.17887), who heal with
    low-rank adapters. ``docs/distillation.md`` has definitions and tests.

    Args:
        folder: the folder that ``layerwise prune`` wrote; it stays as it is.
        tasks: task names, capabilities, JSONL files, or ``Task`` values: what is measured, and,
            without ``text``, trained on by other items.
        out: the folder to write; it must not exist or be empty, or be that of the same call,
            which goes on there after an interruption. Tables go into its folder ``compared``.

    Returns:
        As ``distill``: the teacher is the original, the student the model without the layers, and
        the distilled student the healed one.

    Raises:
        UserError: if the folder is none of a pruned model or was changed since, if its original is
            not there or is another by now, and as ``distill`` does.
    """
    name, removed, run = read_pruned_folder(Path(folder))
    original, how = training["original"], select_options(LoadingOptions, training)
    is_path = original is None and run["model"]["source"] in ("folder", "gguf")
    if is_path and not Path(name).expanduser().exists():
        raise UserError(
            f"The original that {folder} was written from is not at {name!r} any more: "
            "expected its folder or file there; name the place where it is now, as `original` "
            "(`--original` at the command line)."
        )
    name = name if original is None else str(original)
    teacher = load_model(name, **how)
    known, source_hash = run["settings"].get("source_hash"), model_facts(teacher).source_hash
    if known and source_hash != known:
        raise UserError(
            f"{name!r} is not the model that {folder} was written from any more: its files have "
            f"SHA-256 {source_hash[:12]}, expected {known[:12]}; restore them, or prune the model "
            "again."
        )
    cut = load_model(folder, **how)
    return train_student(teacher, cut, tasks, protocols, Path(out), training, removed)


def read_pruned_folder(folder: Path) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """Of a folder out of ``prune_model`` the original's name, the layers left out, and its run."""
    tables = folder / TABLES
    run = read_run_file(tables) if (tables / RUN_FILE).is_file() else {"settings": {}}
    settings = run["settings"]
    if settings.get("analysis") != "pruning" or not is_finished(run):
        raise UserError(
            f"{folder} holds no model that layerwise wrote without some layers: expected the "
            "folder of a finished `layerwise prune`; prune the model first, or name the original "
            "and the student to `layerwise distill`."
        )
    model = {name: digest for name, digest in (listed_files(tables) or {}).items()
             if name.startswith("../")}  # fmt: skip
    changed = sorted(name for name, state in states(tables, model).items() if state != "ok")
    if changed:
        raise UserError(
            f"{folder} is not as it was written ({Path(changed[0]).name} is changed or missing): "
            "expected the model that `layerwise prune` wrote; prune it again."
        )
    return settings["model"], tuple(settings["removed"]), run


@_checked
def distill(
    model: LoadedModel,
    student: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    out: OutputFolder,
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
    refuse_steps(rank, batch, steps, training["rate"])
    with several_exclusive(teacher, student):
        refuse_incomparable(teacher, student, objective)
        model_folder(student)  # refused before any work is done
        refuse_occupied_folder(out)
        prompts = select_options(PromptOptions, training)
        setup = prepare(student, tasks, protocols, out=out / TABLES, **prompts)
        teachers = prepare(
            teacher, setup.tasks, setup.protocols, seed=setup.seed, chat=setup.chat,
            memory_budget=setup.memory_budget, out=out / TABLES,
        )  # fmt: skip
        setup = replace(setup, beside=(teachers,))
        layers, answers, text = training["layers"], training["answers"], training["text"]
        how = Training(
            training_examples(
                setup, teachers, text, training["n_texts"], by_teacher=answers != OF_TASK
            ),
            objective, None if layers is None else check_layers(layers, student), rank, batch,
            steps, training["rate"], setup.seed, setup.memory_budget,
        )  # fmt: skip
        job = Distillation(setup, teachers, how, answers, text is not None, removed)
        settings = setup.settings(analysis="distillation", **job.settings())
        files: dict[str, str] = {}

        def make(run: CheckpointStore, progress: Meter) -> list[DistillationResult]:
            assert isinstance(run, RunFolder)
            result, written = job.run(run, out, settings, progress)
            files.update(written)
            return [result]

        (result,) = execute(
            make, (DistillationResult,), out / TABLES, settings, setup.refuse_changed,
            training["progress"], beside=files,
        )  # fmt: skip
        remove_temporaries(out, CARD)
        # One that is there is of the same command, and may have been written on since.
        if not os.path.lexists(out / CARD):
            write_atomically(out / CARD, card(result).encode())
        return result
