"""Test that two shares lost are the same, whatever either has to lose: inverted tests of ratios.

A share lost is what is lost by what there is to lose. Where a model hardly knows the answers, the
latter is known badly, and best liked where luck made it large. So a share s is judged by the
contrast lost - s * above of each item, whose mean is 0 at the true share: no ratio is taken
(Fieller 1954, J. R. Stat. Soc. B 16). Bootstraps and sign flips of shares are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.stats.items.clusters import Clusters

from .joint_null import (
    Difference,
    critical_distance,
    mixture_p,
    nearest_to_zero,
    z_values,
)

_LEVEL = 0.95  # of bounds
# Shares that are tried lie at tangents of evenly spaced angles, so that all are within reach.
_N_ANGLES = 121
_ROUNDING = 1e-12


class TaskLosses(NamedTuple):
    """Loss of each item of a task, and what it has to lose, in the same unit."""

    lost: Float[np.ndarray, " items"]
    above: Float[np.ndarray, " items"]


def share_difference(
    first: Sequence[TaskLosses], second: Sequence[TaskLosses], clusters: Clusters
) -> Difference:
    """Difference of two mean shares lost over the same items: all that is not rejected."""
    # If both shares are s, both contrasts at s have mean 0. The statistic is the least, over all s,
    # of their squared length in standard errors, with their covariance, and its distribution that
    # of ``same_depth_p_value``. A difference is rejected if no two shares that far apart are
    # accepted together.
    every = [*first, *second]
    if clusters.n < 2 or not all(task.above.mean() > _ROUNDING for task in every):
        return Difference(-np.inf, np.inf, 1.0)
    one, other = (_ShareContrast.from_tasks(tasks, clusters) for tasks in (first, second))
    shares = _shares((one.share, other.share))
    z = one.z(shares), other.z(shares)
    diagonal = np.einsum("ij,ij->j", one.directions(shares), other.directions(shares))
    p = mixture_p(nearest_to_zero(*z, np.clip(diagonal, -_ALIKE, _ALIKE)))
    shared = np.clip(one.directions(shares).T @ other.directions(shares), -_ALIKE, _ALIKE)
    length = z[0][:, None] ** 2 - 2 * shared * z[0][:, None] * z[1] + z[1] ** 2
    accepted = length <= critical_distance(1 - _LEVEL) * (1 - shared**2)
    accepted[one.nearest_share(shares), other.nearest_share(shares)] = True
    apart = (shares[None] - shares[:, None])[accepted]
    beyond = accepted[[0, -1]].any() or accepted[:, [0, -1]].any()
    if beyond:
        return Difference(-np.inf, np.inf, p)
    ends = np.append(apart, 0.0) if p >= 1 - _LEVEL else apart
    return Difference(float(ends.min()), float(ends.max()), p)


def no_surer(low: float, high: float, p: float, inverted: Difference) -> Difference:
    """The wider bounds and the larger p-value of two tests."""
    ends = min(low, inverted.low), max(high, inverted.high)
    if not np.isfinite([low, high, *ends]).all():
        ends = -np.inf, np.inf
    return Difference(*ends, max(p, inverted.p))


# Correlations are held to this, so that what always goes together can be told apart at all.
_ALIKE = 0.999


def _shares(estimates: tuple[float, float]) -> Float[np.ndarray, " shares"]:
    """Shares to try, dense about both estimates and about none, sparse far out."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, _N_ANGLES + 2)[1:-1]
    around = [estimate + np.tan(angles) for estimate in (*estimates, 0.0)]
    return np.unique(np.round(np.concatenate([*around, [0.0, *estimates]]), 12))


class _ShareContrast(NamedTuple):
    """The contrast of a mean share, lost - s * above, as sums over clusters."""

    lost: Float[np.ndarray, " clusters"]  # what each cluster adds to the mean share
    above: Float[np.ndarray, " clusters"]  # what it adds to 1, what there is to lose
    n: int  # number of clusters

    @classmethod
    def from_tasks(cls, tasks: Sequence[TaskLosses], clusters: Clusters) -> _ShareContrast:
        """Of the mean over tasks of what is lost by what there is to lose."""
        # What a task's own share departs from their mean is explained by what it has to lose, as
        # the null of the mean says nothing of single tasks.
        own = np.array([task.lost.mean() / task.above.mean() for task in tasks])
        lost = [
            (task.lost - (share - own.mean()) * task.above) / task.above.sum() / len(tasks)
            for task, share in zip(tasks, own, strict=True)
        ]
        above = [task.above / task.above.sum() / len(tasks) for task in tasks]
        summed = [clusters.sums(np.concatenate(part)) for part in (lost, above)]
        return cls(summed[0], summed[1], clusters.n)

    @property
    def share(self) -> float:
        """The mean share lost."""
        return float(self.lost.sum())

    def nearest_share(self, shares: Float[np.ndarray, " shares"]) -> int:
        """Index of the share that is the sample's own."""
        return int(np.abs(shares - self.share).argmin())

    def _cluster_deviations(
        self, shares: Float[np.ndarray, " shares"]
    ) -> Float[np.ndarray, "clusters shares"]:
        values = self.lost[:, None] - shares * self.above[:, None]
        return (values - values.mean(axis=0)) * np.sqrt(self.n / (self.n - 1))

    def directions(
        self, shares: Float[np.ndarray, " shares"]
    ) -> Float[np.ndarray, "clusters shares"]:
        """Of each contrast the deviations of clusters, of length 1, or 0 where none deviates."""
        away = self._cluster_deviations(shares)
        length = np.linalg.norm(away, axis=0)
        return np.where(length > _ROUNDING, away / np.where(length > _ROUNDING, length, 1.0), 0.0)

    def z(self, shares: Float[np.ndarray, " shares"]) -> Float[np.ndarray, " shares"]:
        """Contrasts as standard normal values, by Student's t over clusters."""
        error = np.linalg.norm(self._cluster_deviations(shares), axis=0)
        return z_values(self.share - shares, error, self.n - 1)
