"""The score of a model that nothing is changed in, and whether it shows what it can do.

It is an ablation without changes: the intact model, its controls, and no layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import TaskLike, prepare

from .job import Ablation
from .result import AblationResult


@check_arguments()
@exclusive
def score(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation", "generate"),
    **run: Unpack[RunOptions],
) -> AblationResult:
    """Score the intact model alone, and test whether it does better than guessing.

    It is compared with chance, with itself asked other items' questions (blind), with itself
    without any layer, and with a guesser that reads no question. A layer can only be shown to
    matter where there is such signal.

    Returns:
        A result without effects: ``signal()`` has a row per task and protocol, ``notes()`` says
        what to try where there is no signal.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.

    Example:
        >>> result = layerwise.score(model, "facts", "generate")  # doctest: +SKIP
        >>> result.signal()[["accuracy", "chance", "blind", "signal"]]  # doctest: +SKIP
    """
    setup = prepare(model, tasks, protocols, **run)
    job = Ablation(setup, ())
    return execute_job(job, AblationResult, "score", run, job.write_requests)
