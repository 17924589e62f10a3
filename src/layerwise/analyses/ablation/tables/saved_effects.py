"""The effects of one run: which ablations there are, the rows of one, sets and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.naming import name_layer
from layerwise.presentation.power import detectable_loss_text
from layerwise.presentation.rows import layers_in, numbers, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    LAYER_MAIN,
    count_noun,
    in_order,
    independent,
    interval,
    intervention_phrase,
    layer_ranges,
    number,
    ranges,
)
from layerwise.stats.signals.power import GAINED
from layerwise.storage.run_tables import RunTables

# What is changed at a time: a layer or part of one, a head or key/value group, several at once.
LAYERS, HEADS, SETS = "layers", "heads", "sets"


def effects_of_layers(run: RunTables, *, heads: bool = False) -> pd.DataFrame | None:
    """``effects`` of layers, their parts and sets, or of single heads; None without any."""
    effects = run.table("effects")
    table = None if effects is None else effects.loc[effects["head"].notna() == heads]
    return None if table is None or table.empty else table


def single_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of changes in one layer or part of it, neither heads nor sets."""
    return pd.DataFrame(table.loc[table["head"].isna() & ~is_set(table)])


def _effects_by_kind(run: RunTables, of: str) -> pd.DataFrame:
    effects = effects_of_layers(run, heads=of == HEADS)
    if effects is None:
        return pd.DataFrame(columns=["kind", "site"])
    return pd.DataFrame(effects.loc[is_set(effects) == (of == SETS)])


def select_effects(
    run: RunTables, kind: str, site: str, of: str = LAYERS, **values: Any
) -> pd.DataFrame:
    """The effects of one kind and site, in single layers, heads or sets, with some values."""
    effects = _effects_by_kind(run, of)
    return effects if effects.empty else rows(effects, kind=kind, site=site, **values)


def ablations(run: RunTables, of: str = LAYERS) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in single layers, heads or sets; skips first."""
    return kinds_and_sites(_effects_by_kind(run, of))


def kinds_and_sites(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The kinds and sites of interventions in a table, skipped layers first."""
    return in_order(zip(table["kind"], table["site"], strict=True), (LAYER_MAIN,))


def is_set(effects: pd.DataFrame) -> pd.Series:
    """Mask of rows of several changes made at once: no map of single layers has a place."""
    return effects["layers"].str.len() > 1


def set_name(layers: Sequence[int], heads: Sequence[int | None] | None = None) -> str:
    """``"2–4"``, or ``"2: 0–3; 5: 1"``: the layers, or by layer the heads."""
    if heads is None:
        return layer_ranges(layers)
    of_layer: dict[str, list[int]] = {}
    for layer, head in zip(layers, heads, strict=True):
        if head is not None:
            of_layer.setdefault(name_layer(layer), []).append(head)
    return "; ".join(f"{layer}: {ranges(those)}" for layer, those in of_layer.items())


def sets_noun(site: str) -> str:
    """Name of what a set at a site has in it, as a plural."""
    return f"{HEAD_WORDS.get(site, 'layer')}s"


def points(row: dict[str, Any], sign: int = 1) -> str:
    """Accuracy points with bounds that cover together over all tests of the run."""
    ends = ("low", "high") if sign > 0 else ("high", "low")
    names = ("acc_diff", *(f"acc_diff_run_{end}" for end in ends))
    return f"{interval(*(100 * sign * row[name] for name in names))} accuracy points"


def intervention_words(row: dict[str, Any], where: str | None = None) -> str:
    """Change of a row's layer, or of another place, in words: ``"skipping layer 3"``."""
    return intervention_phrase(
        str(row["kind"]), str(row["site"]), where or f"layer {name_layer(row['layer'])}"
    )


def detectable_effect_text(effects: pd.DataFrame) -> str:
    """Smallest loss of a single layer that a table's items would have shown, in words."""
    n = independent(effects)
    noun = "item" if n == numbers(effects, "n_items").min() else "cluster"
    counts = numbers(effects, "n_gained") / numbers(effects, "n_items")
    gained = min(float(counts.mean()) if np.isfinite(counts).all() else GAINED, 0.45)
    n_layers = len(layers_in(effects))
    shown = detectable_loss_text(n, n_layers, round(gained, 3))
    return (
        f"with {count_noun(n, noun)} {shown} (Holm's correction over "
        f"{count_noun(n_layers, 'layer')}, "
        f"{number(100 * gained, 1)} % of the answers gained by chance, as here)"
    )
