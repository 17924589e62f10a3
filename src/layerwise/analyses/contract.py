"""What an analysis hands in, so that pages, folders and notebooks need not know it.

A new analysis is one value of this kind in its folder's ``analysis.py`` and a line in
``registry``. What is named here reads tables alone: neither torch nor matplotlib is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim
from layerwise.presentation.section import Section
from layerwise.stats.depth.layer_curves import LeftOut, MethodCurve, Sampling, Signal
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables, TableSource


def saved_tables(result: Result, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """All tables that a result saves, by the names of their files."""
    own = {name: getattr(result, name) for name in result.tables}
    return own | result.derived()


def nothing(run: RunTables) -> list[Any]:
    """What an analysis hands in that has no sections or earns no sentences."""
    return []


@dataclass(frozen=True)
class Curves:
    """Where an analysis' curves over the layers come from, which ``emergence`` joins.

    Attributes:
        words: what makes such curves, after "expected an ...".
        evidence: what a result says of each task, or why it says nothing; given the signal that
            is known of tasks, and the resamples.
        signal: which tasks the model can do, of a result that tests it; other results' curves
            are asked after it is known.
    """

    words: str
    evidence: Callable[[Any, Signal, Sampling], Iterable[MethodCurve | LeftOut]]
    signal: Callable[[Any], Signal] | None = None


@dataclass(frozen=True)
class Analysis:
    """An analysis, as everything that stands across analyses sees it.

    Attributes:
        name: of its folder.
        result: the type of its result, which draws itself by ``plot``.
        sections: its parts of a run's page; none where its tables are missing.
        findings: the sentences that its tables earn, each with its source.
        caveats: sentences that no page leaves out for want of room.
        tables: what of a result its sections and sentences read, given all results of the run.
        files: where such a table is, in words, if it is in no file of its name.
        curves: its curves over the layers; None if it has none.
    """

    name: str
    result: type[Result]
    sections: Callable[[RunTables], Iterable[Section]] = nothing
    findings: Callable[[RunTables], Iterable[Claim]] = nothing
    caveats: Callable[[RunTables], Iterable[Claim]] = nothing
    tables: Callable[[Any, Sequence[Result]], Mapping[str, TableSource]] = saved_tables
    files: Mapping[str, str] = field(default_factory=dict)
    curves: Curves | None = None
