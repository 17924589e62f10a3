"""The figures of the report: each takes tables and gives back a matplotlib figure.

Nothing here computes an effect or runs a model.
"""

from __future__ import annotations

from layerwise.report.figures.accuracy import accuracy_by_layer as accuracy_by_layer
from layerwise.report.figures.agreement import agreement_ranges as agreement_ranges
from layerwise.report.figures.attribution import attribution_heads as attribution_heads
from layerwise.report.figures.attribution import attribution_lines as attribution_lines
from layerwise.report.figures.compared_depths import compared_depths as compared_depths
from layerwise.report.figures.compared_roles import Block as Block
from layerwise.report.figures.compared_roles import compared_roles as compared_roles
from layerwise.report.figures.differences import difference_ranges as difference_ranges
from layerwise.report.figures.emergence import emergence_ranges as emergence_ranges
from layerwise.report.figures.head_effects import head_effect_maps as head_effect_maps
from layerwise.report.figures.heads import head_score_maps as head_score_maps
from layerwise.report.figures.interaction import interaction_profiles as interaction_profiles
from layerwise.report.figures.lens import lens_curves as lens_curves
from layerwise.report.figures.patching import patching_map as patching_map
from layerwise.report.figures.patching_heads import patching_heads as patching_heads
from layerwise.report.figures.paths import estimate_agreement as estimate_agreement
from layerwise.report.figures.paths import path_senders as path_senders
from layerwise.report.figures.pick import plot_result as plot_result
from layerwise.report.figures.prediction import prediction_ranges as prediction_ranges
from layerwise.report.figures.prediction_depth import (
    prediction_depth_curves as prediction_depth_curves,
)
from layerwise.report.figures.protocols import protocol_comparison as protocol_comparison
from layerwise.report.figures.removal import removal_curve as removal_curve
from layerwise.report.figures.removal_orders import removal_orders as removal_orders
from layerwise.report.figures.role_map import role_map as role_map
from layerwise.report.figures.save import save_figure as save_figure
from layerwise.report.figures.sets import set_losses as set_losses
from layerwise.report.figures.similarity import similarity_map as similarity_map
from layerwise.report.figures.tuned_lens import tuned_lens_curves as tuned_lens_curves
