"""The effects of one run: which ablations there are, and the rows of one of them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import LAYER_MAIN, in_order
from layerwise.storage.run_tables import RunTables

from .sets import is_set


def effects_of_layers(run: RunTables) -> pd.DataFrame | None:
    """``effects.parquet`` of layers and their parts, and of sets of them; None without any."""
    return _part(run, single_heads=False)


def effects_of_heads(run: RunTables) -> pd.DataFrame | None:
    """``effects.parquet`` of single heads and key/value groups; None without any."""
    return _part(run, single_heads=True)


def _part(run: RunTables, single_heads: bool) -> pd.DataFrame | None:
    effects = run.table("effects")
    if effects is None:
        return None
    found = effects.loc[effects["head"].notna() == single_heads]
    return None if found.empty else found


def single_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of changes in one layer or part of it, neither heads nor sets."""
    return pd.DataFrame(table.loc[table["head"].isna() & ~is_set(table)])


def has_signal(run: RunTables, task: str, protocol: str) -> bool | None:
    """Whether the intact model is better than blind; None if that was not measured."""
    signal = run.table("signal")
    if signal is None:
        return None
    found = rows(signal, task=task, protocol=protocol)
    return bool(found["signal"].iloc[0]) if len(found) else None


def effects_of(run: RunTables, kind: str, site: str, **values: Any) -> pd.DataFrame:
    """The effects in single layers of one kind and site, and of what else is asked."""
    return _chosen(effects_of_layers(run), kind, site, values)


def head_effects_of(run: RunTables, kind: str, site: str, **values: Any) -> pd.DataFrame:
    """As ``effects_of``, in single heads or key/value groups."""
    return _chosen(effects_of_heads(run), kind, site, values)


def set_effects_of(run: RunTables, kind: str, site: str, **values: Any) -> pd.DataFrame:
    """As ``effects_of``, in blocks and sets that were changed at once."""
    return _chosen(effects_of_layers(run), kind, site, values, sets=True)


def ablations(run: RunTables) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in one layer at a time, skipped layers first."""
    return _kinds_and_sites(effects_of_layers(run))


def head_ablations(run: RunTables) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in one head or key/value group at a time."""
    return _kinds_and_sites(effects_of_heads(run))


def set_ablations(run: RunTables) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in several layers or heads at once."""
    return _kinds_and_sites(effects_of_layers(run), sets=True)


def _kinds_and_sites(effects: pd.DataFrame | None, sets: bool = False) -> list[tuple[str, str]]:
    if effects is None:
        return []
    return kinds_and_sites(effects.loc[is_set(effects) == sets])


def kinds_and_sites(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in a table, skipped layers first."""
    return in_order(zip(table["kind"], table["site"], strict=True), (LAYER_MAIN,))


def _chosen(
    effects: pd.DataFrame | None, kind: str, site: str, values: dict[str, Any], sets: bool = False
) -> pd.DataFrame:
    if effects is None:
        return pd.DataFrame()
    return rows(effects.loc[is_set(effects) == sets], kind=kind, site=site, **values)
