"""Measurements that claims may need beside the answers without each layer, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.execute import JobOfSetup
from layerwise.analyses.running_text.api import TextLoss, refused_swaps
from layerwise.analyses.running_text.result import CHANGES, SKIP, TextLossResult
from layerwise.analyses.similarity.api import Similarity
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.runs.setup import Setup
from layerwise.stats.cells import Cell, cells, layer_skips
from layerwise.storage.base import Result
from layerwise.storage.provenance import join_facts

from .claim import PublishedClaim
from .evidence import Evidence
from .judge import judge
from .result import ReplicationResult


@dataclass(frozen=True)
class Measurement:
    """A measurement, by what makes it and what claims read of it.

    Attributes:
        result: type of its result.
        job: the planned job, of a setup with the tasks of the claims that need it, and of a file
            of text. Raises a ``UserError`` where the model or its tasks do not allow it.
        tables: the tables that claims read, by name, of its result and the answers without layers.
    """

    result: type[Result]
    job: Callable[[Setup, Path | None], JobOfSetup[Any]]
    tables: Callable[[Any, AblationResult | None], Mapping[str, pd.DataFrame]]


def _similarity(setup: Setup, text: Path | None) -> Similarity:
    return Similarity(replace(setup, protocols=("continuation",)))


def _running_text(setup: Setup, text: Path | None) -> TextLoss:
    model = setup.model
    possible = len(refused_swaps(model)) < model.cfg.n_layers - 1
    alone = replace(setup, tasks=(), protocols=())
    return TextLoss.for_setup(alone, text, CHANGES if possible else (SKIP,))


TEXT = "text"
MEASUREMENTS = {
    "similarity": Measurement(
        SimilarityResult,
        _similarity,
        lambda result, ablation: (
            {} if ablation is None else {"prediction": result.predicts(ablation)}
        ),
    ),
    TEXT: Measurement(
        TextLossResult, _running_text, lambda result, _: {"text_loss": result.text_loss}
    ),
}
"""What ``Needs.also`` may name."""


def judge_results(claims: Sequence[PublishedClaim], results: Sequence[Result]) -> ReplicationResult:
    """Verdicts on claims, from all that was measured of one model."""
    ablation = next((one for one in results if isinstance(one, AblationResult)), None)
    facts = join_facts([result.facts for result in results])
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
