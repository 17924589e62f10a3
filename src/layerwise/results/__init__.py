"""The types of all results, and what is saved with them.

What a result of one analysis is, that analysis says; what all of them can do is in ``storage``.
"""

from __future__ import annotations

from layerwise.analyses.ablation.result import AblationResult as AblationResult
from layerwise.analyses.attribution.result import AttributionResult as AttributionResult
from layerwise.analyses.attribution_patching.result import (
    AttributionPatchingResult as AttributionPatchingResult,
)
from layerwise.analyses.decisions.result import DecisionsResult as DecisionsResult
from layerwise.analyses.distillation.result import DistillationResult as DistillationResult
from layerwise.analyses.early_exit.result import EarlyExitResult as EarlyExitResult
from layerwise.analyses.emergence.result import EmergenceResult as EmergenceResult
from layerwise.analyses.head_sets.result import HeadSetsResult as HeadSetsResult
from layerwise.analyses.heads.result import HeadsResult as HeadsResult
from layerwise.analyses.interactions.result import InteractionsResult as InteractionsResult
from layerwise.analyses.loading import load as load
from layerwise.analyses.logit_lens.result import LensResult as LensResult
from layerwise.analyses.patching.result import PatchingResult as PatchingResult
from layerwise.analyses.path_patching.result import PathPatchingResult as PathPatchingResult
from layerwise.analyses.pruning.result import PruningResult as PruningResult
from layerwise.analyses.registry import RESULTS as RESULTS
from layerwise.analyses.removal.result import RemovalResult as RemovalResult
from layerwise.analyses.replication.result import ReplicationResult as ReplicationResult
from layerwise.analyses.running_text.result import TextLossResult as TextLossResult
from layerwise.analyses.similarity.result import SimilarityResult as SimilarityResult
from layerwise.analyses.transplant.result import TransplantResult as TransplantResult
from layerwise.analyses.tuned_lens.result import TunedLensResult as TunedLensResult
from layerwise.runs.folder import RunFolder as RunFolder
from layerwise.storage.base import Result as Result
from layerwise.storage.estimates import select as select
from layerwise.storage.estimates import wide as wide
from layerwise.storage.provenance import RUN_FILE as RUN_FILE
from layerwise.storage.provenance import Facts as Facts
from layerwise.storage.provenance import ModelFacts as ModelFacts
from layerwise.storage.provenance import TaskFacts as TaskFacts
from layerwise.storage.provenance import installed_versions as installed_versions
from layerwise.storage.provenance import join_facts as join_facts
from layerwise.storage.provenance import read_facts as read_facts
