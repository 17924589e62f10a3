"""Noise that every item has for itself: own draws, and sweeps item by item.

Draws that items share are one sample of noise, however many items there are: an interval over
items would know nothing of how other draws might have come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from layerwise import stats
from layerwise.sweep import Intervention, Sweep
from layerwise.sweep.edits import AddSite, Edit
from layerwise.sweep.requests import LogLikelihood, Request
from layerwise.tasks import TaskRequest

NOISE = "noise"
Sweeps = Callable[[Sequence[Intervention], Sequence[TaskRequest]], Sweep]


def with_own_draws(
    changes: Sequence[Intervention], requests: Sequence[Request], seed: int, *names: str
) -> list[Intervention]:
    """Noise of the same covariance, drawn anew for each position of an item's requests.

    A draw is the sum of all rows of the shared table, each times a standard normal number, over
    the square root of their number. Heads of a layer share their draws.

    Args:
        changes: interventions; those that add noise have the shared table of ``noise_basis``.
        requests: what is asked of the item.
        seed: of the run.
        names: of task and item.
    """
    n_positions = max(_n_positions(request) for request in requests)
    known: dict[tuple[str, int], torch.Tensor] = {}

    def drawn(edit: Edit) -> Edit:
        if not isinstance(edit, AddSite):
            return edit
        place, table = (edit.site, edit.layer), edit.value
        if place not in known:
            # by row, so that a position's draw does not depend on how many others there are
            draws = stats.generator(seed, NOISE, *names, edit.site, str(edit.layer))
            parts = torch.from_numpy(draws.standard_normal((n_positions, len(table)))).to(table)
            mixed = parts @ table.flatten(1) / len(table) ** 0.5
            known[place] = mixed.unflatten(1, table.shape[1:])
        return replace(edit, value=known[place])

    return [replace(change, edits=tuple(map(drawn, change.edits))) for change in changes]


def _n_positions(request: Request) -> int:
    """Positions that are changed at most; one more for what a decoder begins with."""
    more = len(request.continuation) if isinstance(request, LogLikelihood) else request.max_tokens
    return len(request.context) + more + 1


def swept_apart(
    sweeps: Sweeps,
    changes: Sequence[Intervention],
    asked: Sequence[TaskRequest],
    seed: int,
) -> Sweep:
    """Outcomes of changes, each item's noise being its own.

    Args:
        sweeps: asks requests under changes.
        changes: any; those that add noise are swept item by item.
        asked: what is asked.
        seed: of the run.
    """
    noisy = [change for change in changes if change.kind == NOISE]
    if not noisy:
        return sweeps(changes, asked)
    whole = sweeps([change for change in changes if change.kind != NOISE], asked)
    work = whole.stats
    apart: list[list] = [[None] * len(asked) for _ in noisy]
    for places in _by_item(asked):
        mine = [asked[place] for place in places]
        own = with_own_draws(noisy, [one.request for one in mine], seed, mine[0].task, mine[0].item)
        swept = sweeps(own, mine)
        work += swept.stats
        for known, found in zip(apart, swept.outcomes, strict=True):
            for place, outcome in zip(places, found, strict=True):
                known[place] = outcome
    rest, found = iter(whole.outcomes), iter(apart)
    ordered = [next(found if change.kind == NOISE else rest) for change in changes]
    return Sweep(ordered, work)


def _by_item(asked: Sequence[TaskRequest]) -> list[list[int]]:
    """Places of the requests of each item."""
    places: dict[str, list[int]] = {}
    for place, one in enumerate(asked):
        places.setdefault(one.item, []).append(place)
    return list(places.values())


def requests_by_item(asked: Sequence[TaskRequest]) -> list[list[Request]]:
    """The requests of each item."""
    return [[asked[place].request for place in places] for places in _by_item(asked)]
