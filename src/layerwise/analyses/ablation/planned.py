"""The plan of an ablation."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup, check_layers

from .job import Ablation
from .spec import AblationSpec


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    layers = check_layers(options.layers, setup.model)
    changes = AblationSpec.of(setup.model, options.kind, options.site, layers)
    return PlannedJobs({"ablation": Ablation(setup, (changes,))})


PLANNED = Planned("ablation", _jobs, options=("kind", "site", "layers"))
