"""Test that two contrasts are both 0 at one place: the distance of their path from 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Path = Float[np.ndarray, " places"]


class Difference(NamedTuple):
    """Bounds of the second minus the first (95 %), and the p-value of "the same"."""

    low: float  # infinite where there is no end
    high: float
    p: float


# As far out as a contrast of no error may lie, in standard errors.
_SURE = 8.0
_ROUNDING = 1e-12


def z_values(away: Path, error: Path, df: Path | float | int) -> Path:
    """Contrasts as standard normal values, by Student's t; what has no error is surely away."""
    from scipy.special import ndtri, stdtr

    known = error > _ROUNDING
    ratio = np.abs(away) / np.where(known, error, 1.0)
    surely = np.where(np.abs(away) < _ROUNDING, 0.0, _SURE)
    size = np.where(known, -ndtri(stdtr(df, -ratio)), surely)
    return np.sign(away) * np.minimum(size, _SURE)


def mixture_p(squared: float) -> float:
    """Tail probability of the squared distance to a corner of two half-lines."""
    # Of a standard normal pair one half lies where the distance is that to a line, a quarter where
    # it is the smaller of both coordinates, and a quarter where it is that to the corner itself (a
    # chi-bar-squared distribution; Silvapulle and Sen 2005, Constrained Statistical Inference,
    # section 3.4).
    from scipy.special import chdtrc

    one_df, two_df = (float(chdtrc(df, squared)) for df in (1, 2))
    return one_df / 2 + one_df**2 / 4 + two_df / 4


def critical_distance(level: float) -> float:
    """The squared distance whose ``mixture_p`` is a level, by bisection."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mixture_p(middle) > level else (low, middle)
    return high


def nearest_to_zero(first: Path, second: Path, shared: Path) -> float:
    """Least squared distance of the path of two contrasts from 0, straight between places."""
    path = np.stack([first, (second - shared * first) / np.sqrt(1 - shared**2)], axis=1)
    start, step = path[:-1], np.diff(path, axis=0)
    size = (step**2).sum(axis=1)
    part = np.clip(-(start * step).sum(axis=1) / np.where(size > 0, size, 1.0), 0.0, 1.0)
    return float(((start + part[:, None] * step) ** 2).sum(axis=1).min())
