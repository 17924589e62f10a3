"""Item by item: what was asked and answered, intact and without a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError, unknown_name
from layerwise.ground.layer_names import layer_name
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.wording import ranges
from layerwise.stats.effects import INTACT
from layerwise.storage.provenance import Facts

from .questions import KEY
from .saved_effects import kinds_and_sites, single_layers

# What became of an item, in the order in which items are listed.
FATES = ("lost", "gained", "right", "wrong")


def of_task(outcomes: pd.DataFrame, task: str, protocol: str | None) -> pd.DataFrame:
    """The outcomes of one task, under one protocol or all."""
    names = set(outcomes["task"])
    named = task if task in names else Path(task).stem
    if named not in names:
        raise unknown_name("task of this run", task, names)
    own = rows(outcomes, task=named)
    protocols = set(own["protocol"])
    if protocol is not None and protocol not in protocols:
        raise unknown_name(f"protocol of task {named!r} in this run", protocol, protocols)
    return own if protocol is None else rows(own, protocol=protocol)


def records_without_layer(outcomes: pd.DataFrame, layer: int, facts: Facts) -> pd.DataFrame:
    """Records without one layer; of several kinds of change the first (skips before others)."""
    changed = single_layers(outcomes.loc[outcomes["layer"].notna()])
    at = rows(changed, layer=layer)
    for kind, site in kinds_and_sites(at)[:1]:
        return rows(at, kind=kind, site=site)
    n_encoder = facts.model.n_encoder_layers
    layers = sorted({int(number) for number in changed["layer"]})
    there = ranges(layers) if not n_encoder else ", ".join(layer_name(n, n_encoder) for n in layers)
    known = f"layers {there}" if layers else "none, as of a task without signal"
    raise UserError(
        f"The run did not change layer {layer_name(layer, n_encoder)} by itself for this task: "
        f"expected one of those that it changed ({known}); name one of them, or run layerwise "
        "ablate with this layer."
    )


def answers(outcomes: pd.DataFrame, without: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """The frame of ``items``, of all items; of several draws the first."""
    first, other = (
        of.sort_values([name for name in ("draw", "examples") if name in of]).drop_duplicates(KEY)
        for of in (rows(outcomes, kind=INTACT), without)
    )
    names = [*KEY, "intervention", "correct", "margin", "chosen", "generated"]
    both = first[names].merge(other[names], on=KEY, suffixes=("_intact", "_without"))
    both = both.merge(questions, on=KEY, how="left")
    right, still = (both[f"correct_{model}"].astype(bool) for model in ("intact", "without"))
    before, after = (numbers(both, f"margin_{model}") for model in ("intact", "without"))
    options = [given if isinstance(given, list) else [] for given in both["options"]]
    table = both[KEY].assign(
        change=both["intervention_without"],
        fate=np.select([right & ~still, ~right & still, right & still], FATES[:3], FATES[3]),
        prompt=_texts(both["prompt"]),
        question=_texts(both["question"]),
        options=[given or None for given in options],
        gold=_texts(both["gold"]),
        intact=_given_answers(both["chosen_intact"], both["generated_intact"], options),
        without=_given_answers(both["chosen_without"], both["generated_without"], options),
        right_intact=right,
        right_without=still,
        margin_intact=before,
        margin_without=after,
        margin_change=after - before,
    )
    order = table["fate"].map(FATES.index)
    ordered = table.assign(order=order).sort_values(["protocol", "order", "margin_change"])
    return ordered.drop(columns="order").reset_index(drop=True)


def _given_answers(
    chosen: Iterable[Any], written: Iterable[Any], options: Sequence[list[str]]
) -> list[str | None]:
    """The option that was taken of each item, or the text that was written."""
    return [
        text
        if pd.isna(place)
        else of_item[int(place)]
        if int(place) < len(of_item)
        else f"option {int(place) + 1}"
        for place, text, of_item in zip(chosen, _texts(written), options, strict=True)
    ]


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [value.strip() if isinstance(value, str) else None for value in values]
