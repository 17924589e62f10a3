"""The tables of one run, gathered from its results, as sentences and pages read them.

Nothing is concluded here, and nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.joining import join_ablations
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.ablation.sets import is_set
from layerwise.analyses.attribution.result import AttributionResult
from layerwise.analyses.attribution_patching.result import AttributionPatchingResult
from layerwise.analyses.emergence.result import EmergenceResult
from layerwise.analyses.heads.result import HeadsResult
from layerwise.analyses.logit_lens.result import LensResult
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.path_patching.result import PathPatchingResult
from layerwise.analyses.pruning.result import PruningResult
from layerwise.analyses.removal.result import RemovalResult
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.analyses.tuned_lens.result import TunedLensResult
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import LAYER_MAIN, in_order
from layerwise.results.base import Result
from layerwise.results.provenance import Facts, join_facts


@dataclass(frozen=True)
class Run:
    """What one run found; None for what was not run.

    Attributes:
        facts: what is needed to repeat the run.
        signal: ``signal.parquet``.
        effects: ``effects.parquet`` of layers and their parts.
        head_effects: the same of single heads and key/value groups.
        lens: ``lens.parquet``.
        patching: the averages of ``PatchingResult.summary``.
        emergence: ``emergence.parquet``.
        order: ``order.parquet``.
        method_agreement: ``method_agreement.parquet``.
        protocol_interaction: ``protocol_interaction.parquet``.
        left_out: ``left_out.parquet``.
        removal: ``removal_steps.parquet``.
        removal_curves: ``removal_curves.parquet``.
        attribution: ``attribution_summary.parquet``.
        angular: ``angular.parquet``.
        influence: ``influence.parquet``.
        cka: ``cka.parquet``.
        prediction: ``prediction.parquet``, where layers were skipped and streams compared.
        pruning: the averages of ``PruningResult.summary``.
        heads: ``heads_summary.parquet``.
        paths: ``path_effects.parquet``.
        estimates: the cells of ``AttributionPatchingResult.cells``.
        agreement: ``attribution_agreement.parquet``.
        prediction_depth: ``prediction_depth.parquet``.
        prediction_depth_means: ``prediction_depth_means.parquet``.
        prediction_depth_comparisons: ``prediction_depth_comparisons.parquet``.
        tuned_lens_layers: ``tuned_lens_layers.parquet``.
    """

    facts: Facts
    signal: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    head_effects: pd.DataFrame | None = None
    lens: pd.DataFrame | None = None
    patching: pd.DataFrame | None = None
    emergence: pd.DataFrame | None = None
    order: pd.DataFrame | None = None
    method_agreement: pd.DataFrame | None = None
    protocol_interaction: pd.DataFrame | None = None
    left_out: pd.DataFrame | None = None
    removal: pd.DataFrame | None = None
    attribution: pd.DataFrame | None = None
    removal_curves: pd.DataFrame | None = None
    angular: pd.DataFrame | None = None
    influence: pd.DataFrame | None = None
    cka: pd.DataFrame | None = None
    prediction: pd.DataFrame | None = None
    pruning: pd.DataFrame | None = None
    heads: pd.DataFrame | None = None
    paths: pd.DataFrame | None = None
    estimates: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    prediction_depth: pd.DataFrame | None = None
    prediction_depth_means: pd.DataFrame | None = None
    prediction_depth_comparisons: pd.DataFrame | None = None
    tuned_lens_layers: pd.DataFrame | None = None

    @classmethod
    def of(cls, results: Sequence[Result]) -> Run:
        """The tables of the results of one run.

        Args:
            results: at most one of each kind, but for ablations, which are joined; empty tables
                count as not run.

        Raises:
            UserError: if the results are of different models or items, or two ablations of the
                same change.
        """
        results = join_ablations(results)
        tables: dict[str, pd.DataFrame] = {}
        for result in results:
            tables |= _tables(result)
        tables |= _joined(results)
        filled = {name: table for name, table in tables.items() if len(table)}
        return cls(join_facts([result.facts for result in results]), **filled)

    def has_signal(self, task: str, protocol: str) -> bool | None:
        """Whether the intact model is above chance; None if that was not measured."""
        if self.signal is None:
            return None
        found = rows(self.signal, task=task, protocol=protocol)
        return bool(found["signal"].iloc[0]) if len(found) else None

    def effects_of(self, kind: str, site: str, **values: Any) -> pd.DataFrame:
        """The effects in single layers of one kind and site, and of what else is asked.

        Args:
            kind: the kind of intervention.
            site: its site.
            values: as ``rows`` takes them.
        """
        return _chosen(self.effects, kind, site, values)

    def head_effects_of(self, kind: str, site: str, **values: Any) -> pd.DataFrame:
        """As ``effects_of``, in single heads or key/value groups."""
        return _chosen(self.head_effects, kind, site, values)

    def set_effects_of(self, kind: str, site: str, **values: Any) -> pd.DataFrame:
        """As ``effects_of``, in blocks and sets that were changed at once."""
        return _chosen(self.effects, kind, site, values, sets=True)

    def ablations(self) -> list[tuple[str, str]]:
        """The kinds and sites of interventions in one layer at a time, skipped layers first."""
        return _kinds_and_sites(self.effects)

    def head_ablations(self) -> list[tuple[str, str]]:
        """The kinds and sites of interventions in one head or key/value group at a time."""
        return _kinds_and_sites(self.head_effects)

    def set_ablations(self) -> list[tuple[str, str]]:
        """The kinds and sites of interventions in several layers or heads at once."""
        return _kinds_and_sites(self.effects, sets=True)


def _kinds_and_sites(effects: pd.DataFrame | None, sets: bool = False) -> list[tuple[str, str]]:
    if effects is None:
        return []
    shown = effects.loc[is_set(effects) == sets]
    return in_order(zip(shown["kind"], shown["site"], strict=True), (LAYER_MAIN,))


def _chosen(
    effects: pd.DataFrame | None, kind: str, site: str, values: dict[str, Any], sets: bool = False
) -> pd.DataFrame:
    if effects is None:
        return pd.DataFrame()
    return rows(effects.loc[is_set(effects) == sets], kind=kind, site=site, **values)


def _tables(result: Result) -> dict[str, pd.DataFrame]:
    if isinstance(result, AblationResult):
        tables = result.derived()
        effects = tables["effects"]
        single = effects["head"].notna()
        return tables | {"effects": effects.loc[~single], "head_effects": effects.loc[single]}
    if isinstance(result, LensResult):
        return {"lens": result.lens, **result.derived()}
    if isinstance(result, TunedLensResult):
        return result.derived()
    if isinstance(result, PatchingResult):
        return {"patching": result.summary()}
    if isinstance(result, PathPatchingResult):
        return {"paths": result.effects()}
    if isinstance(result, AttributionPatchingResult):
        return {"estimates": result.cells(), "agreement": result.agreement()}
    if isinstance(result, SimilarityResult):
        return {**result.derived(), "cka": result.cka}
    if isinstance(result, PruningResult):
        return {"pruning": result.summary()}
    if isinstance(result, RemovalResult):
        return {"removal": result.steps(), "removal_curves": result.curves()}
    if isinstance(result, AttributionResult):
        return {"attribution": result.summary()}
    if isinstance(result, HeadsResult):
        return {"heads": result.summary()}
    if isinstance(result, EmergenceResult):
        return {name: getattr(result, name) for name in result.tables}
    return {}


def _joined(results: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """What follows from two results together."""
    ablated = [result for result in results if isinstance(result, AblationResult)]
    compared = [result for result in results if isinstance(result, SimilarityResult)]
    if not ablated or not compared:
        return {}
    return {"prediction": compared[0].predicts(ablated[0])}
