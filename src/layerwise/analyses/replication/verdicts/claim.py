"""A published claim as one value: who made it, what it takes here, and how it is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from layerwise.stats.contrasts import Contrast

from .evidence import Evidence

SMALL, FULL = "small", "full"
SCALES = (SMALL, FULL)


class Verdict(StrEnum):
    """Answer of a run to a claim."""

    HOLDS = "holds"
    OPPOSITE = "the opposite holds"
    OPEN = "open"
    NO_SIGNAL = "no signal"
    NOT_ASKED = "cannot be asked here"


@dataclass(frozen=True)
class Source:
    """A paper.

    Attributes:
        authors: as it is cited in a sentence.
        title: its title; empty where it was not seen.
        address: its arXiv number or address.
    """

    authors: str
    title: str
    address: str


def benchmarks(*names: str, folder: str = "") -> tuple[str, ...]:
    """Names of benchmarks as tasks of the full scale, in a folder of their name or the one given.

    ``{data}`` stands for the folder with all of them.
    """
    return tuple(f"benchmark:{name}:data={{data}}/{folder or name}" for name in names)


@dataclass(frozen=True)
class Needs:
    """Requirements of a claim: tasks by scale, ways of scoring, and further analyses.

    Attributes:
        tasks: names of tasks by scale; ``{data}`` in a name is the folder with benchmarks.
        protocols: each task is asked under all of them without each layer; none to skip no layer.
        also: further measurements, by their names in ``measurements``.
        n_layers: a model with fewer layers cannot be asked.
    """

    tasks: Mapping[str, Sequence[str]]
    protocols: Sequence[str]
    also: Sequence[str] = ()
    n_layers: int = 6


class Number(NamedTuple):
    """An estimate that a verdict stands on, for its figure and table."""

    label: str
    estimate: float
    low: float
    high: float
    n_items: int

    @classmethod
    def from_contrast(cls, label: str, contrast: Contrast, scale: int = 1) -> Number:
        """A contrast with its 95 % interval, in units of one by ``scale``."""
        low, high = (scale * end for end in contrast.bounds())
        return cls(label, scale * contrast.estimate, low, high, contrast.n)


class ClaimTest(NamedTuple):
    """Outcome of a claim's test, before it is corrected for the others that were asked.

    Attributes:
        part: what it is of, where a claim has several parts; else empty.
        unit: unit of the estimate, and of ``numbers`` unless these have one of their own.
        effect: what the estimate is, in a few words.
        estimate: the number that the verdict is about, with its 95 % interval.
        p_holds: one-sided p-value against "the claim does not hold".
        p_opposite: the same against "the opposite does not hold".
        error: standard error of the estimate; nan if there is none.
        numbers: what else the verdict stands on.
        note: a sentence that belongs to the verdict; empty if none.
        unit_of_numbers: unit of ``numbers`` where it is another one.
    """

    part: str
    unit: str
    effect: str
    estimate: Number
    p_holds: float
    p_opposite: float
    error: float = np.nan
    numbers: tuple[Number, ...] = ()
    note: str = ""
    unit_of_numbers: str = ""


def hold_every_way(
    part: str,
    unit: str,
    effect: str,
    label: str,
    ways: Mapping[str, Contrast],
    scale: int = 1,
    note: str = "",
) -> ClaimTest:
    """A test of contrasts by their labels, all of which must lie on one side of 0.

    The larger p-value counts (Berger 1982, Technometrics 24), and the contrast nearest to 0 is
    reported under ``label``.
    """
    nearest = min(ways.values(), key=lambda one: abs(one.estimate))
    return ClaimTest(
        part, unit, effect,
        Number.from_contrast(label, nearest, scale),
        max(one.p_above() for one in ways.values()),
        max(one.p_below() for one in ways.values()),
        scale * nearest.error,
        tuple(Number.from_contrast(*one, scale) for one in ways.items()), note,
    )  # fmt: skip


def bound_p_values(number: Number, bound: float) -> tuple[float, float]:
    """One-sided p-values for "it is below a bound" and "above it", from a 95 % interval."""
    # Bounds of 95 % are 1.96 standard errors away, of either side its own.
    from scipy.special import ndtr

    above, below = ((end - number.estimate) / 1.96 for end in (number.high, number.low))
    away = number.estimate - bound
    return float(ndtr(away / max(above, 1e-9))), float(ndtr(away / min(below, -1e-9)))


class NoTest(NamedTuple):
    """A part of a claim that was not tested, and why."""

    part: str
    verdict: Verdict  # ``NO_SIGNAL`` or ``NOT_ASKED``
    why: str


Outcome = ClaimTest | NoTest


@dataclass(frozen=True)
class PublishedClaim:
    """A claim about layers that was published, and its test.

    Attributes:
        name: by which it is asked for, such as ``song-3``.
        source: the paper.
        where: section or figure of it.
        sentence: the claim in one sentence.
        measured: what the paper measured: models, tasks, score.
        holds: what must be established for "holds".
        opposite: what must be established for "the opposite holds".
        differs: how this test differs from the paper's, and what must not be concluded.
        needs: what is asked of the model.
        test: outcomes of its parts, from what was measured.
    """

    name: str
    source: Source
    where: str
    sentence: str
    measured: str
    holds: str
    opposite: str
    differs: str
    needs: Needs
    test: Callable[[Evidence], Sequence[Outcome]]


def no_test(evidence: Evidence, part: str, words: str, *protocols: str) -> NoTest:
    """A part that was not tested, with the reason: not asked, or no signal of the intact model."""
    if not {protocol for _, protocol in evidence.asked}.issuperset(protocols):
        return NoTest(part, Verdict.NOT_ASKED, f"No {words} was asked.")
    why = f"The intact model is not clearly better than chance at {words}."
    return NoTest(part, Verdict.NO_SIGNAL, why)
