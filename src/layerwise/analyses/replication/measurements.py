"""Measurements that claims may need beside the answers without each layer, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.execute import JobOfSetup
from layerwise.analyses.head_sets.api import (
    COPYING,
    COST,
    INDUCTION,
    RANDOM_SETS,
    HeadSets,
)
from layerwise.analyses.head_sets.result import HeadSetsResult, join_head_sets
from layerwise.analyses.patching.api import Patching
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.patching.tables import signals_of_pairs
from layerwise.analyses.running_text.api import TextLoss, refused_swaps
from layerwise.analyses.running_text.result import CHANGES, SKIP, TextLossResult
from layerwise.analyses.similarity.api import Similarity
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.analyses.transplant.exchange.spec import TransplantSpec
from layerwise.analyses.transplant.job import Transplant
from layerwise.analyses.transplant.result import TransplantResult
from layerwise.errors import UserError
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.setup import Setup
from layerwise.stats.cells import Cell, cells, layer_skips
from layerwise.storage.base import Result
from layerwise.storage.provenance import Facts, join_facts

from .result import ReplicationResult
from .verdicts.claim import PublishedClaim
from .verdicts.evidence import Evidence
from .verdicts.head_sets import TABLE
from .verdicts.judge import judge

TEXT = "text"
TRAINED = "trained"  # what a claim also needs that compares with a second model
NO_TRAINED = "It compares with a model that was trained from this one; name that by also_distilled."
_CHOOSES, _WRITES = ("continuation",), ("generate",)
_PAIRS = 32  # of a task, of which states are restored


@dataclass(frozen=True)
class Measurement:
    """A measurement, by what makes it and what claims read of it.

    Attributes:
        result: type of its result.
        job: the planned job, of a setup with the tasks of the claims that need it, and of a file
            of text. Raises a ``UserError`` where the model or its tasks do not allow it.
        protocols: ways of scoring that it asks, beside those of layers.
        tables: the tables that claims read, by name, of its result and the answers without layers.
    """

    result: type[Result]
    job: Callable[[Setup, Path | None], JobOfSetup[Any]]
    protocols: tuple[str, ...]
    tables: Callable[[Any, AblationResult | None], Mapping[str, pd.DataFrame]]


def _transplant(setup: Setup, text: Path | None) -> Transplant:
    if not setup.beside:
        raise UserError(NO_TRAINED)
    second = setup.beside[0]
    other = replace(second, tasks=setup.tasks, protocols=setup.protocols)
    layers = tuple(range(setup.model.cfg.n_layers))
    spec = TransplantSpec.for_models(
        setup.model, second.model, "layer", layers, ("single",), 1, False, None, ("weights",)
    )
    return Transplant(setup, other, spec)


def _patching(setup: Setup, text: Path | None) -> Patching:
    if is_seq2seq(setup.model):
        raise UserError(
            "What attention and MLPs restore is asked of decoders alone, but the model has an "
            "encoder; expected a decoder-only model."
        )
    return Patching(
        setup, _PAIRS, ("mlp_out", "attn_out"), positions=("last changed", "last"), align=True,
        strict=False,
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


def _head_sets(
    by: str, rank_on: tuple[str, ...] | None = None, random_sets: int = RANDOM_SETS
) -> Measurement:
    """Sets of heads by one way to rank them, asked to write, beside random sets."""
    return Measurement(
        HeadSetsResult,
        lambda setup, text: HeadSets(setup, by, random_sets=random_sets, rank_on=rank_on),
        _WRITES,
        lambda result, ablation: {TABLE: _with_chance(result)},
    )


def _with_chance(result: HeadSetsResult) -> pd.DataFrame:
    table = result.head_sets
    keys = zip(table["task"], table["protocol"], strict=True)
    return table.assign(chance=[result.facts.chance(task, protocol) for task, protocol in keys])


MEASUREMENTS = {
    "similarity": Measurement(
        SimilarityResult,
        lambda setup, text: Similarity(setup),
        _CHOOSES,
        lambda result, ablation: (
            {} if ablation is None else {"prediction": result.predicts(ablation)}
        ),
    ),
    "patching": Measurement(
        PatchingResult,
        _patching,
        _CHOOSES,
        lambda result, ablation: {"patching": _rows_with_signal(result.patching)},
    ),
    "transplant": Measurement(
        TransplantResult,
        _transplant,
        _CHOOSES,
        lambda result, ablation: {"moved": result.effects()},
    ),
    TEXT: Measurement(
        TextLossResult,
        _running_text,
        (),
        lambda result, ablation: {"text_loss": result.text_loss},
    ),
    "copying heads": _head_sets(COPYING, ("retrieval",)),
    # Two sets are tested, each of which may be the costliest by luck: so twice as many others.
    "costly heads": _head_sets(COST, random_sets=2 * RANDOM_SETS),
    "induction heads": _head_sets(INDUCTION),
}
"""Analyses that ``Needs.also`` may name, beside ``TRAINED``."""


def join_sets_of_heads(results: Sequence[Result]) -> list[Result]:
    """The results with all sets of heads among them made one, behind the others."""
    sets = [result for result in results if isinstance(result, HeadSetsResult)]
    others = [result for result in results if not isinstance(result, HeadSetsResult)]
    return [*others, join_head_sets(sets)] if sets else others


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
        facts: those of the run, where nothing may have been measured.
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
    n_layers = facts.model.n_layers
    evidence = Evidence.from_cells(every, facts.chance, n_layers, tables, settings["missing"])
    if len(trained):
        second = list(cells(layer_skips(trained)))
        evidence = replace(evidence, trained=Evidence.from_cells(second, facts.chance, n_layers))
    verdicts = judge(claims, evidence, settings["claims"])
    return ReplicationResult(**verdicts, trained_records=trained, facts=facts)
