"""The plan of a transplant, of the base alone: the other model costs the same."""

from __future__ import annotations

from layerwise.analyses.planned import Planned, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup, check_layers

from .job import Transplant
from .names import SINGLE
from .spec import TransplantSpec

_NOTES = (
    "The other model is taken to be of the same size, and every task to have a gap between the two "
    "under every protocol: without one no layers are exchanged. Greedy searches and activations "
    "come on top.",
)


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    layers, named = check_layers(options.layers, setup.model), options.layers is not None
    spec = TransplantSpec.of(
        setup.model, setup.model, options.site or "layer", layers, (SINGLE,), 1, named
    )
    return PlannedJobs({"transplant": Transplant(setup, setup, spec)}, _NOTES)


PLANNED = Planned("transplant", _jobs, options=("site", "layers"))
