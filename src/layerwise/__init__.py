"""layerwise: which layers of a language model do what, and how do we know?

The public names and the documented parts of the package, loaded on first use so that importing it
costs nothing.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

import lazy_loader

from .errors import UserError as UserError
from .ground.analysis_folders import OWN as _OWN

if TYPE_CHECKING:
    from . import models as models
    from . import planning as planning
    from . import results as results
    from . import stats as stats
    from . import sweep as sweep
    from . import tasks as tasks
    from .analyses.ablation.api import ablate as ablate
    from .analyses.ablation.api import score as score
    from .analyses.ablation.result import items as items
    from .analyses.attribution.api import attribution as attribution
    from .analyses.attribution_patching.api import attribute_patches as attribute_patches
    from .analyses.comparison.api import Comparison as Comparison
    from .analyses.comparison.api import compare as compare
    from .analyses.comparison.harness_logs import compare_logs as compare_logs
    from .analyses.decisions.api import decide as decide
    from .analyses.distillation.api import distill as distill
    from .analyses.distillation.api import heal as heal
    from .analyses.early_exit.api import early_exit as early_exit
    from .analyses.emergence.api import emergence as emergence
    from .analyses.head_sets.api import head_sets as head_sets
    from .analyses.heads.api import head_scores as head_scores
    from .analyses.interactions.api import interactions as interactions
    from .analyses.logit_lens.api import logit_lens as logit_lens
    from .analyses.patching.api import patch_activations as patch_activations
    from .analyses.path_patching.api import patch_paths as patch_paths
    from .analyses.pruning.api import prune_model as prune_model
    from .analyses.removal.api import removal_order as removal_order
    from .analyses.replication.api import replicate as replicate
    from .analyses.running_text.api import text_loss as text_loss
    from .analyses.similarity.api import similarity as similarity
    from .analyses.training.api import compare_series as compare_series
    from .analyses.training.api import profile_training as profile_training
    from .analyses.training.report import TrainingSeries as TrainingSeries
    from .analyses.transplant.api import transplant as transplant
    from .analyses.tuned_lens.api import train_lens as train_lens
    from .analyses.verifying import Verification as Verification
    from .analyses.verifying import verify as verify
    from .models import known_models as known_models
    from .models import load_model as load_model
    from .profiling.api import Profile as Profile
    from .profiling.api import profile as profile
    from .prompts.attention import attention_grid as attention_grid
    from .prompts.attribute import attribute as attribute
    from .prompts.lens import lens_grid as lens_grid
    from .prompts.outcomes import intervene as intervene
    from .prompts.outcomes import patch as patch
    from .prompts.patch import patch_grid as patch_grid
    from .prompts.residual_lens import LogitLens as LogitLens
    from .prompts.skip import skip_grid as skip_grid
    from .prompts.tasks import task_from_prompts as task_from_prompts
    from .report import Report as Report
    from .report import report as report
    from .report import report_from_folders as report_from_folders
    from .report.paper import figures_for_paper as figures_for_paper
    from .results import AblationResult as AblationResult
    from .results import AttributionPatchingResult as AttributionPatchingResult
    from .results import AttributionResult as AttributionResult
    from .results import DecisionsResult as DecisionsResult
    from .results import DistillationResult as DistillationResult
    from .results import EarlyExitResult as EarlyExitResult
    from .results import EmergenceResult as EmergenceResult
    from .results import HeadSetsResult as HeadSetsResult
    from .results import HeadsResult as HeadsResult
    from .results import InteractionsResult as InteractionsResult
    from .results import LensResult as LensResult
    from .results import PatchingResult as PatchingResult
    from .results import PathPatchingResult as PathPatchingResult
    from .results import PruningResult as PruningResult
    from .results import RemovalResult as RemovalResult
    from .results import ReplicationResult as ReplicationResult
    from .results import SimilarityResult as SimilarityResult
    from .results import TextLossResult as TextLossResult
    from .results import TransplantResult as TransplantResult
    from .results import load as load
    from .runs.ray_executor import RayExecutor as RayExecutor
    from .tasks import Item as Item
    from .tasks import Task as Task
    from .tasks import load_task as load_task
    from .tasks import task_names as task_names
    from .tasks.in_memory import task_from as task_from

    __version__: str

# Beside those that each analysis names in its folder.
_ATTRIBUTES = {
    "profiling.api": ["Profile", "profile"],
    "analyses.verifying": ["Verification", "verify"],
    "models": ["known_models", "load_model"],
    "prompts.attention": ["attention_grid"],
    "prompts.attribute": ["attribute"],
    "prompts.lens": ["lens_grid"],
    "prompts.outcomes": ["intervene", "patch"],
    "prompts.patch": ["patch_grid"],
    "prompts.residual_lens": ["LogitLens"],
    "prompts.skip": ["skip_grid"],
    "prompts.tasks": ["task_from_prompts"],
    "report": ["Report", "report_from_folders"],
    "report.paper": ["figures_for_paper"],
    "results": ["load"],
    "runs.ray_executor": ["RayExecutor"],
    "tasks": ["Item", "Task", "load_task", "task_names"],
    "tasks.in_memory": ["task_from"],
}
_ATTRIBUTES |= {
    f"analyses.{folder.name}.{module}": list(names)
    for folder in _OWN
    for module, names in _import_module(folder.module).PUBLIC.items()
}
# The documented parts of the package, each with public names of its own.
_PARTS = ["errors", "models", "planning", "results", "stats", "sweep", "tasks"]

_load, _, _ = lazy_loader.attach(__name__, submodules=["report", *_PARTS], submod_attrs=_ATTRIBUTES)

_LISTED = [name for names in _ATTRIBUTES.values() for name in names]
__all__ = sorted(["UserError", "report", *_LISTED])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name, or read the version of the installed package."""
    if name != "__version__":
        return _load(name)
    from importlib.metadata import version  # takes longer to import than this package

    return version("layerwise")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS})
