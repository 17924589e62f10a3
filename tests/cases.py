"""Numbers of random cases that the property tests of the engine try, chosen in one place.

LAYERWISE_CASES is their number altogether: 32 unless it says otherwise. From 1,000 on, tests
marked ``long`` run too, and rates of errors are counted in as many data sets as they name, at
least 120; that is ``make test-long``.

What is tried by day is chosen by one rule. Of cases of one test, those are tried that take a branch
of their own, among them an ordinary one and an extreme one; a fault that another of them would show
is one of these or of a test of its own. All others are marked, by ``few_by_day`` where they are
made or by ``long(but=[...])``, which names the cases that stay. Of tests, one is tried by day if no
other would catch a kind of fault, or none so cheaply. Marked as a whole is what combines parts that
others hold: whole runs, second routes to what another test asks (the command line, both backends,
weights on disk), tables of saved studies, and rates of errors in many data sets. A test that is
named with ``::`` runs whatever its mark.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import Phase, settings
from scipy.stats import binom

CASES = int(os.environ.get("LAYERWISE_CASES", "32"))
LONG = CASES >= 1000


def in_long_runs(*cases: tuple[Any, ...]) -> list[Any]:
    """Cases of a test, each with a value for each of its parameters, that are not tried by day."""
    return [pytest.param(*case, marks=pytest.mark.long) for case in cases]


def few_by_day(cases: Iterable[Any], *by_day: Any) -> list[Any]:
    """All cases of a test, names or tuples, of which those named are tried by day."""
    every = list(cases)
    assert set(by_day) <= set(every), set(by_day) - set(every)
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)),
                     marks=() if case in by_day else pytest.mark.long)
        for case in every
    ]  # fmt: skip


def data_sets(n: int) -> int:
    """Number of data sets that a rate of errors is counted in: a quarter but in long runs."""
    # With 60 a tripled rate passes most_errors in 59 % of all cases, with 120 in 19 %.
    return max(n, 120) if LONG else -(-n // 4)


def most_errors(n: int, rate: float = 0.05) -> int:
    """Largest number of errors in ``n`` data sets that does not speak against the stated rate.

    A doubled rate has more with much the same probability in long runs and in others, whose
    bound is the tighter one; the data sets are the same each time, so that nothing is left to luck.
    """
    return int(binom.ppf(0.999 if LONG else 0.95, n, rate))


def cases(parts: int) -> settings:
    """Settings of a property test that is one of so many that share the cases."""
    # Without shrinking: a smaller example of a fault is not worth minutes of sweeps.
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=max(1, CASES // parts), deadline=None, phases=phases)
