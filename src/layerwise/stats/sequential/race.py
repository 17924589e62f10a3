"""Sequential Holm, and the race of layers: what is decided when, and which layers then leave.

A *place* is a layer of a capability under a protocol. It is asked rounds of items until all that is
asked of it is decided. Later evidence, though it may be known, does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from layerwise.errors import UserError
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.crossings import CROSSING
from layerwise.stats.families.multiplicity import correct_family

QUESTIONS = (NEEDED, SPARE, CROSSING)

LEVEL = 0.05


def suprema(
    log_evidence: Float[np.ndarray, "times columns"],
) -> Float[np.ndarray, "times columns"]:
    """Logs of the largest evidence so far; 0 at least, as every bet starts with 1."""
    return np.maximum.accumulate(np.maximum(log_evidence, 0.0), axis=0)


def rejects(
    log_suprema: Float[np.ndarray, "*times hypotheses"],
    level: float = LEVEL,
    n_tests: int | None = None,
) -> Bool[np.ndarray, "*times hypotheses"]:
    """True where sequential Holm rejects, by the largest evidence so far.

    The inverse of the largest evidence is a p-value at any time (Ville's inequality). What Holm's
    method rejects by it at any time, it rejects by the p-values of the very end as well, as these
    are no larger. So the chance of any false rejection, at any time, is at most the level, whatever
    the dependence between hypotheses (Bartroff and Song 2014, J. Stat. Plan. Inference 153;
    arXiv:1304.6309). It also holds where some hypotheses were no longer asked about.

    Args:
        log_suprema: logs of the largest evidence so far, of each hypothesis.
        level: family-wise.
        n_tests: number of hypotheses of the family, if some of them are not asked about at all.
    """
    return correct_family(np.exp(-log_suprema), n_tests) < level


def rejection_items(
    log_evidence: Float[np.ndarray, "items hypotheses"],
    level: float = LEVEL,
    n_tests: int | None = None,
) -> Float[np.ndarray, " hypotheses"]:
    """The number of the item at which each hypothesis is rejected; inf where it never is.

    Args:
        log_evidence: log e-processes of the family's hypotheses over the same items.
        level: family-wise.
        n_tests: number of hypotheses of the family, if some of them are not asked about at all.
    """
    return first_times(rejects(suprema(log_evidence), level, n_tests))


def first_times(happened: Bool[np.ndarray, "times columns"]) -> Float[np.ndarray, " columns"]:
    """The first time, counted from 1, at which something has happened; inf where it never has."""
    return np.where(happened.any(axis=0), happened.argmax(axis=0) + 1.0, np.inf)


class Crossings(NamedTuple):
    """Hypotheses that two layers do not cross, each with two sides: a row per side."""

    # Logs of the largest evidence after each round that one layer costs more than the other.
    suprema: Float[np.ndarray, "rounds 2 crossings"]
    more: Int[np.ndarray, "2 crossings"]  # the place of the layer that costs more
    less: Int[np.ndarray, "2 crossings"]  # the place of the other one


class Evidence(NamedTuple):
    """Logs of the largest evidence on every place after each round, as if all went on."""

    needed: Float[np.ndarray, "rounds places"]  # against "it costs nothing"
    spare: Float[np.ndarray, "rounds places"]  # against "it costs what matters, or more"
    crossings: Crossings

    def until(self, n_rounds: int | None) -> Evidence:
        """The evidence of the first rounds alone; None for all of it."""
        cut = self.crossings._replace(suprema=self.crossings.suprema[:n_rounds])
        return Evidence(self.needed[:n_rounds], self.spare[:n_rounds], cut)


class Race(NamedTuple):
    """The rounds, counted from 1, in which something was decided; inf where it was not."""

    needed: Float[np.ndarray, " places"]
    spare: Float[np.ndarray, " places"]
    crossing: Float[np.ndarray, " crossings"]
    # The rounds that each place was asked.
    rounds: Int[np.ndarray, " places"]
    there: Bool[np.ndarray, " places"]  # which places were not through when it ended

    def particular(self, crossings: Crossings) -> Float[np.ndarray, " places"]:
        """The first round in which each place is shown to be on the costly side of a crossing."""
        first = np.full(len(self.needed), np.inf)
        np.minimum.at(first, crossings.more, np.broadcast_to(self.crossing, crossings.more.shape))
        return first


def shared_rounds(
    crossings: Crossings, rounds: Int[np.ndarray, " places"]
) -> Int[np.ndarray, "2 crossings"]:
    """Rounds in which both layers of a side were asked."""
    return np.minimum(rounds[crossings.more], rounds[crossings.less])


def crossing_suprema(
    crossings: Crossings, rounds: Int[np.ndarray, "2 crossings"]
) -> Float[np.ndarray, " crossings"]:
    """Logs of evidence whose inverse is a p-value of each crossing, after rounds of each side.

    A crossing has two sides, and if there is none, at least one side's null is true. So the larger
    of the sides' p-values is valid (Berger 1982, Technometrics 24), at any time: it is the inverse
    of the smaller of the sides' largest evidence. This minimum of suprema is no e-process, but it
    need not be: the supremum of the minimum, which would be one's, is never larger.
    """
    sides, columns = np.ogrid[:2, : rounds.shape[1]]
    return crossings.suprema[rounds - 1, sides, columns].min(axis=0)


def race(
    evidence: Evidence,
    questions: Collection[str],
    n_tests: Mapping[str, int],
    level: float = LEVEL,
) -> Race:
    """Decide round by round, by sequential Holm over each question's family.

    A place leaves when it is known to be needed or to be spare, whichever of these is asked. If
    crossings are asked, a place that is not spare goes on until it is on the costly side of one.

    Args:
        evidence: on all places, as if no one left.
        questions: which of ``QUESTIONS`` are asked.
        n_tests: hypotheses of each question's family, with those that could not be asked.
        level: family-wise, of each question.

    Raises:
        UserError: if a question is unknown, or none is asked.
    """
    if not questions or not set(questions) <= set(QUESTIONS):
        raise UserError(
            f"The questions are {', '.join(map(repr, questions)) or 'none'}: expected some of "
            f"{', '.join(map(repr, QUESTIONS))}."
        )
    n_rounds, n_places = evidence.needed.shape
    rounds = np.zeros(n_places, dtype=int)
    there = np.ones(n_places, dtype=bool)
    needed, spare = np.full((2, n_places), np.inf)
    crossing = np.full(evidence.crossings.more.shape[1], np.inf)
    found = Race(needed, spare, crossing, rounds, there)
    for number in range(1, n_rounds + 1):
        if not there.any():
            break
        rounds[there] = number
        for question, suprema, first in (
            (NEEDED, evidence.needed, needed),
            (SPARE, evidence.spare, spare),
        ):
            if question in questions:
                so_far = suprema[rounds - 1, np.arange(n_places)]
                _note(rejects(so_far, level, n_tests[question]), first, number)
        if CROSSING in questions and len(found.crossing):
            until = shared_rounds(evidence.crossings, rounds)
            so_far = crossing_suprema(evidence.crossings, until)
            _note(rejects(so_far, level, n_tests[CROSSING]), found.crossing, number)
        there &= ~_leaves(found, evidence.crossings, questions)
    return found


def _note(
    rejected: Bool[np.ndarray, " hypotheses"], first: Float[np.ndarray, " hypotheses"], number: int
) -> None:
    """Write down the number of the round where something is rejected for the first time."""
    first[rejected & np.isinf(first)] = number


def _leaves(
    found: Race, crossings: Crossings, questions: Collection[str]
) -> Bool[np.ndarray, " places"]:
    """True where a place leaves: all that is asked of it is decided."""
    is_spare = np.isfinite(found.spare)
    decided = np.ones(len(is_spare), dtype=bool)
    if NEEDED in questions or SPARE in questions:
        decided = np.isfinite(found.needed) | is_spare
    if CROSSING in questions:
        decided &= is_spare | np.isfinite(found.particular(crossings))
    return decided
