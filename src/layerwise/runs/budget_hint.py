"""A sentence before the work, where a small memory budget makes far more of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.plans.memory import default_memory_budget

from .progress import Meter
from .setup import Setup

WORTH_TELLING = 1.5


def tell_of_more_memory(
    setup: Setup, costs: Sequence[Cost], progress: Meter, cost_with: Callable[[Setup, int], Cost]
) -> None:
    """Note if the costliest piece takes far more work than with the usual memory budget."""
    # Analyses call this whose changed runs branch off intact ones, which must be kept for that;
    # what only reads intact runs takes the same work with any budget.
    usual = default_memory_budget(setup.loaded.device)
    if setup.memory_budget >= usual or not costs:
        return
    dearest = max(range(len(costs)), key=lambda index: costs[index].token_passes)
    roomy = cost_with(replace(setup, memory_budget=usual), dearest)
    times = costs[dearest].token_passes / max(1.0, roomy.token_passes)
    if times >= WORTH_TELLING:
        progress.note(
            f"with a memory budget of {setup.memory_budget / 2**20:,.0f} MiB this takes about "
            f"{times:.0f} times the work that it takes with {usual / 2**20:,.0f} MiB, which are "
            "free here; give more, or leave the budget out."
        )
