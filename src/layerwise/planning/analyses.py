"""The analyses that can be planned, each by the name that asks for it."""

from __future__ import annotations

from layerwise.analyses.ablation.api import PLANNED as ABLATION
from layerwise.analyses.attribution.api import PLANNED as ATTRIBUTION
from layerwise.analyses.distillation.planned import DISTILL, HEAL
from layerwise.analyses.logit_lens.api import PLANNED as LENS
from layerwise.analyses.patching.api import PLANNED as PATCHING
from layerwise.analyses.planned import Planned
from layerwise.analyses.similarity.api import PLANNED as SIMILARITY
from layerwise.analyses.transplant.api import PLANNED as TRANSPLANT
from layerwise.profiling.api import PLANNED as PROFILE

PLANNED: dict[str, Planned] = {
    one.name: one
    for one in (
        ABLATION,
        LENS,
        PATCHING,
        ATTRIBUTION,
        SIMILARITY,
        TRANSPLANT,
        PROFILE,
        DISTILL,
        HEAL,
    )
}
