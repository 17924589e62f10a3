"""Estimates of each run, and differences between runs or groups with intervals and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.depth.depth_inference import depth_bounds, depth_difference
from layerwise.stats.depth.depths import bounds, relative_depth_difference
from layerwise.stats.effects import ALPHA
from layerwise.stats.families.estimate import Ends, equal_value_bounds
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.inference import expanded_level
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.items.crossed import crossed_difference
from layerwise.stats.share_tests.same_share import no_surer, share_difference
from layerwise.stats.share_tests.share_bounds import difference_wide_enough

from .quantities import (
    ACCURACY,
    COMPARED,
    DESCRIBED,
    Key,
    PreparedRun,
    Quantity,
    quantities,
)

ITEM, RUN = "item", "run"
Draws = Float[np.ndarray, " draws"]


def estimate_rows(runs: Sequence[PreparedRun]) -> Iterator[dict[str, Any]]:
    """Rows of ``comparison_estimates``: each run by itself, on the tasks of all runs."""
    for run in runs:
        for key, (quantity,) in quantities([run]).items():
            low, high = _own_interval(key, quantity)
            values = {"estimate": float(quantity.draws[0]), "low": low, "high": high}
            yield (
                {"run": run.run.name, "group": run.run.group} | _key_columns(key, quantity) | values
            )


# A column that is not saved.
_SMALLEST = "smallest of interest"


def difference_rows(
    groups: Mapping[str, Sequence[PreparedRun]],
    left_out: list[dict[str, Any]],
    smallest_depth: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Rows of ``comparison_differences``, not corrected yet: every two groups or runs."""
    for (first, one), (second, other) in combinations(groups.items(), 2):
        split = len(one)
        for key, every in quantities([*one, *other], left_out.append).items():
            if key.measure in DESCRIBED:
                continue
            if len(every) > 2:  # groups have two runs or more each
                tested = _run_difference(every, split)
            else:
                tested = _item_difference(key, every[0], every[1], one[0].sampling.seed)
            values = np.array([quantity.draws[0] for quantity in every])
            units = [quantity.axis.unit for quantity in every if quantity.axis]
            yield {
                "first": first,
                "second": second,
                **_key_columns(key, every[0]),
                "estimate_first": float(values[:split].mean()),
                "estimate_second": float(values[split:].mean()),
                "n_first": split,
                "n_second": len(other),
                _SMALLEST: smallest_depth / min(units) if units else 0.0,
                **tested,
            }


def _item_difference(key: Key, first: Quantity, second: Quantity, seed: int) -> dict[str, Any]:
    """The difference of two runs over items, whose clusters are exchanged together."""
    differences = relative_depth_difference(first.draws, second.draws)
    low, high, p = _difference_test(key, first, second, differences, seed)
    return {"unit": ITEM, "difference": float(differences[0]), "low": low, "high": high, "p": p}


def _run_difference(every: Sequence[Quantity], split: int) -> dict[str, Any]:
    """The difference of two groups over runs and items, the first of which ends at ``split``."""
    draws = np.array([each.draws for each in every])
    over_items = draws[split:].mean(axis=0) - draws[:split].mean(axis=0)
    error, n = float(np.nanstd(over_items[1:])), every[0].clusters.n
    tested = crossed_difference(draws[:split, 0], draws[split:, 0], error, n)
    value, low, high = (getattr(tested.interval, e) for e in ("estimate", "low", "high"))
    return {
        "unit": RUN, "difference": value, "low": low, "high": high, "p": tested.p,
        "error_runs": tested.error_units, "error_items": error, "df": tested.df,
    }  # fmt: skip


def _difference_test(
    key: Key, first: Quantity, second: Quantity, differences: Draws, seed: int
) -> tuple[float, float, float]:
    clusters = first.clusters
    if first.right is not None and second.right is not None:
        net = first.right.astype(int) - second.right
        p = float(paired_p_values(net[:, None], clusters)[0])
        return *_answer_bounds(differences, clusters.n, least=-1.0), p
    if first.loss and second.loss:
        own = [loss.share_bounds(_expanded_bounds(of.draws, clusters.n))
               for of, loss in ((second, second.loss), (first, first.loss))]  # fmt: skip
        ends = difference_wide_enough(
            differences[:1], _expanded_bounds(differences, clusters.n), *own
        )
        parts = second.loss.parts - first.loss.parts
        parts[np.abs(parts) < 1e-12] = 0.0
        summed = clusters.sums(parts[:, None])
        p = float(stats.sign_flip_p_values(summed, seed=stats.generator(seed, *key.tasks))[0])
        inverted = share_difference(first.loss.task_losses, second.loss.task_losses, clusters)
        low, high, p = no_surer(float(ends[0][0]), float(ends[1][0]), p, inverted)
        low, high = (end if np.isfinite(end) else np.nan for end in (low, high))
        return low, high, p
    assert first.axis is not None
    assert second.axis is not None
    # no exact paired test of so few items could be surer
    least, axes = 2.0 ** (1 - clusters.n), (first.axis, second.axis)
    return depth_difference(
        first.curves, second.curves, axes, paired=True, measure=key.measure, least=least
    )


def group_rows(groups: Mapping[str, Sequence[PreparedRun]]) -> Iterator[dict[str, Any]]:
    """Rows of ``comparison_groups``: the spread over the runs of each group."""
    for name, runs in groups.items():
        for key, every in quantities(runs).items():
            values = np.array([each.draws[0] for each in every])
            spread = {"mean": values.mean(), "sd": values.std(ddof=1), "least": values.min()}
            about = {"group": name, "n_runs": len(runs), "most": values.max()}
            yield about | _key_columns(key, every[0]) | spread


def correct_families(
    rows: Sequence[dict[str, Any]], planned: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """The rows with Holm's correction within each family and over all, and their significance."""
    tested, tests = [], n_tests([row["family"] for row in rows], planned or {})
    for family in COMPARED:
        of_family = correct_rows((row for row in rows if row["family"] == family), tests[family])
        for row in of_family:
            small = abs(row.get("difference", np.inf)) < row.pop(_SMALLEST, 0.0) - 1e-9
            # whether the interval is away from 0, where there is one; the exact test has its own
            away = family == ACCURACY or row["low"] > 0 or row["high"] < 0
            tested.append(row | {"significant": bool(row["p_holm"] < ALPHA and away and not small)})
    whole = sum(tests.values())
    return correct_rows([row | {"run_tests": whole} for row in tested], whole, to="p_run")


def n_tests(families: Sequence[str], planned: Mapping[str, int]) -> dict[str, int]:
    """Number of tests that are corrected together, by family."""
    return {one: max(planned.get(one, 0), list(families).count(one)) for one in COMPARED}


def _key_columns(key: Key, quantity: Quantity) -> dict[str, Any]:
    joined = {"tasks": ",".join(key.tasks), "n_tasks": len(key.tasks)}
    return key._asdict() | joined | {"n_items": quantity.n_items}


def _own_interval(key: Key, quantity: Quantity) -> tuple[float, float]:
    """Bounds (95 %); nan where nothing can be said, or one side has no end."""
    n, draws = quantity.clusters.n, quantity.draws
    if quantity.axis:
        low, high = quantity.axis.depth(np.array(depth_bounds(quantity.curves, key.measure)))
        return float(low), float(high)
    if quantity.loss:
        low, high, _ = quantity.loss.share_bounds(_expanded_bounds(draws, n))
        return float(low[0]), float(high[0])
    if quantity.right is not None:
        return _answer_bounds(draws, n, least=0.0)
    _, low, high = bounds(draws, n)  # of a critical set: resampled tests find more layers
    return min(low, float(draws[0])), max(high, float(draws[0]))


def _answer_bounds(draws: Draws, n: int, least: float) -> tuple[float, float]:
    """Bounds of answers, or of their change, exact ones where all items of the sample are alike."""
    _, low, high = bounds(draws, n)
    if low != high:
        return low, high
    middle, reach = (1 + least) / 2, (1 - least) / 2
    exact = equal_value_bounds(np.array([low - middle]), np.array([n]), reach)
    low, high = (float(end[0]) + middle for end in exact)
    return low, high


def _expanded_bounds(draws: Draws, n: int) -> Ends:
    """Expanded percentile bounds of a share; nan of one item, or where one has no end."""
    ends = stats.percentile_bounds(draws[1:, None], expanded_level(max(n, 2)))
    return ends if n > 1 and np.isfinite(ends).all() else (np.full(1, np.nan), np.full(1, np.nan))
