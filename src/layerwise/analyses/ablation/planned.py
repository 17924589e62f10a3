"""The plan of an ablation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import ceil

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.presentation.power import PlannedPower
from layerwise.runs.setup import Setup, check_layers
from layerwise.stats.power import SHOWN, answers_for, independent_answers, smallest_loss
from layerwise.tasks import Task

from .job import Ablation
from .spec import AblationSpec


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
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


PLANNED = Planned("ablation", _jobs, options=("kind", "site", "layers", "draws", "fewshot_seeds"))
