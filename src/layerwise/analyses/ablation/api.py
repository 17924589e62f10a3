"""Ablation: which layers a task needs, under each way of scoring it.

Chooses interventions, asks ``sweep`` and turns outcomes into records; effects and their
statistics are computed from the records by ``results``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from pathlib import Path

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.ground.readers import one_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.presentation.power import PlannedPower
from layerwise.runs.executors import Executor
from layerwise.runs.setup import Setup, TaskLike, check_layers, prepare
from layerwise.stats.share_tests.equivalence import Interest, refuse_uninteresting
from layerwise.stats.signals.power import SHOWN, answers_for, independent_answers, smallest_loss
from layerwise.tasks import Task
from layerwise.tasks.task import refuse_fewshot_seeds

from .job import Ablation
from .result import AblationResult
from .spec import KINDS, MEANS, AblationSpec, refuse_draws, refuse_unknown_site


@check_arguments(
    refuse_unknown_site,
    refuse_draws,
    refuse_fewshot_seeds,
    refuse_uninteresting,
    kind=one_of("kind of ablation", KINDS),
    mean_by=one_of("way to take means", MEANS),
)
@exclusive
def ablate(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation", "generate"),
    *,
    kind: str = "skip",
    site: str | None = None,
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    block: int = 1,
    as_one: bool = False,
    mean_by: str = "pooled",
    draws: int = 1,
    smallest_loss: float = 0.05,
    smallest_nats: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    fewshot_seeds: int = 1,
    chat: bool = False,
    out: str | Path | None = None,
    method: str = "engine",
    memory_budget: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> AblationResult:
    """Change one layer, head, block or set at a time and measure what each task loses.

    Skipping whole layers and scoring by three protocols is the protocol of Song et al. 2025
    (arXiv:2510.02091); the intact model is always measured too.

    Args:
        model: the model, from ``load_model`` or your own.
        tasks: task names, capabilities (all their suites), JSONL files, or ``Task`` values.
        protocols: ``letter``, ``continuation``, ``generate``.
        kind: ``skip``; ``zero``; ``mean`` (over the task's own prompts); ``resample`` (from another
            item's prompt, drawn by the seed); ``noise`` (added, with the site's covariance over the
            task's own prompts). ``docs/ablation.md`` has the definitions.
        site: ``layer`` for a skip, ``resid_post`` for other kinds (these if None). Also
            ``attn_out``, ``mlp_out``, ``z`` (one head), ``kv_group`` (all heads that share a
            key/value head), ``resid_pre`` and ``resid_mid`` (no skip). Decoders of encoder-decoders
            have ``cross_attn_out``, ``cross_z`` and ``resid_mid_cross`` (no skip). Zeroing
            ``resid_post`` is not skipping: it removes the whole stream.
        layers: which layers, from 0, or by address such as ``encoder.3``; all if None.
        heads: which heads of ``z``, or which key/value groups; all if None.
        block: number of neighbouring layers that are changed together, at every place.
        as_one: change all named layers and heads together, as one set.
        mean_by: ``pooled`` over all positions but the first, or by ``position``.
        draws: draws of noise, or of other items to resample from, for each item. Outcomes are
            averaged over draws, which do not count as more items.
        smallest_loss: smallest loss of accuracy of interest, 0 to 1. Sentences report no smaller
            one, and "no loss" means less than it.
        smallest_nats: the same for the right answer's log-probability, in nats.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites and all bootstraps.
        fewshot: number of few-shot examples; the task's own if None.
        fewshot_seeds: number of draws of the few-shot examples, 1 to 10. Effects and signal are
            means over draws, and intervals and tests include their spread.
        chat: wrap prompts in the tokenizer's chat template.
        out: folder for ``records.parquet``, ``requests.jsonl`` and ``run.json``; a run that was
            interrupted goes on there. None keeps everything in memory.
        method: ``engine``, or ``reference`` for one hooked forward per change and request.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        executor: makes the pieces: a ``RayExecutor`` for workers on other machines; this process
            if None.
        progress: show a progress bar on a terminal.

    Returns:
        One record per intervention, item and protocol.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    refuse_uninteresting(smallest_loss, smallest_nats)
    refuse_fewshot_seeds(fewshot_seeds)
    setup = prepare(
        model, tasks, protocols, seed=seed, limit=limit, fewshot=fewshot, chat=chat,
        memory_budget=memory_budget, out=out, executor=executor, method=method,
        interest=Interest(smallest_loss, smallest_nats),
    )  # fmt: skip
    changes = AblationSpec.of(
        model, kind, site, check_layers(layers, model), heads=heads, block=block,
        as_one=as_one, mean_by=mean_by, draws=draws,
    )  # fmt: skip
    job = Ablation(setup, (changes,), method, fewshot_seeds=fewshot_seeds)
    return execute_job(job, AblationResult, "ablation", out, progress, job.write_requests)


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    layers = check_layers(options.layers, setup.model)
    changes = AblationSpec.of(setup.model, options.kind, options.site, layers, draws=options.draws)
    job = Ablation(setup, (changes,), fewshot_seeds=options.fewshot_seeds)
    power = None if changes.heads else planned_power(setup, len(changes.layers))
    return PlannedJobs({"ablation": job}, power=power)


def planned_power(setup: Setup, n_layers: int) -> PlannedPower:
    """What the items of a planned ablation will show of each capability and layer."""
    capabilities = _by_capability(setup.tasks)
    asked = [sum(len(task.items) for task in tasks) for tasks in capabilities]
    answers = min(independent_answers(n, n * len(setup.protocols)) for n in asked)
    return PlannedPower(
        max(len(task.items) for task in setup.tasks),
        max(len(task.items) + len(task.unasked) for task in setup.tasks),
        smallest_loss(answers, len(capabilities) * n_layers),
        enough_items(setup.tasks, len(setup.protocols), n_layers),
    )


def enough_items(tasks: Sequence[Task], n_protocols: int, n_layers: int) -> int:
    """Items of each task that show a layer's loss of ``SHOWN`` for every capability."""
    capabilities = _by_capability(tasks)
    answers = answers_for(SHOWN, len(capabilities) * n_layers)
    fewest = min(map(len, capabilities))
    return ceil(answers / independent_answers(fewest, fewest * n_protocols))


def _by_capability(tasks: Sequence[Task]) -> list[list[Task]]:
    found: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        found[task.capability].append(task)
    return list(found.values())


PLANNED = Planned(
    "ablation", _planned_jobs, options=("kind", "site", "layers", "draws", "fewshot_seeds")
)
