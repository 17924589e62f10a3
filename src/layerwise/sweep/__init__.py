"""Interventions times requests to outcomes: the fast engine and its brute-force reference.

Nothing here knows what a task means; nothing here writes a file.
"""

from typing import TYPE_CHECKING

import lazy_loader

from .requests import Generate as Generate
from .requests import Generated as Generated
from .requests import LogLikelihood as LogLikelihood
from .requests import Scored as Scored

if TYPE_CHECKING:
    from .activations.intact_run import last_residuals as last_residuals
    from .activations.intact_run import mean_activations as mean_activations
    from .activations.intact_run import noise_basis as noise_basis
    from .activations.intact_run import position_means as position_means
    from .activations.intact_run import residuals_at as residuals_at
    from .activations.intact_run import site_noise as site_noise
    from .changes.edits import AddSite as AddSite
    from .changes.edits import CopySite as CopySite
    from .changes.edits import PatchSite as PatchSite
    from .changes.edits import SetSite as SetSite
    from .changes.edits import SkipLayer as SkipLayer
    from .changes.interventions import Intervention as Intervention
    from .changes.interventions import apply as apply
    from .changes.interventions import intact as intact
    from .changes.interventions import mean as mean
    from .changes.interventions import noise as noise
    from .changes.interventions import of_kv_group as of_kv_group
    from .changes.interventions import patch as patch
    from .changes.interventions import resample as resample
    from .changes.interventions import skip as skip
    from .changes.interventions import skip_layers as skip_layers
    from .changes.interventions import together as together
    from .changes.interventions import zero as zero
    from .changes.layer_swaps import swap_layers as swap_layers
    from .plans.plan import SweepPlan as SweepPlan
    from .plans.plan import plan_sweep as plan_sweep
    from .run import Sweep as Sweep
    from .run import SweepStats as SweepStats
    from .run import sweep as sweep

# What needs torch is imported on first use, so that tasks and the CLI start quickly.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "changes.edits": ["AddSite", "CopySite", "PatchSite", "SetSite", "SkipLayer"],
        "changes.interventions": [
            "Intervention",
            "apply",
            "intact",
            "mean",
            "patch",
            "skip",
            "skip_layers",
            "noise",
            "resample",
            "together",
            "of_kv_group",
            "zero",
        ],
        "changes.layer_swaps": ["swap_layers"],
        "plans.plan": ["SweepPlan", "plan_sweep"],
        "activations.intact_run": [
            "last_residuals",
            "mean_activations",
            "position_means",
            "residuals_at",
            "noise_basis",
            "site_noise",
        ],
        "run": ["Sweep", "SweepStats", "sweep"],
    },
)
