"""The score of a model that nothing is changed in, and whether it shows what it can do.

It is an ablation without changes: the intact model, its controls, and no layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.runs.executors import Executor
from layerwise.runs.setup import TaskLike, prepare

from .job import Ablation
from .result import AblationResult


@check_arguments()
@exclusive
def score(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation", "generate"),
    *,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    out: str | Path | None = None,
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> AblationResult:
    """Score the intact model alone, and test whether it does better than guessing.

    It is compared with chance, with itself asked other items' questions (blind), with itself
    without any layer, and with a guesser that reads no question. A layer can only be shown to
    matter where there is such signal.

    Args:
        model: the model, from ``load_model`` or your own.
        tasks: task names, capabilities (all their suites), JSONL files, or ``Task`` values.
        protocols: ``letter``, ``continuation``, ``generate``.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites and the other questions.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        out: folder for ``records.parquet``, ``signal.parquet``, ``requests.jsonl`` and
            ``run.json``; a run that was interrupted goes on there.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        executor: makes the pieces: a ``RayExecutor`` for workers on other machines; this process
            if None.
        progress: show a progress bar on a terminal.

    Returns:
        A result without effects: ``signal()`` has a row per task and protocol, ``notes()`` says
        what to try where there is no signal.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.

    Example:
        >>> result = layerwise.score(model, "facts", "generate")  # doctest: +SKIP
        >>> result.signal()[["accuracy", "chance", "blind", "signal"]]  # doctest: +SKIP
    """
    setup = prepare(
        model, tasks, protocols, seed=seed, limit=limit, fewshot=fewshot, chat=chat,
        memory_budget=memory_budget, out=out, executor=executor,
    )  # fmt: skip
    job = Ablation(setup, ())
    return execute_job(job, AblationResult, "score", out, progress, job.write_requests)
