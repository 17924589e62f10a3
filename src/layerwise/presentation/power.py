"""How sentences say what a number of items could have shown. Nothing is computed here but that."""

from __future__ import annotations

from collections.abc import Iterable

from layerwise.stats.power import GAINED, POWER, detectable_loss

from .wording import counted

LEVEL = 0.05


def could_be_found(n: int, n_tests: int, gained: float = GAINED) -> str:
    """``"a loss of 21 points would be found in 8 of 10 samples"``, at the corrected level.

    Args:
        n: items.
        n_tests: how many tests the correction is over; Holm's first step divides by it.
        gained: share of the items that are gained for nothing.
    """
    return f"{_smallest(n, n_tests, gained)} would be found in {10 * POWER:.0f} of 10 samples"


def _smallest(n: int, n_tests: int, gained: float = GAINED) -> str:
    loss = detectable_loss(n, LEVEL / max(n_tests, 1), gained)
    return "no loss, however large," if loss is None else f"a loss of {100 * loss:.0f} points"


def planned_power(n_items: Iterable[int], n_layers: int, n_cells: int) -> str:
    """What the items of a planned ablation can establish, as a note of the plan.

    Args:
        n_items: of its tasks.
        n_layers: how many layers are changed, one at a time.
        n_cells: of how many tasks and protocols.
    """
    n_tests = n_layers * n_cells
    told = "; ".join(
        f"with {counted(n, 'item')} {could_be_found(n, n_layers)} (over all "
        f"{counted(n_tests, 'test')} of the run: {_smallest(n, n_tests).rstrip(',')})"
        for n in sorted(set(n_items))
    )
    return (
        f"{told[:1].upper()}{told[1:]}, by an exact McNemar test with Holm's correction over "
        f"{counted(n_layers, 'layer')}, if {100 * GAINED:.0f} % of the answers are gained for "
        "nothing."
    )
