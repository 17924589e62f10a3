"""Contrasts at places of the layers, by which depths are tested, and their least errors.

A contrast says whether more of an effect lies before a place than after it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from .item_curves import ItemCurves

HALF, CENTRE = "half-effect depth", "centre of mass"

# Of the whole effect: what is nothing in one curve, and what two curves may differ by that were
# computed in other ways, for engines and float32 agree to less.
NOTHING, ROUNDING = 1e-9, 1e-4
# How seldom a sample shows none of the items that bounds have to allow for.
_UNSEEN = 0.025
Draws = Float[np.ndarray, " places"]


def knots_of(measure: str, values: Float[np.ndarray, "rows edges"]) -> tuple[Draws, np.ndarray]:
    """Places between which a contrast is linear, and the contrast of each row there."""
    n_layers = values.shape[1] - 1
    if measure == HALF:
        return np.arange(n_layers + 1) - 0.5, 2 * values - values[:, -1:]
    added, layers = np.diff(values, axis=1), np.arange(n_layers, dtype=float)
    return layers, added.sum(axis=1, keepdims=True) * layers - (added @ layers)[:, None]


def contrasts_at(
    measure: str, values: Float[np.ndarray, "rows edges"], places: Draws
) -> Float[np.ndarray, "rows places"]:
    """The contrast of each row at places in layers; 0 is the middle of the first one."""
    knots, at_knots = knots_of(measure, values)
    before = np.clip(np.floor(places - knots[0]).astype(int), 0, len(knots) - 2)
    part = places - knots[before]
    return at_knots[:, before] * (1 - part) + at_knots[:, before + 1] * part


def unseen_error(task: ItemCurves, measure: str, places: Draws) -> Draws:
    """Least standard error of a contrast: what items that the sample would not show may turn."""
    # Items that have their effect alike, or nearly, have no spread to speak of, and a depth would
    # be known without any doubt. But a share of the other items that such a sample would not show
    # with 97.5 % (Clopper and Pearson 1934, Biometrika 26, none of n) may have their whole effect
    # in the first or in the last layer. The error is such that a contrast which that could turn is
    # just not significant by itself. Items that count for little are few: n is the effective number
    # of their weights (Kish 1965, Survey Sampling, section 11.7).
    values = task.values / float(task.scale.mean())
    curve = values.mean(axis=0)
    weights = np.abs(task.grouped.sums(values[:, -1]))
    if curve[-1] <= NOTHING:
        return np.zeros(len(places))
    n = weights.sum() ** 2 / (weights**2).sum()
    edges = np.arange(task.n_layers + 1)
    ends = np.stack([curve, edges > 0, edges == task.n_layers]).astype(float)
    share, first, last = contrasts_at(measure, ends, places)
    unseen = 1 - _UNSEEN ** (1 / n)
    reach = unseen * np.abs(share - np.where(share > 0, last, first))
    return reach / -stdtrit(task.grouped.n - 1.0, _UNSEEN)
