"""Onset of a capability over a series of checkpoints, and moves of its layers.

All checkpoints are asked the same items, so both are inferred from item values over steps; no item
is resampled, and nothing is assumed of how steps go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.stats.items.clusters import Clusters, mean_errors
from layerwise.stats.share_tests.equivalence import log_evidence_below


class Excess(NamedTuple):
    """Right answers beyond those of one control, over a series of checkpoints."""

    # The answer (0 or 1) minus the control's (in 0 to 1), of each item at each step; nan at steps
    # where the control was not measured.
    values: Float[np.ndarray, "items steps"]
    clusters: Clusters  # which items ask for the same thing


class Onset(NamedTuple):
    """Onset, as numbers of checkpoints."""

    estimate: int  # where the accuracy comes to lie above its floor for good
    low: int  # the first checkpoint that may be the onset
    high: int  # the last one; from it on the accuracy is shown to be above its floor


class Trend(NamedTuple):
    """Change of a mean layer from the first to the last step."""

    first: float  # the fitted mean layer at the first step
    change: float  # how much deeper it lies at the last one, in layers
    low: float  # lower bound of the change (95 %); nan where it has no end
    high: float  # upper bound
    p: float  # of "it stays where it is" (two-sided)


def above_p_values(
    excess: Sequence[Excess], exact: Float[np.ndarray, " steps"], margin: float
) -> Float[np.ndarray, " steps"]:
    """One-sided p-values of "not above every control by more than a margin", by step."""
    # The largest of those of single controls, each Student's t over clusters, and of the exact test
    # that there is anything above (Berger 1982, Technometrics 24).
    from scipy.stats import t

    p_values = [np.asarray(exact, dtype=float)]
    for control in excess:
        away = control.values.mean(axis=0) - margin
        error = mean_errors(control.values, control.clusters)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = np.where(error > 0, away / error, np.sign(away) * np.inf)
        p = np.where(away > 0, t.sf(statistic, max(control.clusters.n - 1, 1)), 1.0)
        p_values.append(np.where(np.isnan(away), 0.0, p))
    return np.max(p_values, axis=0)


def below_p_values(excess: Sequence[Excess], margin: float) -> Float[np.ndarray, " steps"]:
    """p-values of "from this step on never less than a margin above any control", by step."""
    # If that is so, the mean over any window of steps that begins here is no less than the margin.
    # Of windows of 1, 2, 4, ... steps, and of all controls, the evidence against it
    # (``log_evidence_below``) has an expectation of at most 1 each; so has their mean, whatever
    # they have to do with each other (Vovk and Wang 2021, Ann. Stat. 49), and p is its inverse.
    n_steps = excess[0].values.shape[1]
    whole_series = [control for control in excess if not np.isnan(control.values).any()]
    log_p = np.empty(n_steps)
    for start in range(n_steps):
        ends = {min(start + 2**i, n_steps) for i in range(n_steps.bit_length() + 1)}
        evidence = []
        for control in whole_series:
            windows = np.stack([control.values[:, start:end].mean(axis=1) for end in ends], axis=1)
            evidence.append(log_evidence_below(windows, margin, 1.0, control.clusters))
        whole = np.concatenate(evidence)
        log_p[start] = min(0.0, np.log(len(whole)) - np.logaddexp.reduce(whole))
    return np.exp(log_p)


def onset(
    excess: Sequence[Excess],
    exact: Float[np.ndarray, " steps"],
    margin: float,
    level: float = 0.05,
) -> Onset | None:
    """The checkpoint from which on the accuracy is above its floor by a margin, and stays so."""
    # Both bounds are fixed sequences of tests at half of the level, which need no correction
    # (Maurer, Hothorn and Lehmacher 1995, in Biometrie in der chemisch-pharmazeutischen Industrie
    # 6; Westfall and Krishen 2001, J. Stat. Plan. Inference 99): backwards from the last checkpoint
    # while it is significantly above, and onwards from the first while it is excluded that the
    # accuracy is above from there on. The estimate maximises the sum of what lies beyond the margin
    # from it on (Page 1954, Biometrika 41), so that no single checkpoint decides; of starts within
    # one standard error of the best it is the last: a plateau below the margin is no beginning.
    above = above_p_values(excess, exact, margin) <= level / 2
    if not above[-1]:
        return None
    high = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    excluded = below_p_values(excess, margin) <= level / 2
    low = high if excluded.all() else min(int(np.argmin(excluded)), high)
    least = np.nanmin([control.values.mean(axis=0) for control in excess], axis=0)
    beyond = np.cumsum((least - margin)[::-1])[::-1]
    best = int(np.clip(np.argmax(beyond), low, high))
    return Onset(_last_as_good(excess, margin, best, high), low, high)


def _last_as_good(excess: Sequence[Excess], margin: float, best: int, high: int) -> int:
    """The last start that leaves out no more beyond the margin than its standard error."""
    whole_series = [series for series in excess if not np.isnan(series.values).any()]
    for start in range(high, best, -1):
        for series in whole_series:
            left_out = (series.values[:, best:start] - margin).sum(axis=1, keepdims=True)
            if left_out.mean() <= mean_errors(left_out, series.clusters)[0]:
                return start
    return best


def depth_trend(
    lost: Float[np.ndarray, "items steps layers"],
    times: Float[np.ndarray, " steps"],
    clusters: Clusters,
    level: float = 0.95,
) -> Trend | None:
    """Change of the centre of mass of losses over a series, fitted by a line."""
    # With a_t the mean over items of the sum of k times what layer k costs at step t, and m_t that
    # of what all cost, the centre is a_t / m_t. The line has weights m_t; its slope is S / D, where
    # S = sum_t r_t a_t - (sum_t r_t m_t)(sum_t a_t) / sum_t m_t, and D the same with r_t m_t for
    # a_t. So no single step is divided by. S - b D is a mean over items but for its weights, whose
    # error is of second order, and is tested by Student's t over clusters; bounds are the slopes
    # that it does not reject (Fieller 1954, J. R. Stat. Soc. B 16), paired over steps.
    from scipy.stats import t

    if lost.shape[1] < 2 or clusters.n < 2:
        return None
    weight = lost.sum(axis=2)
    moment = lost @ np.arange(lost.shape[2])
    m, a = weight.mean(axis=0), moment.mean(axis=0)
    if m.sum() <= 0:
        return None
    centre = a.sum() / m.sum()
    away = times - (times @ m) / m.sum()
    slope_part = (moment - centre * weight) @ away
    spread_part = weight @ away**2
    s, d = float(slope_part.mean()), float(spread_part.mean())
    if d <= 0:
        return None
    both = np.column_stack([slope_part, spread_part])
    ss, dd, summed = (mean_errors(column[:, None], clusters)[0] ** 2
                      for column in (*both.T, both.sum(axis=1)))  # fmt: skip
    sd = (summed - ss - dd) / 2
    quantile = float(t.isf((1 - level) / 2, clusters.n - 1))
    p = float(2 * t.sf(abs(s) / np.sqrt(ss), clusters.n - 1)) if ss > 0 else float(s == 0)
    bounds = _fieller(s, d, ss, dd, sd, quantile)
    span = float(times[-1] - times[0])
    slope = s / d
    first = centre + slope * away[0]
    return Trend(float(first), slope * span, bounds[0] * span, bounds[1] * span, p)


def _fieller(
    s: float, d: float, ss: float, dd: float, sd: float, quantile: float
) -> tuple[float, float]:
    """All b with |s - b d| no more than so many standard errors; nan where that has no end."""
    square = quantile**2
    first, second, last = d * d - square * dd, s * d - square * sd, s * s - square * ss
    root = second**2 - first * last
    if first <= 0 or root < 0:
        return np.nan, np.nan
    return (second - np.sqrt(root)) / first, (second + np.sqrt(root)) / first
