"""The plan of activation patching."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup

from .job import Patching


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    return PlannedJobs({"patching": Patching(setup, ("resid_pre",), options.pairs)})


PLANNED = Planned("patching", _jobs, ("continuation",), paired=True)
