"""Verdicts on layers, as items are asked round after round until each is decided.

Complete records give the verdicts that a run would have stopped at. Of a run that stops, answers
that were never asked may stand for anything: no verdict reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise.errors import UserError
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.share_tests.equivalence import MOST_NATS, SmallestEffects

from .confidence import confidence_bounds
from .ordered_pools import (
    ACCURACY,
    NATS,
    ROUND_SIZE,
    Measure,
    OrderedPool,
    family_sizes,
    gather_evidence,
    ordered_pools,
)
from .race import LEVEL, QUESTIONS, Evidence, Race, crossing_suprema, race, shared_rounds

COLUMNS = [
    "capability", "tasks", "protocol", "layer", "measure", "question", "established", "other",
    "other_layer", "n_items", "n_asked", "n_all", "estimate", "low", "high", "p", "p_holm",
    "n_tests",
]  # fmt: skip


def measures_of(
    cells: Sequence[Cell], name: str | None, smallest: SmallestEffects | None = None
) -> dict[str, Measure]:
    """The measure of each protocol: nats, of which an item counts for one at most, or accuracy.

    None stands for nats where any answer under the protocol has them, and for accuracy elsewhere.
    """
    effects = smallest or SmallestEffects()
    known = {NATS: (MOST_NATS, effects.nats), ACCURACY: (1.0, effects.loss)}
    if name is not None and name not in known:
        raise UserError(
            f"The measure is {name!r}: expected {NATS!r} (log-probability of the right answer) or "
            f"{ACCURACY!r}."
        )
    have_nats = {cell.protocol for cell in cells if np.isfinite(cell.nats).any()}
    named = {
        protocol: name or (NATS if protocol in have_nats else ACCURACY)
        for protocol in sorted({cell.protocol for cell in cells})
    }
    return {protocol: Measure(by, *known[by]) for protocol, by in named.items()}


class Decided(NamedTuple):
    """A race that was run: the pools in their order, all evidence, and what was decided when."""

    pools: list[OrderedPool]
    evidence: Evidence
    race: Race
    n_tests: dict[str, int]  # hypotheses of each question's family


def decide(
    cells: Sequence[Cell],
    signal: Mapping[tuple[str, str], bool],
    floors: Mapping[tuple[str, str], Float[np.ndarray, " items"]],
    *,
    seed: int,
    measure: str | None = None,
    questions: Collection[str] = (NEEDED, SPARE),
    smallest: SmallestEffects | None = None,
    round_size: int = ROUND_SIZE,
    level: float = LEVEL,
    n_rounds: int | None = None,
) -> Decided | None:
    """Run the race of layers, all of it or so many rounds; None if nothing has signal.

    The intact model and its controls answer all items first. What has no signal is not asked, but
    counts in the families, with a p of 1. Arguments are those of ``decisions``.
    """
    measures = measures_of(cells, measure, smallest)
    every = ordered_pools(cells, signal, floors, seed, measures, round_size)
    if not every:
        return None
    evidence = gather_evidence(every, questions).until(n_rounds)
    n_tests = family_sizes(cells, max(len(ordered.layers) for ordered in every))
    return Decided(every, evidence, race(evidence, questions, n_tests, level), n_tests)


def decisions(
    cells: Sequence[Cell],
    signal: Mapping[tuple[str, str], bool],
    floors: Mapping[tuple[str, str], Float[np.ndarray, " items"]],
    *,
    seed: int,
    measure: str | None = None,
    questions: Collection[str] = (NEEDED, SPARE),
    smallest: SmallestEffects | None = None,
    round_size: int = ROUND_SIZE,
    level: float = LEVEL,
    n_rounds: int | None = None,
) -> pd.DataFrame:
    """Verdicts on every layer, each after as many items as it took.

    Three questions can be asked of a layer, of each capability and protocol. Each question's
    verdicts are one family, in which any false one has a chance of at most ``level``, whenever one
    stops. What is rejected is, in this order: *needed*, that the layer costs nothing on average
    (of accuracy: that of what changes no more is lost than gained); *spare*, that it costs the
    smallest loss of interest or more, in some task; *crossing*, that no other layer costs the
    capability less and another capability more. An item counts for 1 nat at most.

    Args:
        cells: records with one change of each layer.
        signal: of each task and protocol, whether there is anything to lose.
        floors: of each task and protocol, right answers that are left when all is lost, by item.
        seed: fixes the order of the items.
        measure: ``nats`` or ``accuracy``; None for nats where answers have them.
        questions: which of ``needed``, ``spare`` and ``crossing`` are asked.
        smallest: smallest effects of interest.
        round_size: items of each pool in a round.
        level: family-wise, of each question.
        n_rounds: rounds that are asked at most; None for all.

    Returns:
        A row for each layer, capability, protocol and question: ``established``, or else open;
        ``n_items`` (answers when it was decided, or when the layer left), ``n_asked`` (answers when
        the layer left), ``n_all`` (answers that there are), ``estimate`` after ``n_items`` with the
        95 % confidence sequence of this mean alone (``low``, ``high``); ``p`` when the layer left,
        valid at any time and not corrected, ``p_holm`` after Holm's correction over the ``n_tests``
        hypotheses of its question. A crossing's estimate is what the layer costs more than
        ``other_layer``, which costs ``other`` more; the row is of the crossing that was established
        first, or is nearest.

    Raises:
        UserError: if an answer has no nats, a question or the measure is unknown, or the records
            are of several draws of few-shot examples.
    """
    decided = decide(
        cells, signal, floors, seed=seed, measure=measure, questions=questions,
        smallest=smallest, round_size=round_size, level=level, n_rounds=n_rounds,
    )  # fmt: skip
    return pd.DataFrame(columns=COLUMNS) if decided is None else decision_rows(decided, questions)


def decision_rows(decided: Decided, questions: Collection[str]) -> pd.DataFrame:
    """The table of ``decisions`` of a race that was run."""
    rows = [row for part in _rows(decided, questions) for row in part]
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {question: number for number, question in enumerate(QUESTIONS)}
    keys = ["capability", "protocol", "layer", "question"]
    return table.sort_values(
        keys, key=lambda column: column.map(order) if column.name == "question" else column
    ).reset_index(drop=True)


def _rows(decided: Decided, questions: Collection[str]) -> Iterator[list[dict[str, Any]]]:
    found, evidence = decided.race, decided.evidence
    of_layers = {NEEDED: (found.needed, evidence.needed), SPARE: (found.spare, evidence.spare)}
    at_end = {
        question: _p_values(suprema[found.rounds - 1, np.arange(len(found.rounds))],
                            decided.n_tests[question])
        for question, (_, suprema) in of_layers.items()
    }  # fmt: skip
    start = 0
    for ordered in decided.pools:
        places = np.arange(start, start + len(ordered.layers))
        last = found.rounds[places]
        lost = ordered.measure.losses(ordered.pool, ordered.layers, None)
        for question, (rounds, _) in of_layers.items():
            if question in questions:
                p = at_end[question][:, places]
                yield _pool_rows(ordered, question, lost, rounds[places], last, p, decided.n_tests)
        if CROSSING in questions and evidence.crossings.more.shape[1]:
            yield _crossing_rows(decided, ordered, places)
        start += len(ordered.layers)


def _p_values(
    log_suprema: Float[np.ndarray, " hypotheses"], n_tests: int
) -> Float[np.ndarray, "2 hypotheses"]:
    """P-values that hold at any time, and the same after Holm's correction."""
    p = np.exp(-log_suprema)
    return np.stack([p, correct_family(p, n_tests)])


def _crossing_rows(
    decided: Decided, ordered: OrderedPool, places: Int[np.ndarray, " layers"]
) -> list[dict[str, Any]]:
    """For each layer of a pool the crossing established first, or else the nearest one."""
    found, crossings = decided.race, decided.evidence.crossings
    reached = crossing_suprema(crossings, shared_rounds(crossings, found.rounds))
    p = _p_values(reached, decided.n_tests[CROSSING])
    names = [(one.pool.capability, layer) for one in decided.pools for layer in one.pool.layers]
    # By the round in which it was established, then by its evidence.
    ranks = np.lexsort((-reached, found.crossing))
    best = []
    for place in places:
        sides, numbers = np.nonzero(crossings.more[:, ranks] == place)
        if not len(numbers):  # the capability is not compared with another one
            return []
        at = int(numbers.argmin())
        best.append((int(sides[at]), int(ranks[numbers[at]])))
    side, which = np.array(best).T
    than = crossings.less[side, which] - places[0]
    lost = ordered.measure.losses(ordered.pool, ordered.layers, than)
    last = np.minimum(found.rounds[places], found.rounds[than + places[0]])
    rows = _pool_rows(
        ordered, CROSSING, lost, found.crossing[which], last, p[:, which], decided.n_tests
    )
    for row, s, c, layer, place in zip(rows, side, which, than, places, strict=True):
        row["other"] = names[crossings.more[1 - s, c]][0]
        row["other_layer"] = int(ordered.pool.layers[layer])
        row["n_asked"] = int(ordered.n_answers[ordered.own_rounds(found.rounds[[place]])[0] - 1])
    return rows


def _pool_rows(
    ordered: OrderedPool,
    question: str,
    lost: Float[np.ndarray, "answers layers"],
    rounds: Float[np.ndarray, " layers"],
    last: Int[np.ndarray, " layers"],
    p: Float[np.ndarray, "2 layers"],
    n_tests: Mapping[str, int],
) -> list[dict[str, Any]]:
    """A row for each layer of a pool, with its estimate when it was decided."""
    pool, measure, established = ordered.pool, ordered.measure, np.isfinite(rounds)
    asked = ordered.own_rounds(last)
    # Others' verdicts may establish one of a layer that has left, by what it was asked.
    at = np.minimum(rounds, asked).astype(int)
    n_items = ordered.n_answers[at - 1]
    low, high = confidence_bounds(
        lost, ordered.ends[at - 1], -measure.most, measure.most, pool.clusters
    )
    # They are of all times so far, and may exclude the mean of now: it is shown with them.
    means = np.array([lost[: n_items[i], i].mean() for i in range(len(at))])
    low, high = np.minimum(low, means), np.maximum(high, means)
    # An established difference lies on its side, whatever the interval of the mean alone says.
    above = established & (question != SPARE)
    low = np.where(above, np.maximum(low, 0.0), low)
    high = np.where(established & (question == SPARE), np.minimum(high, measure.smallest), high)
    return [
        {
            "capability": pool.capability,
            "tasks": ", ".join(sorted(pool.tasks)),
            "protocol": pool.protocols[0],
            "layer": int(pool.layers[i]),
            "measure": measure.name,
            "question": question,
            "established": bool(established[i]),
            "other": None,
            "other_layer": None,
            "n_items": int(n_items[i]),
            "n_asked": int(ordered.n_answers[asked[i] - 1]),
            "n_all": len(pool.loss),
            "estimate": float(means[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "p": float(p[0, i]),
            "p_holm": float(p[1, i]),
            "n_tests": n_tests[question],
        }
        for i in range(len(at))
    ]
