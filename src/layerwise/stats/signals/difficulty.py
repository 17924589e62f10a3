"""Is the intact model right as often in one capability's tasks as in another's?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from layerwise.stats.items.clusters import Clusters


class Answers(NamedTuple):
    """The intact model's answers to one task."""

    right: Bool[np.ndarray, " items"]  # whether it was right, by item
    clusters: Clusters  # which items ask for the same thing


class AccuracyDifference(NamedTuple):
    """Two accuracies, each a mean over tasks, and a two-sided test of their difference."""

    first: float
    second: float
    p: float


def accuracy_difference(first: Sequence[Answers], second: Sequence[Answers]) -> AccuracyDifference:
    """Mean accuracies of two groups of tasks, and whether they differ."""
    # Student's t of the difference, with the variance from sums over clusters (Liang and Zeger
    # 1986, Biometrika 73). What both groups ask for is one cluster, so that its answers are paired;
    # the rest is not. Each task gets one right and one wrong answer more, each by itself (Agresti
    # and Caffo 2000, Am. Stat. 54), without which the test is too sure near accuracies of 0 and 1.
    from scipy.stats import t

    parts, every, shift = [], [], 0.0
    for sign, group in ((1.0, first), (-1.0, second)):
        for task in group:
            right = np.concatenate([task.right, [True, False]]).astype(float)
            weight = sign / (len(right) * len(group))
            shift += weight * right.sum()
            parts.append(weight * (right - right.mean()))
            every.append(Clusters.of([*task.clusters.labels, None, None]))
    together = Clusters.joined(every)
    freedom = together.n - len(every)
    before, after = (
        float(np.mean([task.right.mean() for task in group])) for group in (first, second)
    )
    summed = together.sums(np.concatenate(parts))
    error = float(np.sqrt((summed**2).sum() * together.n / max(freedom, 1)))
    known = freedom >= 1 and abs(shift) >= 1e-12
    p = float(2 * t.sf(abs(shift) / error, freedom)) if known else 1.0
    return AccuracyDifference(before, after, p)
