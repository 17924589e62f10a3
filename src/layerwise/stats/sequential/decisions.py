"""Decisions from complete records, as if items had been asked round after round until decided."""

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

ESTABLISHED, OPEN = "established", "open"
COLUMNS = [
    "capability", "tasks", "protocol", "layer", "measure", "question", "verdict", "other",
    "other_layer", "n_items", "n_asked", "n_all", "estimate", "low", "high", "p",
]  # fmt: skip


def measure_of(name: str, smallest: SmallestEffects | None = None) -> Measure:
    """The measure of a name: nats, of which an item counts for one at most, or accuracy."""
    effects = smallest or SmallestEffects()
    known = {NATS: (MOST_NATS, effects.nats), ACCURACY: (1.0, effects.loss)}
    if name not in known:
        raise UserError(
            f"The measure is {name!r}: expected {NATS!r} (log-probability of the right answer) or "
            f"{ACCURACY!r}."
        )
    return Measure(name, *known[name])


class Decided(NamedTuple):
    """A race that was run: the pools in their order, all evidence, and what was decided when."""

    pools: list[OrderedPool]
    evidence: Evidence
    race: Race


def decide(
    cells: Sequence[Cell],
    signal: Mapping[tuple[str, str], bool],
    floors: Mapping[tuple[str, str], Float[np.ndarray, " items"]],
    *,
    measure: Measure,
    seed: int,
    questions: Collection[str] = (NEEDED, SPARE),
    round_size: int = ROUND_SIZE,
    level: float = LEVEL,
) -> Decided | None:
    """Run the race of layers on complete records; None if nothing has signal.

    The intact model and its controls answer all items first. What has no signal is not asked, but
    counts in the families, with a p of 1.
    """
    every = ordered_pools(cells, signal, floors, seed, round_size)
    if not every:
        return None
    evidence = gather_evidence(every, measure, questions)
    sizes = family_sizes(cells, max(len(ordered.layers) for ordered in every))
    return Decided(every, evidence, race(evidence, questions, sizes, level))


def decisions(
    cells: Sequence[Cell],
    signal: Mapping[tuple[str, str], bool],
    floors: Mapping[tuple[str, str], Float[np.ndarray, " items"]],
    *,
    seed: int,
    measure: str = NATS,
    questions: Collection[str] = (NEEDED, SPARE),
    smallest: SmallestEffects | None = None,
    round_size: int = ROUND_SIZE,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Verdicts on every layer, each after as many items as it took.

    Three questions can be asked of a layer, of each capability and protocol. Each question's
    verdicts are one family, in which any false one has a chance of at most ``level``, whenever one
    stops. What is rejected is, in this order: *needed*, that the layer costs nothing on average
    (of accuracy: that of what changes no more is lost than gained); *spare*, that it costs the
    smallest loss of interest or more, in some task; *crossing*, that no other layer costs the
    capability less and another capability more. An item counts for 1 nat at most.

    Args:
        cells: complete records, with one change of each layer.
        signal: of each task and protocol, whether there is anything to lose.
        floors: of each task and protocol, right answers that are left when all is lost, by item.
        seed: fixes the order of the items.
        measure: ``nats`` or ``accuracy``.
        questions: which of ``needed``, ``spare`` and ``crossing`` are asked.
        smallest: smallest effects of interest.
        round_size: items of each pool in a round.
        level: family-wise, of each question.

    Returns:
        A row for each layer, capability, protocol and question: ``verdict`` (``established`` or
        ``open``), ``n_items`` (answers when it was decided, or when the layer left), ``n_asked``
        (answers when the layer left), ``n_all`` (answers that there are), ``estimate`` after
        ``n_items`` with the 95 % confidence sequence of this mean alone (``low``, ``high``), and
        ``p``, valid at any time and not corrected. A crossing's estimate is what the layer costs
        more than ``other_layer``, which costs ``other`` more; the row is of the crossing that was
        established first, or is nearest.

    Raises:
        UserError: if an answer has no nats, a question or the measure is unknown, or the records
            are of several draws of few-shot examples.
    """
    by = measure_of(measure, smallest)
    decided = decide(cells, signal, floors, measure=by, seed=seed, questions=questions,
                     round_size=round_size, level=level)  # fmt: skip
    rows = [] if decided is None else list(_rows(decided, by, questions))
    table = pd.DataFrame([row for part in rows for row in part], columns=COLUMNS)
    order = {question: number for number, question in enumerate(QUESTIONS)}
    keys = ["capability", "protocol", "layer", "question"]
    return table.sort_values(
        keys, key=lambda column: column.map(order) if column.name == "question" else column
    ).reset_index(drop=True)


def _rows(
    decided: Decided, measure: Measure, questions: Collection[str]
) -> Iterator[list[dict[str, Any]]]:
    found, evidence = decided.race, decided.evidence
    start = 0
    for ordered in decided.pools:
        n = len(ordered.layers)
        places = np.arange(start, start + n)
        last = found.rounds[places]
        lost = measure.losses(ordered.pool, ordered.layers, None)
        for question, rounds, suprema in (
            (NEEDED, found.needed, evidence.needed),
            (SPARE, found.spare, evidence.spare),
        ):
            if question in questions:
                at = np.minimum(rounds[places], last).astype(int)
                yield _pool_rows(ordered, measure, question, lost, rounds[places], last,
                               np.exp(-suprema[at - 1, places]))  # fmt: skip
        if CROSSING in questions and evidence.crossings.more.shape[1]:
            yield _crossing_rows(decided, ordered, places, measure)
        start += n


def _crossing_rows(
    decided: Decided, ordered: OrderedPool, places: Int[np.ndarray, " layers"], measure: Measure
) -> list[dict[str, Any]]:
    """For each layer of a pool the crossing established first, or else the nearest one."""
    found, crossings = decided.race, decided.evidence.crossings
    until = np.minimum(shared_rounds(crossings, found.rounds), found.crossing).astype(int)
    reached = crossing_suprema(crossings, until)
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
    lost = measure.losses(ordered.pool, ordered.layers, than)
    last = np.minimum(found.rounds[places], found.rounds[than + places[0]])
    rows = _pool_rows(ordered, measure, CROSSING, lost, found.crossing[which], last,
                    np.exp(-reached[which]))  # fmt: skip
    for row, s, c, layer, place in zip(rows, side, which, than, places, strict=True):
        row["other"] = names[crossings.more[1 - s, c]][0]
        row["other_layer"] = int(ordered.pool.layers[layer])
        row["n_asked"] = int(ordered.n_answers[ordered.own_rounds(found.rounds[[place]])[0] - 1])
    return rows


def _pool_rows(
    ordered: OrderedPool,
    measure: Measure,
    question: str,
    lost: Float[np.ndarray, "answers layers"],
    rounds: Float[np.ndarray, " layers"],
    last: Int[np.ndarray, " layers"],
    p: Float[np.ndarray, " layers"],
) -> list[dict[str, Any]]:
    """A row for each layer of a pool, with its estimate when it was decided."""
    pool, established = ordered.pool, np.isfinite(rounds)
    asked = ordered.own_rounds(last)
    # Others' verdicts may establish one of a layer that has left, by what it was asked.
    at = np.minimum(rounds, asked).astype(int)
    n_items = ordered.n_answers[at - 1]
    low, high = confidence_bounds(
        lost, ordered.ends[at - 1], -measure.most, measure.most, pool.clusters
    )
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
            "verdict": ESTABLISHED if established[i] else OPEN,
            "other": None,
            "other_layer": None,
            "n_items": int(n_items[i]),
            "n_asked": int(ordered.n_answers[asked[i] - 1]),
            "n_all": len(pool.loss),
            "estimate": float(lost[: n_items[i], i].mean()),
            "low": float(low[i]),
            "high": float(high[i]),
            "p": float(p[i]),
        }
        for i in range(len(at))
    ]
