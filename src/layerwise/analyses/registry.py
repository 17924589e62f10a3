"""All analyses, in the order in which folders are searched and profiles add, and a run's tables."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.ground.analysis_folders import JOINING
from layerwise.storage.base import Result
from layerwise.storage.provenance import join_facts
from layerwise.storage.run_tables import RunTables, TableSource

from .ablation.result import join_ablations
from .contract import Analysis, Extra, PlannableAnalysis
from .measurements import MEASUREMENTS
from .plugins import own_analyses

ANALYSES: tuple[Analysis, ...] = (*MEASUREMENTS, *own_analyses(JOINING))
RESULTS: tuple[type[Result], ...] = tuple(analysis.result for analysis in ANALYSES)
EXTRAS: dict[str, Extra] = {extra.name: extra for each in ANALYSES for extra in each.extras}
PLANS: dict[str, PlannableAnalysis] = {plan.name: plan for each in ANALYSES for plan in each.plans}


def run_tables(results: Sequence[Result]) -> RunTables:
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
