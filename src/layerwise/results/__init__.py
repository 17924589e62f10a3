"""Results as data: typed, saved with what is needed to repeat them, shown in short.

The public names of all results are reached from here and loaded on first use; what a result of
one analysis is, that analysis says.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerwise.analyses.results import RESULTS as RESULTS
    from layerwise.analyses.results import AblationResult as AblationResult
    from layerwise.analyses.results import AttributionPatchingResult as AttributionPatchingResult
    from layerwise.analyses.results import AttributionResult as AttributionResult
    from layerwise.analyses.results import EmergenceResult as EmergenceResult
    from layerwise.analyses.results import HeadsResult as HeadsResult
    from layerwise.analyses.results import LensResult as LensResult
    from layerwise.analyses.results import PatchingResult as PatchingResult
    from layerwise.analyses.results import PathPatchingResult as PathPatchingResult
    from layerwise.analyses.results import PruningResult as PruningResult
    from layerwise.analyses.results import RemovalResult as RemovalResult
    from layerwise.analyses.results import SimilarityResult as SimilarityResult
    from layerwise.analyses.results import TunedLensResult as TunedLensResult
    from layerwise.analyses.results import lens_frame as lens_frame
    from layerwise.analyses.results import load_results as load_results
    from layerwise.analyses.results import patching_frame as patching_frame
    from layerwise.analyses.results import records_frame as records_frame
    from layerwise.results.base import Result as Result
    from layerwise.results.provenance import RUN_FILE as RUN_FILE
    from layerwise.results.provenance import Facts as Facts
    from layerwise.results.provenance import ModelFacts as ModelFacts
    from layerwise.results.provenance import TaskFacts as TaskFacts
    from layerwise.results.provenance import installed_versions as installed_versions
    from layerwise.results.provenance import join_facts as join_facts
    from layerwise.results.provenance import read_facts as read_facts
    from layerwise.runs.folder import RunFolder as RunFolder

_WHERE = {
    "AblationResult": "layerwise.analyses.results",
    "AttributionPatchingResult": "layerwise.analyses.results",
    "AttributionResult": "layerwise.analyses.results",
    "EmergenceResult": "layerwise.analyses.results",
    "Facts": "layerwise.results.provenance",
    "HeadsResult": "layerwise.analyses.results",
    "LensResult": "layerwise.analyses.results",
    "ModelFacts": "layerwise.results.provenance",
    "PatchingResult": "layerwise.analyses.results",
    "PathPatchingResult": "layerwise.analyses.results",
    "PruningResult": "layerwise.analyses.results",
    "RESULTS": "layerwise.analyses.results",
    "RUN_FILE": "layerwise.results.provenance",
    "RemovalResult": "layerwise.analyses.results",
    "Result": "layerwise.results.base",
    "RunFolder": "layerwise.runs.folder",
    "SimilarityResult": "layerwise.analyses.results",
    "TaskFacts": "layerwise.results.provenance",
    "TunedLensResult": "layerwise.analyses.results",
    "installed_versions": "layerwise.results.provenance",
    "join_facts": "layerwise.results.provenance",
    "lens_frame": "layerwise.analyses.results",
    "load_results": "layerwise.analyses.results",
    "patching_frame": "layerwise.analyses.results",
    "read_facts": "layerwise.results.provenance",
    "records_frame": "layerwise.analyses.results",
}

__all__ = [
    "RESULTS",
    "RUN_FILE",
    "AblationResult",
    "AttributionPatchingResult",
    "AttributionResult",
    "EmergenceResult",
    "Facts",
    "HeadsResult",
    "LensResult",
    "ModelFacts",
    "PatchingResult",
    "PathPatchingResult",
    "PruningResult",
    "RemovalResult",
    "Result",
    "RunFolder",
    "SimilarityResult",
    "TaskFacts",
    "TunedLensResult",
    "installed_versions",
    "join_facts",
    "lens_frame",
    "load_results",
    "patching_frame",
    "read_facts",
    "records_frame",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
