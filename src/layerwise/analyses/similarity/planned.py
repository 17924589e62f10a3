"""The plan of the similarity of layers."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup

from .api import Similarity


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    return PlannedJobs({"similarity": Similarity(setup)})


PLANNED = Planned("similarity", _jobs, ("letter", "continuation"))
