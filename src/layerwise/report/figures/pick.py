"""Which figure shows a result when nobody asked for one in particular.

The figures themselves are in the other files of this folder.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.ablation.figures.head_effects import head_effect_maps
from layerwise.analyses.ablation.figures.sets import set_losses
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.ablation.sets import is_set
from layerwise.analyses.attribution.figures.attribution import attribution_heads
from layerwise.analyses.attribution.result import AttributionResult
from layerwise.analyses.attribution_patching.result import AttributionPatchingResult
from layerwise.analyses.emergence.figures.emergence import emergence_ranges
from layerwise.analyses.emergence.figures.role_map import role_map
from layerwise.analyses.emergence.result import EmergenceResult
from layerwise.analyses.heads.figures.heads import head_score_maps
from layerwise.analyses.heads.result import HeadsResult
from layerwise.analyses.logit_lens.figures.lens import lens_curves
from layerwise.analyses.logit_lens.result import LensResult
from layerwise.analyses.patching.figures.patching import patching_map
from layerwise.analyses.patching.figures.patching_heads import patching_heads
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.path_patching.figures.paths import estimate_agreement, path_senders
from layerwise.analyses.path_patching.result import PathPatchingResult
from layerwise.analyses.removal.figures.removal import removal_curve
from layerwise.analyses.removal.figures.removal_orders import removal_orders
from layerwise.analyses.removal.result import RemovalResult
from layerwise.analyses.similarity.figures.similarity import similarity_map
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.analyses.tuned_lens.figures.tuned_lens import tuned_lens_curves
from layerwise.analyses.tuned_lens.result import TunedLensResult
from layerwise.errors import UserError
from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.rows import rows

Plottable = (
    AblationResult
    | LensResult
    | TunedLensResult
    | PatchingResult
    | PathPatchingResult
    | AttributionPatchingResult
    | AttributionResult
    | SimilarityResult
    | HeadsResult
    | RemovalResult
    | EmergenceResult
)


def plot_result(result: Plottable) -> Figure:
    """The figure that says most about a result, its layers named as its model has them.

    Args:
        result: an ablation (role map; of heads, if no layer was changed; losses of blocks and
            sets, if nothing was changed alone), lens and tuned lens (curves), patching (heat
            map; of heads, if there is nothing else), attribution or heads (heat maps by head),
            similarity (maps), removal (curves) or emergence result (ranges).

    Raises:
        UserError: if the result has nothing to show.
    """
    with naming_layers_of(result.facts.model):
        return _plot(result)


def _plot(result: Plottable) -> Figure:
    if isinstance(result, AblationResult):
        effects = _filled(result, result.effects())
        layers = effects.loc[effects["head"].isna()]
        if layers.empty:
            return head_effect_maps(_filled(result, effects.loc[effects["signal"]]))
        single = layers.loc[~is_set(layers)]
        if single.empty:
            return set_losses(_filled(result, layers.loc[layers["signal"]]))
        layers, first = single, single.iloc[0]
        return role_map(layers, str(first["kind"]), str(first["site"]), signal=result.signal())
    if isinstance(result, LensResult):
        return lens_curves(_filled(result, result.lens), seed=result.facts.seed)
    if isinstance(result, TunedLensResult):
        return tuned_lens_curves(_filled(result, result.layers()))
    if isinstance(result, PatchingResult):
        summary = _filled(result, result.summary())
        by_head = bool(summary["head"].notna().all())
        site = str(summary["site"].iloc[0])
        return patching_heads(summary, site) if by_head else patching_map(summary)
    if isinstance(result, PathPatchingResult):
        effects = result.effects()
        return path_senders(_filled(result, effects.loc[effects["layer"] >= 0]))
    if isinstance(result, AttributionPatchingResult):
        return estimate_agreement(_filled(result, result.cells()), result.agreement())
    if isinstance(result, SimilarityResult):
        return similarity_map(_filled(result, result.angular()), result.influence(), result.cka)
    if isinstance(result, RemovalResult):
        if len(result.orders) > 1:
            return removal_orders(_filled(result, result.curves()))
        return removal_curve(_filled(result, result.steps()))
    if isinstance(result, HeadsResult):
        return head_score_maps(_filled(result, result.summary()))
    if isinstance(result, AttributionResult):
        summary = result.summary()
        return attribution_heads(_filled(result, summary.loc[summary["signal"]]))
    return emergence_ranges(_filled(result, rows(result.emergence, axis=COMPUTATION)))


def _filled(result: Plottable, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        raise UserError(f"There is nothing to draw, expected a result with rows: {result.if_empty}")
    return table
