"""The results that there are, in the order in which they are looked for in a folder."""

from __future__ import annotations

from layerwise.results.base import Result

from .ablation.result import AblationResult
from .attribution.result import AttributionResult
from .attribution_patching.result import AttributionPatchingResult
from .emergence.result import EmergenceResult
from .heads.result import HeadsResult
from .logit_lens.result import LensResult
from .patching.result import PatchingResult
from .path_patching.result import PathPatchingResult
from .pruning.result import PruningResult
from .removal.result import RemovalResult
from .similarity.result import SimilarityResult
from .tuned_lens.result import TunedLensResult

RESULTS: tuple[type[Result], ...] = (
    AblationResult, LensResult, TunedLensResult, PatchingResult, PathPatchingResult,
    AttributionPatchingResult, AttributionResult, SimilarityResult, RemovalResult, PruningResult,
    HeadsResult, EmergenceResult,
)  # fmt: skip
