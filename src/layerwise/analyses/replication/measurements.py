"""Measurements that claims may need beside the answers without each layer, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.execute import JobOfSetup
from layerwise.analyses.patching.api import Patching
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.patching.tables import signals_of_pairs
from layerwise.analyses.running_text.api import TextLoss, refused_swaps
from layerwise.analyses.running_text.result import CHANGES, SKIP, TextLossResult
from layerwise.analyses.similarity.api import Similarity
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.analyses.transplant.job import Transplant
from layerwise.analyses.transplant.result import TransplantResult
from layerwise.analyses.transplant.spec import TransplantSpec
from layerwise.errors import UserError
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.setup import Setup
from layerwise.stats.cells import Cell, cells, layer_skips
from layerwise.storage.base import Result
from layerwise.storage.provenance import Facts, join_facts

from .claim import PublishedClaim
from .evidence import Evidence
from .judge import judge
from .result import ReplicationResult

_PAIRS = 32  # of a task, of which states are restored


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


_CHOOSES = "continuation"
TRAINED = "trained"  # what a claim also needs that compares with a second model
NO_TRAINED = "It compares with a model that was trained from this one; name that by also_distilled."


def _similarity(setup: Setup, text: Path | None) -> Similarity:
    return Similarity(replace(setup, protocols=(_CHOOSES,)))


def _transplant(setup: Setup, text: Path | None) -> Transplant:
    if not setup.beside:
        raise UserError(NO_TRAINED)
    second = setup.beside[0]
    base = replace(setup, protocols=(_CHOOSES,))
    other = replace(second, tasks=base.tasks, protocols=base.protocols)
    layers = tuple(range(setup.model.cfg.n_layers))
    spec = TransplantSpec.for_models(
        setup.model, second.model, "layer", layers, ("single",), 1, False, None, ("weights",)
    )
    return Transplant(base, other, spec)


def _patching(setup: Setup, text: Path | None) -> Patching:
    if is_seq2seq(setup.model):
        raise UserError(
            "What attention and MLPs restore is asked of decoders alone, but the model has an "
            "encoder; expected a decoder-only model."
        )
    return Patching(
        replace(setup, protocols=("continuation",)), _PAIRS, ("mlp_out", "attn_out"),
        positions=("last changed", "last"), align=True, strict=False,
    )  # fmt: skip


def _rows_with_signal(patching: pd.DataFrame) -> pd.DataFrame:
    """Rows of the tasks of which the model solves more pairs than it has the wrong way round."""
    signals = signals_of_pairs(patching)
    keys = zip(patching["task"], patching["protocol"], strict=True)
    return patching.loc[[bool(signals[key]) for key in keys]]


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
    "transplant": Measurement(
        TransplantResult,
        _transplant,
        lambda result, ablation: {"moved": result.effects()},
    ),
    "patching": Measurement(
        PatchingResult,
        _patching,
        lambda result, ablation: {"patching": _rows_with_signal(result.patching)},
    ),
    TEXT: Measurement(
        TextLossResult, _running_text, lambda result, _: {"text_loss": result.text_loss}
    ),
}
"""What ``Needs.also`` may name, beside ``TRAINED``."""


def judge_results(
    claims: Sequence[PublishedClaim],
    results: Sequence[Result],
    trained: pd.DataFrame,
    facts: Facts | None = None,
) -> ReplicationResult:
    """Verdicts on claims, from all that was measured of one model.

    Args:
        claims: the claims.
        results: what was measured.
        trained: answers of a model that was trained from it; empty if none was asked.
        facts: those of the run; those that all results share if None.
    """
    ablation = next((one for one in results if isinstance(one, AblationResult)), None)
    facts = join_facts([result.facts for result in results]) if facts is None else facts
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
    n_layers = facts.model.n_layers
    missing = settings["missing"]
    evidence = Evidence.from_cells(every, facts.chance, n_layers, tables, missing)
    if len(trained):
        second = list(cells(layer_skips(trained)))
        evidence = replace(evidence, trained=Evidence.from_cells(second, facts.chance, n_layers))
    verdicts = judge(claims, evidence, settings["claims"])
    return ReplicationResult(**verdicts, trained_records=trained, facts=facts)
