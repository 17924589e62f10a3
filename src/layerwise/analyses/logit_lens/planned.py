"""The plan of a lens."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup

from .api import LENS_PROTOCOLS
from .job import Lens


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    return PlannedJobs({"lens": Lens(setup)})


PLANNED = Planned("lens", _jobs, LENS_PROTOCOLS)
