"""Cost of sweeps before they are made: the code that makes them is run with a counter.

``tell_of_more_memory`` notes it if a small memory budget makes a run far longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from layerwise.sweep import Generate, Generated, Intervention, Scored, Sweep, SweepStats, intact
from layerwise.sweep.changes.interventions import distinct_donors
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.plans.memory import default_memory_budget
from layerwise.sweep.requests import Outcome, Request
from layerwise.tasks import Task

from .progress import Meter
from .setup import Setup


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
    if times >= 1.5:
        progress.note(
            f"with a memory budget of {setup.memory_budget / 2**20:,.0f} MiB this takes about "
            f"{times:.0f} times the work that it takes with {usual / 2**20:,.0f} MiB, which are "
            "free here; give more, or leave the budget out."
        )


_TEXT, _SCORE = Generated((), ""), Scored((0.0,), (False,))


@dataclass
class DrySweeps:
    """Adds up the costs of sweeps of a task's requests, whose answers are stand-ins."""

    setup: Setup
    task: Task
    cost: Cost = field(default_factory=Cost)  # of all sweeps so far

    def sweep(
        self,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        method: str = "engine",
    ) -> Sweep:
        """Count a sweep, with the intact runs of a model whose activations are taken."""
        cost = self.setup.cost(self.task, interventions, requests)
        self.cost += cost if method == "engine" else cost.by_brute_force()
        if distinct_donors(interventions):
            self.cost += self.setup.cost(self.task, [intact()], requests)
        answers: list[Outcome] = [_TEXT if isinstance(r, Generate) else _SCORE for r in requests]
        return Sweep([answers for _ in interventions], SweepStats())


Sweeper = Setup | DrySweeps
"""An object that makes sweeps, or counts them."""


def cost_of_sweeps(setup: Setup, task: Task, make: Callable[[Sweeper], object]) -> Cost:
    """Cost of the sweeps that ``make`` would make of a task's requests."""
    dry = DrySweeps(setup, task)
    make(dry)
    return dry.cost


def cost_of_prompts(setup: Setup, task: Task, contexts: Sequence[tuple[int, ...]]) -> Cost:
    """Cost of one intact run over some prompts."""
    return setup.cost(task, [intact()], [Generate(context, 0) for context in contexts])
