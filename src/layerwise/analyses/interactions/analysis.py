"""Interactions of layers: their part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart, saved_tables
from layerwise.errors import UserError, counted
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section, Table, bounds
from layerwise.presentation.wording import HEAD_WORDS, number, spread, spread_of
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .costs import ACCURACY, MARGIN, NATS, measure_of
from .findings import KIND, SIGNAL, caveats, findings, pair_name
from .result import InteractionsResult
from .tables import PAIRS, PERMUTATIONS

_WORDS = (
    "Layers that do the same work look unimportant one at a time. So each was skipped alone, and "
    "all in pairs. Above 0 a pair costs more than its two layers alone together, below 0 less. A "
    "verdict needs nats and margin to agree: a saturated softmax makes any two parts of an answer "
    "look redundant in nats. If both layers alone leave the model guessing, an overlap may be "
    "mere arithmetic."
)
_MOST = 100
_BY = {
    PAIRS: (
        "from all pairs: what a layer costs alone, and half of its interactions (the 2-additive "
        "approximation)"
    ),
    PERMUTATIONS: "from sampled orders of removal: what a layer adds to those removed before",
}


def triangles(run: RunTables) -> list[FigureSpec]:
    """The interactions of all pairs."""
    from .figures import interaction_triangles

    pairs = run.table("interaction_pairs")
    if pairs is None:
        return []
    measure = measure_of(pairs)
    shown = rows(pairs, measure=measure, signal=True)
    if shown.empty:
        return []
    noun = HEAD_WORDS.get(str(shown["site"].iloc[0]), "layer")
    sizes = shown.groupby(["task", "protocol"]).size()
    unit = "accuracy" if measure == ACCURACY else "nats of the answer's log-probability"
    caption = (
        f"What skipping two {noun}s costs beyond the sum of the costs of each alone, in {unit}, "
        f"mean over n = {spread_of(shown['n_items'], 'item')}, in tasks with signal. Red: more "
        "together than alone; blue: less. Dot (redundant) and square (overlapping): significant "
        "in nats and in the margin over the best other option, sign-flip tests over items after "
        f"Benjamini-Hochberg correction over the {spread_of(sizes, 'pair')} (q < 0.05). Ring: "
        "more in nats alone, as parts that add up in the logits. The intervals are in the table "
        "below."
    )
    alt = f"Triangles of interactions, {noun}s by {noun}s, one for each task and protocol."
    draw = partial(interaction_triangles, pairs, measure)
    return [FigureSpec("interactions", draw, caption, alt)]


def values(run: RunTables) -> list[FigureSpec]:
    """Shapley values of layers, a figure for each way of estimation."""
    from .figures import shapley_values

    shapley = run.table("shapley")
    if shapley is None:
        return []
    shown = rows(shapley, signal=True, measure=measure_of(shapley))
    shown = shown.loc[shown["head"].isna()]
    figures = []
    for by in dict.fromkeys(shown["by"]):
        own = rows(shown, by=by)
        caption = (
            f"Shapley values, {_BY[by]}. Lines: bootstrap 95 % intervals over "
            f"n = {spread_of(own['n_items'], 'item')}{_sampling(own)}. Open: the layer skipped "
            "alone."
        )
        alt = "Line charts of Shapley values against the layer, one chart per task."
        draw = partial(shapley_values, own, by, measure_of(own))
        figures.append(FigureSpec(f"shapley_{by}", draw, caption, alt))
    return figures


def _sampling(own: pd.DataFrame) -> str:
    """How far off values may be because not all orders were tried."""
    errors = numbers(own, "se_sampling")
    if np.isnan(errors).all():
        return ""
    return (
        f", for the {spread(own['n_permutations'])} orders that were drawn; other orders would "
        f"change a value by a standard error of up to {number(float(np.nanmax(errors)), 2)}"
    )


def pairs_table(run: RunTables) -> list[Table]:
    """The pairs with the strongest interactions."""
    pairs = run.table("interaction_pairs")
    if pairs is None:
        return []
    shown = rows(pairs, signal=True, measure=measure_of(pairs))
    size = np.abs(numbers(shown, "interaction"))
    ranked = shown.iloc[np.argsort(-size, kind="stable")]
    key = ["task", "protocol", "first_layer", "first_head", "second_layer", "second_head"]
    beside = {name: _by_pair(rows(pairs, measure=name), key) for name in (MARGIN, ACCURACY)}
    unit = "accuracy" if measure_of(pairs) == ACCURACY else "nats"
    cells = []
    for row in records(ranked.head(_MOST)):
        place = tuple(str(row[name]) for name in key)
        margin, accuracy = (beside[name].get(place) for name in (MARGIN, ACCURACY))
        cells.append(
            [
                str(row["task"]), str(row["protocol"]), str(row["n_items"]), pair_name(row),
                number(row["cost_first"], 2), number(row["cost_second"], 2),
                number(row["cost_both"], 2), bounds(row, "interaction", "low", "high", 1, 2),
                bounds(row, "excess", "excess_low", "excess_high", 1, 2),
                f"{row['p_bh']:.3g}", _shown(margin, 1, 2), _shown(accuracy, 100, 0),
                str(row["at_floor"]), "–" if pd.isna(row["verdict"]) else str(row["verdict"]),
            ]
        )  # fmt: skip
    columns = (
        "task", "protocol", "n", "pair", f"first alone ({unit})", "second alone", "both",
        "interaction [95 %]", "beyond pairs with one of them", "q (BH)", "in margin (nats)",
        "in accuracy (points)", "alone leaves it guessing", "verdict",
    )  # fmt: skip
    title = f"Pairs by the size of their interaction ({len(cells)} of {len(ranked)})"
    return [Table(title, columns, cells, True)] if cells else []


def _by_pair(table: pd.DataFrame, key: list[str]) -> dict[tuple[str, ...], dict]:
    return {tuple(str(row[name]) for name in key): row for row in records(table)}


def _shown(row: dict | None, scale: int, digits: int) -> str:
    return "–" if row is None else bounds(row, "interaction", "low", "high", scale, digits)


def values_table(run: RunTables) -> list[Table]:
    """Shapley values in numbers."""
    shapley = run.table("shapley")
    if shapley is None:
        return []
    shown = rows(shapley, signal=True, measure=measure_of(shapley))
    cells = [
        [
            str(row["task"]), str(row["protocol"]), str(row["by"]), _player(row),
            number(row["alone"], 2), bounds(row, "value", "low", "high", 1, 2),
            "–" if pd.isna(row["se_sampling"]) else number(row["se_sampling"], 2),
            number(row["total"], 2),
        ]
        for row in records(shown)
    ]  # fmt: skip
    unit = "accuracy" if measure_of(shapley) == ACCURACY else NATS
    columns = (
        "task", "protocol", "from", "layer", f"alone ({unit})", "Shapley value [95 %]",
        "sampling error", "sum of all",
    )  # fmt: skip
    return [Table(f"Shapley values ({len(cells)})", columns, cells, True)] if cells else []


def _player(row: dict) -> str:
    layer = name_layer(row["layer"])
    return layer if pd.isna(row["head"]) else f"{layer}.{int(row['head'])}"


def sections(run: RunTables) -> list[Section]:
    """Interactions of pairs, Shapley values, and both in numbers."""
    return [
        Section("interactions", "What costs more together than apart", 16, _WORDS,
                (*triangles(run), *values(run)), (*pairs_table(run), *values_table(run)),
                kinds=(KIND,)),
    ]  # fmt: skip


def _tables(result: InteractionsResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return saved_tables(result, others) | {SIGNAL: result.signal()}


def refuse_unpaired(cfg: Any) -> None:
    """Refuse a model that has no two layers, or more pairs of them than are removed."""
    from .spec import MOST_SETS

    n_layers = cfg.n_layers
    n_sets = n_layers + n_layers * (n_layers - 1) // 2
    if n_layers < 2 or n_sets > MOST_SETS:
        raise UserError(
            f"Interactions of all pairs of {counted(n_layers, 'layer')} make "
            f"{counted(n_sets, 'set')}; expected two layers or more, and at most {MOST_SETS:,} "
            "sets: leave 'interactions' out, and run `layerwise interactions` with some layers."
        )


# Under ``generate`` only accuracy is measured, of which no verdict is given.
PROTOCOLS = ("continuation", "letter")


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from .job import Interactions
    from .spec import SetsSpec

    chosen = [name for name in PROTOCOLS if name in start.able.protocols][:1]
    if chosen:
        setup = replace(start.able, protocols=tuple(chosen))
        layers = tuple(range(setup.model.cfg.n_layers))
        spec = SetsSpec.among(
            setup.model, "layer", layers, None, order=2, permutations=0, seed=setup.seed
        )
        yield Interactions(setup, spec)


ANALYSIS = Analysis(
    "interactions", InteractionsResult, sections, findings, caveats, _tables,
    {SIGNAL: "interactions.parquet, its intact model"},
    extras=(
        Extra(
            "interactions", "skip all pairs of layers", _jobs_of_a_profile, planned=True,
            refuse=refuse_unpaired, in_all=False,
        ),
    ),
)  # fmt: skip
