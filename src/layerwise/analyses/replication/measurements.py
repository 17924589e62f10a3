"""Measurements that claims may need beside the answers without each layer, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.execute import JobOfSetup
from layerwise.analyses.head_sets.api import COPYING, COST, INDUCTION, HeadSets
from layerwise.analyses.head_sets.result import HeadSetsResult, join_head_sets
from layerwise.analyses.similarity.api import Similarity
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.runs.setup import Setup
from layerwise.stats.cells import Cell, cells, layer_skips
from layerwise.storage.base import Result
from layerwise.storage.provenance import Facts, join_facts

from .claim import PublishedClaim
from .evidence import Evidence
from .head_sets import TABLE
from .judge import judge
from .result import ReplicationResult


@dataclass(frozen=True)
class Measurement:
    """A measurement, by what makes it and what claims read of it.

    Attributes:
        result: type of its result.
        job: the planned job, of a setup with the tasks of the claims that need it. Raises a
            ``UserError`` where the model or its tasks do not allow it.
        protocols: ways of scoring that it asks, beside those of layers.
        tables: the tables that claims read, by name, of its result and the answers without layers.
    """

    result: type[Result]
    job: Callable[[Setup], JobOfSetup[Any]]
    protocols: tuple[str, ...]
    tables: Callable[[Any, AblationResult | None], Mapping[str, pd.DataFrame]]


def _similarity(setup: Setup) -> Similarity:
    return Similarity(replace(setup, protocols=("continuation",)))


def _head_sets(by: str, rank_on: tuple[str, ...] | None = None) -> Measurement:
    """Sets of heads by one way to rank them, asked to write."""
    return Measurement(
        HeadSetsResult,
        lambda setup: HeadSets(replace(setup, protocols=("generate",)), by, rank_on=rank_on),
        ("generate",),
        lambda result, ablation: {TABLE: _with_chance(result)},
    )


def _with_chance(result: HeadSetsResult) -> pd.DataFrame:
    table = result.head_sets
    keys = zip(table["task"], table["protocol"], strict=True)
    return table.assign(chance=[result.facts.chance(task, protocol) for task, protocol in keys])


MEASUREMENTS = {
    "similarity": Measurement(
        SimilarityResult,
        _similarity,
        ("continuation",),
        lambda result, ablation: (
            {} if ablation is None else {"prediction": result.predicts(ablation)}
        ),
    ),
    "copying heads": _head_sets(COPYING, ("retrieval",)),
    "costly heads": _head_sets(COST),
    "induction heads": _head_sets(INDUCTION),
}
"""What ``Needs.also`` may name."""


def join_measured(results: Sequence[Result]) -> list[Result]:
    """The results with all sets of heads among them made one, behind the others."""
    sets = [result for result in results if isinstance(result, HeadSetsResult)]
    others = [result for result in results if not isinstance(result, HeadSetsResult)]
    return [*others, join_head_sets(sets)] if sets else others


def judge_results(
    claims: Sequence[PublishedClaim], results: Sequence[Result], facts: Facts | None = None
) -> ReplicationResult:
    """Verdicts on claims, from all that was measured of one model.

    ``facts`` are those of the run, where nothing could be measured.
    """
    ablation = next((one for one in results if isinstance(one, AblationResult)), None)
    facts = join_facts([*(result.facts for result in results), *([facts] if facts else [])])
    settings: Any = facts.settings  # the tasks of each claim, and what could not be measured
    tables: dict[str, pd.DataFrame] = {}
    every: list[Cell] = []
    for measurement in MEASUREMENTS.values():
        for result in results:
            if isinstance(result, measurement.result):
                tables |= measurement.tables(result, ablation)
    if ablation is not None:
        every = list(cells(layer_skips(ablation.records)))
        books = ablation.books()
        tables |= {"books": books} if len(books) else {}
    evidence = Evidence.from_cells(
        every, facts.chance, facts.model.n_layers, tables, settings.get("missing", {})
    )
    return ReplicationResult(**judge(claims, evidence, settings["claims"]), facts=facts)
