"""What sweeps cost, by the very code that makes them: they are counted in place of being run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from layerwise.sweep import Generate, Generated, Intervention, Scored, Sweep, SweepStats, intact
from layerwise.sweep.changes.interventions import donors_of
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Outcome, Request
from layerwise.tasks import Task

from .setup import Setup

_TEXT, _SCORE = Generated((), ""), Scored((0.0,), (False,))


@dataclass
class DrySweeps:
    """Adds up the costs of sweeps, whose answers are stand-ins.

    Attributes:
        setup: whose model would be asked.
        task: whose requests are put to it.
        cost: of all sweeps so far.
    """

    setup: Setup
    task: Task
    cost: Cost = field(default_factory=Cost)

    def sweep(
        self,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        method: str = "engine",
    ) -> Sweep:
        """Count a sweep, with the intact runs of a model whose activations are taken."""
        cost = self.setup.cost(self.task, interventions, requests)
        self.cost += cost if method == "engine" else cost.by_brute_force()
        if donors_of(interventions):
            self.cost += self.setup.cost(self.task, [intact()], requests)
        answers: list[Outcome] = [_TEXT if isinstance(r, Generate) else _SCORE for r in requests]
        return Sweep([answers for _ in interventions], SweepStats())


Sweeper = Setup | DrySweeps
"""What makes sweeps, or counts them."""


def cost_of_sweeps(setup: Setup, task: Task, make: Callable[[Sweeper], object]) -> Cost:
    """Cost of the sweeps that ``make`` would make of a task's requests."""
    dry = DrySweeps(setup, task)
    make(dry)
    return dry.cost


def cost_of_prompts(setup: Setup, task: Task, contexts: Sequence[tuple[int, ...]]) -> Cost:
    """Cost of one intact run over some prompts."""
    return setup.cost(task, [intact()], [Generate(context, 0) for context in contexts])
