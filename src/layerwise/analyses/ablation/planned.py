"""The plan of an ablation."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.presentation.power import planned_power
from layerwise.runs.setup import Setup, check_layers

from .job import Ablation
from .spec import AblationSpec


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    layers = check_layers(options.layers, setup.model)
    changes = AblationSpec.of(setup.model, options.kind, options.site, layers, draws=options.draws)
    job = Ablation(setup, (changes,), fewshot_seeds=options.fewshot_seeds)
    notes = () if changes.heads else (power_note(setup, len(changes.layers)),)
    return PlannedJobs({"ablation": job}, notes)


def power_note(setup: Setup, n_layers: int) -> str:
    """How large a loss the items of a plan can establish."""
    sizes = [len(task.items) for task in setup.tasks]
    return planned_power(sizes, n_layers, len(setup.pieces()))


PLANNED = Planned("ablation", _jobs, options=("kind", "site", "layers", "draws", "fewshot_seeds"))
