"""Depth of what capabilities lose: layers that both need, crossings, easy against hard variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.presentation.wording import few_layers
from layerwise.stats.contrasts import Contrast, centre_contrast, unpaired_difference
from layerwise.stats.crossings import Side, crossing_p_values
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.pools import LEVEL, Pool, match_protocols

from .claim import ClaimTest, NoTest, Number, Outcome, Verdict
from .evidence import Evidence

ONE_LAYER = 1.0  # a difference of depth that matters, fixed beforehand
_ALL, _REST = "all layers", "without layers that both need"
_NOTHING = Contrast(np.nan, np.zeros(0))


class Variants(NamedTuple):
    """Two variants of one suite, by the names of their tasks."""

    part: str  # of the claim
    easy: str
    hard: str


def needed_layers(pool: Pool) -> set[int]:
    """Layers that a capability is shown to need."""
    p = correct_family(paired_p_values(pool.net, pool.clusters))
    return set(pool.layers[(p < LEVEL) & (pool.net.sum(axis=0) > 0)].tolist())


def all_crossings(first: Pool, second: Pool) -> Float[np.ndarray, "layers layers"]:
    """P-values of crossings: the row costs the first more, the column the second."""
    return crossing_p_values(Side.from_pool(first), Side.from_pool(second))


def crossing_p(p: Float[np.ndarray, "layers layers"], deeper: bool | None) -> float:
    """P-value of "no two layers cross", of all pairs or of those whose first side is deeper."""
    row, column = np.indices(p.shape)
    asked = row != column if deeper is None else (row > column if deeper else row < column)
    return float(min(1.0, p[asked].min() * asked.sum()))


def compare_variants(evidence: Evidence, pairs: Sequence[Variants]) -> list[Outcome]:
    """Outcomes of "the hard variant uses no more depth", for each pair that was asked.

    It holds only by an interval inside one layer on either side, with all layers and, where one
    variant is shown to need layers that the other is not, also without those that both need, which
    would hide a difference. That the hard variant is deeper
    takes a crossing of layers as well: harder questions have less to spare, so that weak layers
    cost them more wherever these lie.
    """
    asked = {task for task, _ in evidence.asked}
    outcomes = [
        _compare(evidence, pair) for pair in pairs if pair.easy in asked and pair.hard in asked
    ]
    why = "No suite was asked in an easy and a hard variant."
    return outcomes or [NoTest("", Verdict.NOT_ASKED, why)]


def _compare(evidence: Evidence, pair: Variants) -> Outcome:
    sides = [
        [cell for (task, _), cell in evidence.cells.items() if task == name]
        for name in (pair.hard, pair.easy)
    ]
    silent = [name for name, cells in zip(pair[:0:-1], sides, strict=True) if not cells]
    if silent:
        why = f"The intact model is not clearly better than chance at {' and '.join(silent)}."
        return NoTest(pair.part, Verdict.NO_SIGNAL, why)
    compared = match_protocols(*(evidence.pool(cells) for cells in sides))
    if compared is None:
        why = f"{pair.easy} and {pair.hard} have signal under no way of scoring that both share."
        return NoTest(pair.part, Verdict.NO_SIGNAL, why)
    return _compare_pools(pair, *compared)


def _compare_pools(pair: Variants, hard: Pool, easy: Pool) -> ClaimTest:
    needed = needed_layers(hard), needed_layers(easy)
    shared = needed[0] & needed[1]
    ways = {_ALL: set[int]()} | ({_REST: shared} if shared and needed[0] != needed[1] else {})
    centres = {
        name: [centre_contrast(pool, without) for pool in (hard, easy)]
        for name, without in ways.items()
    }
    gaps = {
        name: unpaired_difference(first, second)
        for name, (first, second) in centres.items()
        if first is not None and second is not None
    }
    widest = max(gaps.values(), key=lambda gap: abs(gap.estimate), default=_NOTHING)
    # What one variant alone loses elsewhere has nothing to be compared with.
    lopsided = len(gaps) < len(ways)
    within = max((gap.p_within(ONE_LAYER) for gap in gaps.values()), default=1.0)
    deeper = max((gap.p_above(ONE_LAYER) for gap in gaps.values()), default=1.0)
    crossing = crossing_p(all_crossings(hard, easy), deeper=True)
    notes = [f"Both need {few_layers(sorted(shared))}."] if shared else []
    if _ALL not in gaps:
        notes.append("Nothing is lost.")
    elif lopsided:
        notes.append("Only one of them loses anything elsewhere.")
    if _ALL in gaps and gaps[_ALL].p_above(ONE_LAYER) < LEVEL <= crossing:
        notes.append("No layers cross: the harder questions may only be more fragile.")
    numbers = [Number.from_contrast(f"hard minus easy, {name}", gap) for name, gap in gaps.items()]
    numbers += [
        Number.from_contrast(f"mean layer, {name}", centre)
        for name, centre in zip((pair.hard, pair.easy), centres[_ALL], strict=True)
        if centre is not None
    ]
    return ClaimTest(
        pair.part, "layers", f"deeper in {pair.hard} than in {pair.easy}, by the mean layer of "
        "what is lost",
        Number.from_contrast("hard minus easy, where they differ most", widest),
        1.0 if lopsided else within,
        max(deeper, crossing),
        widest.error if gaps else np.nan,
        tuple(numbers), " ".join(notes),
    )  # fmt: skip
