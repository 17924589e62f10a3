"""How many comparisons runs ask for, those that cannot be made for want of signal as well.

Of a model that hardly knows the answers, the tasks with signal are those in which it was lucky. So
comparisons that were left out count among the tests, as ones in which nothing was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from layerwise.stats.layer_curves import ABLATION

from .quantities import ACCURACY, DEPTH, LOSS, Prepared, axes_of_all, thirds_of

_Place = tuple[str, str, str]


def n_asked(several: Sequence[Sequence[Prepared]]) -> Counter[str]:
    """How many comparisons of each family are asked for between every two groups of runs."""
    pairs = (_asked_of([*one, *other]) for one, other in combinations(several, 2))
    return sum(pairs, start=Counter())


def _asked_of(runs: Sequence[Prepared]) -> Counter[str]:
    """Of what every one of these runs speaks, or is silent."""
    cells = set.intersection(*(set(run.cells) for run in runs))
    places = {(runs[0].cells[cell].capability, cell[1]) for cell in cells}
    thirds = set.intersection(*(set(thirds_of(run.sampling.n_layers)) for run in runs))
    read = set.intersection(*map(_places, runs))
    measures = _measures(runs)
    axes = len(axes_of_all(runs))
    depths = sum(axes if method == ABLATION else measures[method] for *_, method in read)
    return Counter({ACCURACY: len(cells), DEPTH: depths, LOSS: len(places) * len(thirds)})


def _places(run: Prepared) -> set[_Place]:
    """Capability, protocol and method of all that a run speaks of or is silent about."""
    return {(each.capability, each.protocol, each.method) for each in (*run.evidence, *run.silent)}


def _measures(runs: Sequence[Prepared]) -> Counter[str]:
    """How many depths a method gives: a lens two, if any answer settles."""
    methods = {method for run in runs for *_, method in _places(run)}
    lenses = {e.method for run in runs for e in run.evidence if e.settled is not None}
    return Counter({method: 1 + (method in lenses) for method in methods})
