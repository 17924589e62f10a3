"""Corrections for multiple tests: the one place that makes them.

A family is all tests that are corrected together. A table is corrected within its parts (the layers
of one task and protocol, say), and over everything that a run asked. Of many such parts some say
something false, and the largest of all effects is the largest partly by luck. Tasks without signal
are among what was asked, though nothing is claimed of them: of a model that hardly knows the
answers, those with signal are the ones in which it was lucky, and any other answers look like a
loss there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise.stats.inference import benjamini_hochberg, holm


def correct_family(
    p: Float[np.ndarray, "*families tests"], n_tests: int | None = None, *, by_rate: bool = False
) -> Float[np.ndarray, "*families tests"]:
    """Correct p-values over the tests of one family, which is the last axis.

    Args:
        p: the p-values. By Holm's method nan stays nan.
        n_tests: how many tests the family has, if some of them have no p-value here; all given ones
            if None.
        by_rate: control the share of false claims (Benjamini and Hochberg) instead of the chance of
            any (Holm).
    """
    return (benjamini_hochberg if by_rate else holm)(p, n_tests)


def correct_within(table: pd.DataFrame, by: Sequence[str], *, by_rate: bool = False) -> pd.Series:
    """Correct a table's ``p`` over the rows that share columns; nan where a part is not tested."""

    def correct_part(p: pd.Series) -> np.ndarray:
        values = p.to_numpy(dtype=float)
        if np.isnan(values).any():
            return np.full(len(values), np.nan)
        return correct_family(values, by_rate=by_rate)

    return pd.Series(table.groupby(list(by), dropna=False)["p"].transform(correct_part))


def correct_rows(
    rows: Iterable[dict[str, Any]],
    n_tests: int | None = None,
    *,
    by: Sequence[str] = (),
    p: str = "p",
    to: str = "p_holm",
) -> list[dict[str, Any]]:
    """Add p-values after Holm's correction over the rows that share columns, or over more tests."""
    # Rows without the column ``p`` are no tests, and stay as they are.
    corrected = [dict(row) for row in rows]
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (each for each in corrected if p in each):
        families.setdefault(tuple(row[name] for name in by), []).append(row)
    for family in families.values():
        values = correct_family(np.array([row[p] for row in family], dtype=float), n_tests)
        for row, value in zip(family, values.tolist(), strict=True):
            row[to] = value
    return corrected


class Sizes(NamedTuple):
    """Numbers of tests of a run in both families, tasks without signal included."""

    strict: int  # those of which none may be false
    by_rate: int  # those of which a share may be: of heads and cells

    def by_row(
        self, claimed: Bool[np.ndarray, " rows"], by_rate: Bool[np.ndarray, " rows"] | bool = False
    ) -> pd.Series:
        """The column ``run_tests``: how many tests each row is corrected with."""
        sizes = np.where(np.broadcast_to(by_rate, claimed.shape), self.by_rate, self.strict)
        return pd.Series(sizes, dtype="Int64").where(claimed)


def count_tests(
    table: pd.DataFrame,
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    n_asked: int | None = None,
    part: Sequence[str] = ("task", "protocol"),
) -> Sizes:
    """Count a run's tests, tasks without signal included."""
    rate = np.broadcast_to(np.asarray(by_rate, dtype=bool), len(table))
    counts, there = [], table.groupby(list(part)).ngroups
    missing = 0 if n_asked is None else max(n_asked - there, 0)
    for sort in (~rate, rate):
        each = table.loc[sort].groupby(list(part)).size().to_numpy(dtype=int)
        counts.append(int(each.sum() + missing * each.max(initial=0)))
    return Sizes(*counts)


def correct_run_wide(
    p: Float[np.ndarray, " rows"],
    claimed: Bool[np.ndarray, " rows"],
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    sizes: Sizes | None = None,
) -> Float[np.ndarray, " rows"]:
    """Correct p-values over all tests of a run; heads and cells are a family of their own."""
    # Tests of which nothing is claimed count with a p of 1, which is no smaller than their own.
    corrected = np.full(len(p), np.nan)
    rate = np.broadcast_to(np.asarray(by_rate, dtype=bool), corrected.shape)
    whole = sizes or Sizes(int((~rate).sum()), int(rate.sum()))
    for shared, n in zip((False, True), whole, strict=True):
        rows = claimed & (rate == shared)
        corrected[rows] = correct_family(np.asarray(p, dtype=float)[rows], n, by_rate=shared)
    return corrected
