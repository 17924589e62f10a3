"""The plan of a profile: of its main analyses, and of what else is wanted and can be planned."""

from __future__ import annotations

from layerwise.analyses.ablation.planned import enough_items, planned_power
from layerwise.analyses.extra import ProfileStart
from layerwise.analyses.planned import Planned, PlannedJob, PlannedJobs, PlanOptions
from layerwise.runs.setup import Setup

from .api import Jobs
from .extras import EXTRAS, planned_jobs, wanted_extras

AT_MOST = (
    "At most: layers are skipped only where the intact model is better than blind (unless "
    "exhaustive), and only tasks that it can do are patched."
)
FIRST_DRAW = (
    "Layers, parts and heads are changed with {} draws of the few-shot examples; all else is asked "
    "with the first draw, and no depth is told by ablation."
)


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    extras = wanted_extras(options.also, setup.model.cfg)
    main = Jobs.of(setup, options.pairs, options.exhaustive, extras, options.fewshot_seeds)
    by_name: dict[str, PlannedJob] = {
        "ablation": main.ablation, "lens": main.lens, "patching": main.patching,
    }  # fmt: skip
    more = planned_jobs(extras, ProfileStart(setup, main.lens.setup, options.pairs))
    left_out = [name for name in extras if not EXTRAS[name].planned]
    told = f"Not in this plan, and not in its time: {', '.join(left_out)}."
    notes = (AT_MOST, told) if left_out else (AT_MOST,)
    if options.fewshot_seeds > 1:
        notes = (*notes, FIRST_DRAW.format(options.fewshot_seeds))
    return PlannedJobs(by_name | more, notes, power=planned_power(setup, setup.model.cfg.n_layers))


PLANNED = Planned(
    "profile", _jobs, options=("exhaustive", "also", "fewshot_seeds"), enough=enough_items
)
