"""The figures of blocks and sets that were changed at once, with what is said beside them.

They are drawn in ``figures.sets``.
"""

from __future__ import annotations

from functools import partial

from layerwise.analyses.ablation.sets import sets_noun
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.wording import PROTOCOL_ORDER, capitalised, in_order, joined, spread
from layerwise.report.run import Run


def set_effects(run: Run) -> list[FigureSpec]:
    """What blocks and sets are needed for, a figure for each kind and site with signal."""
    from layerwise.analyses.ablation.figures.sets import MOST, action_on_sets
    from layerwise.report.figures import set_losses

    found = []
    for kind, site in run.set_ablations():
        mine = run.set_effects_of(kind, site, signal=True)
        if mine.empty:
            continue
        sets = len(set(mine["intervention"]))
        most = f", the {MOST} of {sets} that lose most" if sets > MOST else ""
        noun = sets_noun(site)
        caption = (
            f"{capitalised(action_on_sets(kind, site))}: share of the above-chance accuracy lost "
            f"(n = {spread(mine['n_items'])} items a task, tasks with signal under "
            f"{joined(in_order(mine['protocol'], PROTOCOL_ORDER))}). A row per block or set of "
            f"{noun}{most}. Lines: paired bootstrap 95 % intervals. Filled: significant after "
            "Holm's correction over the sets of a task and protocol (exact McNemar test, "
            "p < 0.05). The numbers are in the tables below."
        )
        alt = f"Points with intervals: accuracy lost by {action_on_sets(kind, site)}."
        draw = partial(set_losses, mine, kind, site)
        found.append(FigureSpec(f"sets_{kind}_{site}", draw, caption, alt))
    return found
