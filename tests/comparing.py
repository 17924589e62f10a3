"""Made-up runs of different models on the same items, saved, for tests of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.comparison.quantities import PreparedRun, n_comparisons, prepare_run
from layerwise.analyses.comparison.runs import SavedRun
from layerwise.analyses.comparison.tables import correct_families, difference_rows
from layerwise.results import AblationResult
from tests import synthetic

CHANCE = 0.25


def answers(
    rng: np.random.Generator,
    base: np.ndarray,
    hits: dict[int, float],
    n_layers: int = 8,
    noise: float = 0.1,
    accuracy: float = 0.9,
) -> np.ndarray:
    """Right or wrong of a model: intact, then each layer skipped.

    ``base``, the answers that all models share, is answered anew for a share ``noise`` of the
    items in each column; ``hits`` gives the share of items that a layer takes to chance.
    """
    right = np.repeat(base[:, None], n_layers + 1, axis=1)
    again = rng.random(right.shape) < noise
    right = np.where(again, rng.random(right.shape) < accuracy, right)
    for layer, share in hits.items():
        hit = rng.random(len(base)) < share
        right[hit, layer + 1] = rng.random(int(hit.sum())) < CHANCE
    return right


def model(name: str, n_layers: int = 8, n_encoder: int = 0, **changes: Any) -> Any:
    """Facts of a model whose weights are its own."""
    update = {"name": name, "hash": f"{name:0<64}", "n_layers": n_layers}
    return synthetic.MODEL.model_copy(update=update | {"n_encoder_layers": n_encoder} | changes)


def ablation(
    name: str, cells: dict[tuple[str, str, str], np.ndarray], n_encoder: int = 0, **changes: Any
) -> AblationResult:
    """An ablation of the model ``name``: answers by task, capability and protocol."""
    tables = [synthetic.cell_records(right, *key) for key, right in cells.items()]
    n_layers = next(iter(cells.values())).shape[1] - 1
    given = {"model": model(name, n_layers, n_encoder)} | changes
    return synthetic.ablation(*tables, **given)


def save_run(folder: Path, *results: Any) -> Path:
    """The folder, with the results of one run in it, but for what is computed of them.

    That takes most of the time of saving, and no comparison reads it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for result in results:
            patch.setattr(type(result), "derived_tables", lambda _: {})
            result.save(folder)
    return folder


def save_single_task_run(folder: Path, name: str, right: np.ndarray, **changes: Any) -> Path:
    """A saved run with one task of retrieval under ``letter``."""
    return save_run(
        folder / name, ablation(name, {("keys", "retrieval", "letter"): right}, **changes)
    )


def ready(name: str, right: np.ndarray, n_resamples: int = 400, **changes: Any) -> PreparedRun:
    """The same without a folder, with its evidence."""
    result = ablation(name, {("keys", "retrieval", "letter"): right}, **changes)
    return prepare_run(SavedRun(name, None, result.facts, (result,)), 0, n_resamples)


def pair_rows(runs: Sequence[PreparedRun], left_out: list[Any]) -> list[dict[str, Any]]:
    """Corrected differences of every two runs."""
    tested = list(difference_rows({run.run.name: [run] for run in runs}, left_out))
    return correct_families(tested, n_comparisons([[run] for run in runs]))


def row(table: pd.DataFrame, **values: Any) -> pd.Series:
    """The one row of a table with these values."""
    found = table.loc[np.all([table[name] == value for name, value in values.items()], axis=0)]
    assert len(found) == 1, found
    return found.iloc[0]
