"""Words and rows that the sentences of this study share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from healing_figures import CASES, TASKS

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import join_words

SAID, CHOSEN = "generate", "continuation"
HALF, ALPHA = 0.5, 0.05
Tables = Mapping[str, pd.DataFrame]


def lost_suites(tables: Tables, case: str, protocol: str) -> list[str]:
    """The suites of which a loss is established in every seed, before healing."""
    told = rows(tables["gains"], case=case, protocol=protocol)
    return [task for task in TASKS if rows(told, task=task)["leads"].all()]


def case_gains(tables: Tables, case: str, task: str, protocol: str) -> pd.DataFrame:
    """Losses and gains of a suite in a case, seed by seed."""
    found = rows(tables["gains"], case=case, task=task, protocol=protocol)
    return found.sort_values("seed")


def without_layers_words(case: str) -> str:
    """The beginning of a sentence on a case."""
    layers = CASES[case]
    return f"Without layer{'s' * (len(layers) > 1)} {join_words(map(str, layers))}"


def layer_set(layers: Iterable[int]) -> str:
    """A set of layers."""
    return f"{{{', '.join(map(str, layers))}}}" if layers else "(none)"


def n_items(table: pd.DataFrame) -> int:
    """Items of each test of a table."""
    return int(table["n_items"].iloc[0])


def share_words(values: Sequence[bool] | pd.Series) -> str:
    """Number of values that are so, of how many."""
    return f"{sum(map(bool, values))} of {len(values)}"
