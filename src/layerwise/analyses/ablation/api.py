"""Ablation: which layers a task needs, under each way of scoring it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Annotated, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.argument_types import Heads, Layers, Method, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.presentation.power import PlannedPower
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import Setup, check_layers, prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects
from layerwise.stats.signals.power import (
    HALF,
    SHOWN,
    answers_needed,
    independent_answers,
    smallest_loss,
)
from layerwise.tasks import Task
from layerwise.tasks.task import refuse_fewshot_seeds

from .job import Ablation
from .result import AblationResult
from .spec import KINDS, MEANS, AblationSpec, refuse_draws, refuse_unknown_site


@check_arguments()
@exclusive
def score(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
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


@check_arguments(
    refuse_unknown_site,
    refuse_draws,
    refuse_fewshot_seeds,
    check_smallest_effects,
)
@exclusive
def ablate(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    kind: Annotated[str, known_name_validator("kind of ablation", KINDS)] = "skip",
    site: str | None = None,
    layers: Layers | None = None,
    heads: Heads | None = None,
    block: int = 1,
    as_one: bool = False,
    mean_by: Annotated[str, known_name_validator("way to take means", MEANS)] = "pooled",
    draws: int = 1,
    smallest_loss: float = 0.05,
    smallest_nats: float = 0.1,
    fewshot_seeds: int = 1,
    method: Method = "engine",
    **run: Unpack[RunOptions],
) -> AblationResult:
    """Change one layer, head, block or set at a time and measure what each task loses.

    Skipping whole layers and scoring by three protocols is the protocol of Song et al. 2025
    (arXiv:2510.02091); the intact model is always measured too.

    Args:
        kind: ``skip``; ``zero``; ``mean`` (over the task's own prompts); ``resample`` (from another
            item's prompt, drawn by the seed); ``noise`` (added, with the site's covariance over the
            task's own prompts). ``docs/ablation.md`` has the definitions.
        site: ``layer`` for a skip, ``resid_post`` for other kinds (these if None). Also
            ``attn_out``, ``mlp_out``, ``z`` (one head), ``kv_group`` (all heads that share a
            key/value head), ``resid_pre`` and ``resid_mid`` (no skip). Decoders of encoder-decoders
            have ``cross_attn_out``, ``cross_z`` and ``resid_mid_cross`` (no skip). Zeroing
            ``resid_post`` is not skipping: it removes the whole stream.
        heads: which heads of ``z``, or which key/value groups; all if None.
        block: number of neighbouring layers that are changed together, at every place.
        as_one: change all named layers and heads together, as one set.
        mean_by: ``pooled`` over all positions but the first, or by ``position``.
        draws: draws of noise, or of other items to resample from, for each item. Outcomes are
            averaged over draws, which do not count as more items.
        fewshot_seeds: number of draws of the few-shot examples, 1 to 10. Effects and signal are
            means over draws, and intervals and tests include their spread.

    Returns:
        One record per intervention, item and protocol.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    check_smallest_effects(smallest_loss, smallest_nats)
    refuse_fewshot_seeds(fewshot_seeds)
    interest = SmallestEffects(smallest_loss, smallest_nats)
    setup = prepare(model, tasks, protocols, method=method, interest=interest, **run)
    changes = AblationSpec.for_model(
        model, kind, site, check_layers(layers, model), heads=heads, block=block,
        as_one=as_one, mean_by=mean_by, draws=draws,
    )  # fmt: skip
    job = Ablation(setup, (changes,), method, fewshot_seeds=fewshot_seeds)
    return execute_job(job, AblationResult, "ablation", run, job.write_requests)


def planned_power(setup: Setup, n_layers: int) -> PlannedPower:
    """Power of the items of a planned ablation, for each capability and layer."""
    n_items = Counter[str]()
    for task in setup.tasks:
        n_items[task.capability] += len(task.items)
    answers = min(independent_answers(n, n * len(setup.protocols)) for n in n_items.values())
    return PlannedPower(
        max(len(task.items) for task in setup.tasks),
        max(len(task.items) + len(task.unasked) for task in setup.tasks),
        smallest_loss(answers, len(n_items) * n_layers, HALF),
        enough_items(setup.tasks, len(setup.protocols), n_layers),
    )


def enough_items(tasks: Sequence[Task], n_protocols: int, n_layers: int) -> int:
    """Items of each task that show a layer's loss of ``SHOWN`` for every capability."""
    n_tasks = Counter(task.capability for task in tasks)
    answers, fewest = answers_needed(SHOWN, len(n_tasks) * n_layers), min(n_tasks.values())
    return ceil(answers / independent_answers(fewest, fewest * n_protocols))
