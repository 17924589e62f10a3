"""The options of a run, each in one place: ``Annotated[type, default, text]``.

``check_arguments`` of ``ground.arguments`` fills them into the functions that unpack them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from layerwise.ground.argument_types import (
    Backend,
    Layers,
    Limit,
    MemoryBudget,
    Names,
    Offload,
    Seed,
    known_name_validator,
)
from layerwise.ground.arguments import typed_dict_arguments
from layerwise.ground.readers import AnyPath, Reads, refuse
from layerwise.models.arguments import ModelOrName
from layerwise.storage.places import OutputFolder


def read_executor(name: str, value: Any) -> Any:
    """Read what makes pieces, and refuse a cluster that does not answer."""
    from .executors import Executor
    from .ray_executor import RayExecutor

    if not isinstance(value, Executor):
        raise refuse(name, value, "a RayExecutor, such as RayExecutor(actors=2)")
    if isinstance(value, RayExecutor):
        value.refuse_unreachable()
    return value


if TYPE_CHECKING:  # it loads torch, which pages do not need
    from .executors import Executor as AnyExecutor
else:
    AnyExecutor = Annotated[Any, Reads(read_executor, "Executor")]


KINDS = ("skip", "zero", "mean", "resample", "noise")
"""Ways to ablate."""
DIVERGENCES = ("forward", "reverse", "jensen-shannon")
"""Kullback-Leibler from the teacher to the student, the other way round, and between both."""
ANSWERS = ("task", "teacher")
"""Sources of the answers that are trained on."""


class ItemOptions(TypedDict, total=False):
    """The items of a run."""

    limit: Annotated[Limit | None, None, "take the first so many items of each task."]
    seed: Annotated[Seed, 0, "decides the items of built-in suites, all draws and bootstraps."]
    fewshot: Annotated[int | None, None, "number of few-shot examples; the task's own if None."]
    skip_long: Annotated[
        bool, False, "leave out items that the model's context has no room for, and name them."
    ]


class PromptOptions(ItemOptions, total=False):
    """The form in which items are put to the model."""

    chat: Annotated[bool, False, "put items as turns of the tokenizer's chat template."]
    memory_budget: Annotated[
        MemoryBudget | None,
        None,
        "bytes for activations, keys and values; half of what is free if None.",
    ]


class ProgressOptions(TypedDict, total=False):
    """The progress bar."""

    progress: Annotated[bool, True, "show a progress bar on a terminal."]


class WorkOptions(ProgressOptions, total=False):
    """The folder of a run, and who makes its pieces."""

    out: Annotated[
        OutputFolder | None,
        None,
        "folder for tables and ``run.json`` (``docs/results.md``); an interrupted run goes on "
        "there. None keeps everything in memory.",
    ]
    executor: Annotated[
        AnyExecutor | None,
        None,
        "makes the pieces: a ``RayExecutor`` for workers on other machines; this process if None.",
    ]


class LoadingOptions(TypedDict, total=False):
    """Options of loading a model that is named; defaults are those of ``load_model``."""

    dtype: Annotated[str, "float32", "number format: ``float32``, ``bfloat16`` or ``float16``."]
    device: Annotated[str, "cpu", "``cpu``, ``cuda``, ``cuda:1``, ``mps``."]
    backend: Annotated[Backend, "auto", "what runs a model that is named, as in ``load_model``."]


class PairOptions(ItemOptions, WorkOptions, total=False):
    """Options of an analysis of pairs of prompts, which are never wrapped."""

    limit: Annotated[
        Limit | None, None, "look for pairs among the first so many items of each task."
    ]


class RunOptions(PromptOptions, WorkOptions, total=False):
    """Options of an analysis of tasks."""


class CheckpointOptions(LoadingOptions, total=False):
    """Options of loading a checkpoint that is a folder."""

    offload: Annotated[
        Offload | None, None, "``disk`` leaves the weights of layers on disk, as in ``load_model``."
    ]


class SeriesOptions(RunOptions, CheckpointOptions, total=False):
    """Options of a series of runs, which takes no more items than show a trend."""

    limit: Annotated[Limit | None, 100, "take the first so many items of each task; None for all."]


class ExampleOptions(TypedDict, total=False):
    """The texts that a student is trained on, and the length of its training."""

    text: Annotated[
        AnyPath | None,
        None,
        "a ``.txt`` file with a blank line between texts, or a ``.jsonl`` file with a field "
        "``text``. It replaces the tasks' prompts.",
    ]
    on_policy: Annotated[float, 0.0, "share of the texts that the student writes itself, in 0..1."]
    rank: Annotated[
        int | None,
        None,
        "rank of low-rank adapters that are trained instead and merged at the end; needs ``peft``.",
    ]
    n_texts: Annotated[int, 512, "at most so many texts; a fifth of them is not trained on."]
    batch: Annotated[int, 8, "texts a step."]
    steps: Annotated[int, 200, "number of steps."]


class TrainingOptions(PromptOptions, ExampleOptions, ProgressOptions, total=False):
    """Options of a distillation."""

    limit: Annotated[Limit | None, None, "measure the first so many items of each task."]
    answers: Annotated[
        str,
        known_name_validator("kind of answers", ANSWERS),
        "task",
        "whose answers to the prompts are trained on: ``task``, worked out where the task has them "
        "so, or ``teacher``, as it answers itself.",
    ]
    divergence: Annotated[
        str,
        known_name_validator("divergence", DIVERGENCES),
        "forward",
        "``forward``, KL(teacher, student); ``reverse``, KL(student, teacher); or "
        "``jensen-shannon``.",
    ]
    temperature: Annotated[float, 1.0, "both models' logits are divided by it."]
    mixture: Annotated[
        float, 0.5, "the teacher's share of the mixture that ``jensen-shannon`` compares with."
    ]
    cross_entropy: Annotated[
        float, 0.0, "weight of the cross-entropy on the answers, beside the divergence."
    ]
    hidden: Annotated[
        float,
        0.0,
        "weight of the distance of the residual streams behind the layers, of models of one width.",
    ]
    layers: Annotated[
        Layers | None,
        None,
        "the layers that are trained, from 0, or by address such as ``decoder.3``; all weights if "
        "None.",
    ]
    rate: Annotated[float, 0.0001, "largest step size."]


class HealingOptions(TrainingOptions, LoadingOptions, total=False):
    """Options of a distillation from the original of a pruned model."""

    original: Annotated[
        AnyPath | None,
        None,
        "where the original is now, if it was moved: a name or folder of the same files.",
    ]


ALSO = (
    "what a profile does beyond its main analyses, as for ``profile``. Notes name what is not "
    "planned."
)


CLAIMS = "of a replication: names of published claims, such as ``song-3``, or ``all``."
SCALE = "of a replication: ``small`` or ``full``."


class PlanOptions(PromptOptions, ExampleOptions, LoadingOptions, total=False):
    """Options of a plan; those that some analyses lack are refused of these."""

    limit: Annotated[
        Limit | None,
        None,
        "take the first so many items of each task; if None what the analysis takes.",
    ]
    kind: Annotated[
        str, known_name_validator("kind of ablation", KINDS), "skip", "of the ablation."
    ]
    site: Annotated[str | None, None, "of the ablation or the transplant."]
    layers: Annotated[
        Layers | None,
        None,
        "of the ablation or the transplant, all if None; or those that are trained, all weights if "
        "None.",
    ]
    draws: Annotated[int, 1, "of the ablation's noise or donors, for each item."]
    fewshot_seeds: Annotated[int, 1, "draws of the few-shot examples of an ablation."]
    pairs: Annotated[int, 16, "pairs of prompts a task for patching."]
    exhaustive: Annotated[
        bool, False, "of a profile: skip layers also where the model has no signal."
    ]
    also: Annotated[Names, (), ALSO]
    claims: Annotated[Names, ("all",), CLAIMS]
    scale: Annotated[str, "small", SCALE]
    data: Annotated[AnyPath | None, None, "of a replication: the folder of the benchmarks."]
    student: Annotated[
        ModelOrName | None,
        None,
        "the student of a distillation, its name or folder.",
    ]
    original: Annotated[
        AnyPath | None, None, "where the original of a pruned model is now, if it was moved."
    ]


_OPTIONS = typed_dict_arguments(RunOptions)
DEFAULTS: Any = {option.name: option.default for option in _OPTIONS.values()}
"""The defaults of a run."""
TEXTS: Mapping[str, str] = {
    **{option.name: option.text for option in _OPTIONS.values()},
    "model": "the model, from ``load_model`` or your own.",
    "tasks": "task names, capabilities (all their suites), JSONL files, or ``Task`` values.",
    "protocols": "``letter``, ``continuation``, ``generate``.",
    "layers": "which layers, from 0, or by address such as ``encoder.3``; all if None.",
    "heads": (
        "which heads of ``z``, or which key/value groups, in each of the layers; all if None."
    ),
    "method": "``engine``, or ``reference`` for one hooked forward per change and request.",
    "pairs": "at most so many pairs of each task.",
    "smallest_loss": (
        "smallest loss of accuracy of interest, 0 to 1. Sentences report no smaller one, and "
        '"no loss" means less than it.'
    ),
    "smallest_nats": "the same for the right answer's log-probability, in nats.",
    "smallest_depth": "smallest difference of depth of interest, in layers.",
    "smallest_gain": "accuracy above the floor, 0 to 1, at which a capability counts as present.",
}
"""Descriptions of parameters whose defaults are each function's own."""
