"""The plan of direct logit attribution."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup

from .job import Attribution


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    return PlannedJobs({"attribution": Attribution(setup)})


PLANNED = Planned("attribution", _jobs, ("letter", "continuation"))
