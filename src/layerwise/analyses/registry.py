"""The analyses, in the order in which folders are searched and profiles add, and a run's tables."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.storage.base import Result
from layerwise.storage.provenance import join_facts
from layerwise.storage.run_tables import RunTables, TableSource

from .ablation.analysis import ANALYSIS as ABLATION
from .ablation.result import join_ablations
from .attribution.analysis import ANALYSIS as ATTRIBUTION
from .attribution_patching.analysis import ANALYSIS as ATTRIBUTION_PATCHING
from .contract import Analysis, Curves, Extra, Planned
from .distillation.analysis import ANALYSIS as DISTILLATION
from .early_exit.analysis import ANALYSIS as EARLY_EXIT
from .emergence.analysis import ANALYSIS as EMERGENCE
from .heads.analysis import ANALYSIS as HEADS
from .interactions.analysis import ANALYSIS as INTERACTIONS
from .logit_lens.analysis import ANALYSIS as LOGIT_LENS
from .patching.analysis import ANALYSIS as PATCHING
from .path_patching.analysis import ANALYSIS as PATH_PATCHING
from .pruning.analysis import ANALYSIS as PRUNING
from .removal.analysis import ANALYSIS as REMOVAL
from .similarity.analysis import ANALYSIS as SIMILARITY
from .transplant.analysis import ANALYSIS as TRANSPLANT
from .tuned_lens.analysis import ANALYSIS as TUNED_LENS

ANALYSES: tuple[Analysis, ...] = (
    ABLATION, LOGIT_LENS, TUNED_LENS, PATCHING, ATTRIBUTION, HEADS, SIMILARITY, REMOVAL,
    ATTRIBUTION_PATCHING, PATH_PATCHING, PRUNING, INTERACTIONS, EARLY_EXIT, TRANSPLANT,
    DISTILLATION, EMERGENCE,
)  # fmt: skip
RESULTS: tuple[type[Result], ...] = tuple(analysis.result for analysis in ANALYSES)
EXTRAS: dict[str, Extra] = {extra.name: extra for each in ANALYSES for extra in each.extras}
PLANS: dict[str, Planned] = {plan.name: plan for each in ANALYSES for plan in each.plans}
CURVES: dict[type[Result], Curves] = {each.result: each.curves for each in ANALYSES if each.curves}


def with_curves(results: Sequence[Result]) -> list[Result]:
    """Those of the results that have curves over the layers."""
    return [result for result in results if type(result) in CURVES]


def curves_in_words() -> str:
    """What makes curves over the layers, in words."""
    *most, last = (curves.words for curves in CURVES.values())
    return f"{', '.join(most)} or {last}"


def tables_of_run(results: Sequence[Result]) -> RunTables:
    """The tables of the results of one run."""
    joined = join_ablations(results)
    tables: dict[str, TableSource] = {}
    files: dict[str, str] = {}
    for result in joined:
        for analysis in ANALYSES:
            if isinstance(result, analysis.result):
                given = analysis.tables(result, joined)
                tables |= given
                files |= {name: at for name, at in analysis.files.items() if name in given}
    return RunTables(join_facts([result.facts for result in joined]), tables, files)
