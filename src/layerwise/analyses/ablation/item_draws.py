"""Noise that every item has for itself: own draws, and sweeps item by item.

Draws that items share are one sample of noise, however many items there are: an interval over
items would know nothing of how other draws might have come out. An item may have several draws,
of noise or of the item that it is resampled from; they are no further items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from layerwise import stats
from layerwise.sweep import Intervention, Sweep
from layerwise.sweep.changes.edits import AddSite, Edit
from layerwise.sweep.requests import LogLikelihood, Request
from layerwise.sweep.run import SweepStats
from layerwise.tasks import TaskRequest

RESAMPLE, NOISE = DRAWN = ("resample", "noise")
"""Kinds of change that are drawn by the seed, for each item."""
Sweeps = Callable[[Sequence[Intervention], Sequence[TaskRequest]], Sweep]


class DrawnChange(NamedTuple):
    """A change, and which draw of its noise or of its donor it is made with."""

    change: Intervention
    draw: int | None  # from 0; None if the change draws nothing


def with_draws(changes: Sequence[Intervention], n_draws: int) -> list[DrawnChange]:
    """Changes, those by noise or by resampling once for each of so many draws."""
    return [
        DrawnChange(change, draw)
        for change in changes
        for draw in (range(n_draws) if change.kind in DRAWN else (None,))
    ]


def with_own_draws(
    changes: Sequence[Intervention], requests: Sequence[Request], seed: int, *names: str
) -> list[Intervention]:
    """Noise of the same covariance, drawn anew for each position of an item's requests.

    A draw is the sum of all rows of the shared table, each times a standard normal number, over
    the square root of their number. Heads of a layer share their draws.
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
    drawn: Sequence[DrawnChange],
    requests_of: Callable[[int], Sequence[TaskRequest]],
    seed: int,
) -> Sweep:
    """Outcomes of changes, each item's noise being its own."""
    outcomes: list[list] = [[] for _ in drawn]
    work = SweepStats()
    for some, draw in _batches(drawn):
        swept = sweeps([drawn[place].change for place in some], requests_of(draw))
        work += swept.stats
        for place, answers in zip(some, swept.outcomes, strict=True):
            outcomes[place] = answers
    noisy = [place for place, each in enumerate(drawn) if each.change.kind == NOISE]
    first = requests_of(0)
    for place in noisy:
        outcomes[place] = [None] * len(first)
    for places in _by_item(first) if noisy else ():
        some = [first[place] for place in places]
        swept = sweeps(_own(drawn, noisy, some, seed), some)
        work += swept.stats
        for known, answers in zip(noisy, swept.outcomes, strict=True):
            for place, outcome in zip(places, answers, strict=True):
                outcomes[known][place] = outcome
    return Sweep(outcomes, work)


def _batches(drawn: Sequence[DrawnChange]) -> list[tuple[list[int], int]]:
    """Places of the changes that are swept over all items at once, with the draw they ask for."""
    by_draw: dict[int, list[int]] = {}
    for place, each in enumerate(drawn):
        if each.change.kind != NOISE:
            by_draw.setdefault(each.draw or 0, []).append(place)
    return [(places, draw) for draw, places in by_draw.items()]


def _own(
    drawn: Sequence[DrawnChange],
    noisy: Sequence[int],
    given: Sequence[TaskRequest],
    seed: int,
) -> list[Intervention]:
    """An item's noise: of the first draw it is what it would be if there were no others."""
    requests, first = [each.request for each in given], given[0]
    by_draw: dict[int, list[Intervention]] = {}
    for place in noisy:
        by_draw.setdefault(drawn[place].draw or 0, []).append(drawn[place].change)
    made = {
        draw: iter(with_own_draws(changes, requests, seed, first.task, first.item, *_name_of(draw)))
        for draw, changes in by_draw.items()
    }
    return [next(made[drawn[place].draw or 0]) for place in noisy]


def _name_of(draw: int) -> tuple[str, ...]:
    return (f"draw {draw}",) if draw else ()


def _by_item(requests: Sequence[TaskRequest]) -> list[list[int]]:
    """Places of the requests of each item."""
    places: dict[str, list[int]] = {}
    for place, each in enumerate(requests):
        places.setdefault(each.item, []).append(place)
    return list(places.values())
