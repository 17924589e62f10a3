"""The figures of the report: each takes tables and gives back a matplotlib figure.

Nothing here computes an effect or runs a model. All have options of the same names: ``width``,
the widest that the figure may be in inches; ``kind`` and ``site`` of the intervention, ``protocol``
or ``direction`` that is shown, the first that there is if None; ``measure`` or ``metric``, a name
in the table's column.
"""

from __future__ import annotations

from layerwise.analyses.ablation.page.figures import accuracy_by_layer as accuracy_by_layer
from layerwise.analyses.ablation.page.figures import book_losses as book_losses
from layerwise.analyses.ablation.page.figures import head_effect_maps as head_effect_maps
from layerwise.analyses.ablation.page.figures import ladder as ladder
from layerwise.analyses.ablation.page.figures import protocol_comparison as protocol_comparison
from layerwise.analyses.ablation.page.figures import role_map as role_map
from layerwise.analyses.ablation.page.figures import set_losses as set_losses
from layerwise.analyses.ablation.page.state_trace import state_trace as state_trace
from layerwise.analyses.attribution.figures import attribution_heads as attribution_heads
from layerwise.analyses.attribution.figures import attribution_lines as attribution_lines
from layerwise.analyses.attribution_patching.figures import estimate_agreement as estimate_agreement
from layerwise.analyses.comparison.figures import Block as Block
from layerwise.analyses.comparison.figures import compared_depths as compared_depths
from layerwise.analyses.comparison.figures import compared_roles as compared_roles
from layerwise.analyses.comparison.figures import difference_ranges as difference_ranges
from layerwise.analyses.emergence.figures import agreement_ranges as agreement_ranges
from layerwise.analyses.emergence.figures import emergence_ranges as emergence_ranges
from layerwise.analyses.emergence.figures import interaction_profiles as interaction_profiles
from layerwise.analyses.heads.figures import head_score_maps as head_score_maps
from layerwise.analyses.logit_lens.figures import lens_curves as lens_curves
from layerwise.analyses.logit_lens.figures import prediction_depth_curves as prediction_depth_curves
from layerwise.analyses.patching.figures import patching_heads as patching_heads
from layerwise.analyses.patching.figures import patching_map as patching_map
from layerwise.analyses.path_patching.figures import path_senders as path_senders
from layerwise.analyses.removal.figures import removal_curve as removal_curve
from layerwise.analyses.removal.figures import removal_orders as removal_orders
from layerwise.analyses.similarity.figures import prediction_ranges as prediction_ranges
from layerwise.analyses.similarity.figures import similarity_map as similarity_map
from layerwise.analyses.tuned_lens.figures import tuned_lens_curves as tuned_lens_curves
from layerwise.presentation.save import save_figure as save_figure
