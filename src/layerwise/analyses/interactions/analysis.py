"""Interactions of layers: their part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart, saved_tables
from layerwise.errors import UserError, count_noun
from layerwise.presentation.columns import (
    Column,
    as_text,
    estimate_column,
    number_column,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import HEAD_WORDS, count_range, number, spread
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .findings import KIND, SIGNAL, caveats, findings, pair_name
from .result import InteractionsResult
from .tables import ACCURACY, MARGIN, PAIRS, PERMUTATIONS, player_name, shown_measure

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


def _pairs(run: RunTables) -> tuple[list[FigureSpec], list[Table]]:
    """The interactions of all pairs; in numbers the strongest, margin and accuracy beside."""
    from .figures import interaction_triangles

    pairs = run.table("interaction_pairs")
    if pairs is None:
        return [], []
    measure = shown_measure(pairs)
    shown = rows(pairs, measure=measure, signal=True)
    if shown.empty:
        return [], []
    noun = HEAD_WORDS.get(str(shown["site"].iloc[0]), "layer")
    sizes = shown.groupby(["task", "protocol"]).size()
    unit = "accuracy" if measure == ACCURACY else "nats of the answer's log-probability"
    caption = (
        f"What skipping two {noun}s costs beyond the sum of the costs of each alone, in {unit}, "
        f"mean over n = {count_range(shown['n_items'], 'item')}, in tasks with signal. Red: more "
        "together than alone; blue: less. Dot (redundant) and square (overlapping): significant "
        "in nats and in the margin over the best other option, three tests over items after "
        f"Benjamini-Hochberg correction over the {count_range(sizes, 'pair')} (q < 0.05). Ring: "
        "more in nats alone, as parts that add up in the logits. The intervals are in the table "
        "below."
    )
    alt = f"Triangles of interactions, {noun}s by {noun}s, one for each task and protocol."
    draw = partial(interaction_triangles, pairs, measure)
    ranked = shown.sort_values("interaction", key=abs, ascending=False, kind="stable")
    top, key = ranked.head(_MOST), ["task", "protocol"]
    key += ["first_layer", "first_head", "second_layer", "second_head"]
    for other in (MARGIN, ACCURACY):
        beside = rows(pairs, measure=other)[[*key, "interaction", "low", "high"]]
        top = top.merge(beside.set_axis([*key, other, f"{other}_low", f"{other}_high"], axis=1),
                        on=key, how="left")  # fmt: skip
    columns = (
        *plain("task", "protocol"), text_column("n", "n_items"), Column("pair", pair_name),
        number_column(f"first alone ({measure})", "cost_first", 1, 2),
        number_column("second alone", "cost_second", 1, 2),
        number_column("both", "cost_both", 1, 2),
        estimate_column("interaction [95 %]", "interaction", "", 1, 2),
        estimate_column("beyond pairs with one of them", "excess", "excess_", 1, 2),
        p_column("q (BH)", "p_bh"),
        estimate_column("in margin (nats)", MARGIN, f"{MARGIN}_", 1, 2),
        estimate_column("in accuracy (points)", ACCURACY, f"{ACCURACY}_", 100),
        text_column("alone leaves it guessing", "at_floor"), text_column("verdict", "verdict"),
    )  # fmt: skip
    title = f"Pairs by the size of their interaction ({len(top)} of {len(ranked)})"
    return [FigureSpec("interactions", draw, caption, alt)], [as_text(title, columns, top)]


def _values(run: RunTables) -> tuple[list[FigureSpec], list[Table]]:
    """Shapley values of layers, a figure for each way of estimation, and in numbers."""
    from .figures import shapley_values

    shapley = run.table("shapley")
    if shapley is None:
        return [], []
    measure = shown_measure(shapley)
    able = rows(shapley, signal=True, measure=measure)
    if able.empty:
        return [], []
    figures = []
    for by, shown in able.loc[able["head"].isna()].groupby("by", sort=False):
        errors, sampling = numbers(shown, "se_sampling"), ""
        if np.isfinite(errors).any():
            sampling = (
                f", for the {spread(shown['n_permutations'])} orders that were drawn; other orders "
                "would change a value by a standard error of up to "
                f"{number(float(np.nanmax(errors)), 2)}"
            )
        caption = (
            f"Shapley values, {_BY[str(by)]}. Lines: bootstrap 95 % intervals over "
            f"n = {count_range(shown['n_items'], 'item')}{sampling}. Open: the layer skipped alone."
        )
        alt = "Line charts of Shapley values against the layer, one chart per task."
        draw = partial(shapley_values, shown, str(by), measure)
        figures.append(FigureSpec(f"shapley_{by}", draw, caption, alt))
    columns = (
        *plain("task", "protocol"), text_column("from", "by"),
        Column("layer", lambda row: player_name(row["layer"], row["head"])),
        number_column(f"alone ({measure})", "alone", 1, 2),
        estimate_column("Shapley value [95 %]", "value", "", 1, 2),
        number_column("sampling error", "se_sampling", 1, 2),
        number_column("sum of all", "total", 1, 2),
    )  # fmt: skip
    return figures, [as_text("Shapley values ({n})", columns, able)]


def sections(run: RunTables) -> list[Section]:
    """Interactions of pairs, Shapley values, and both in numbers."""
    (triangles, pairs), (values, in_numbers) = _pairs(run), _values(run)
    return [
        Section("interactions", "What costs more together than apart", 16, _WORDS,
                (*triangles, *values), (*pairs, *in_numbers), kinds=(KIND,)),
    ]  # fmt: skip


def refuse_model_without_pairs(cfg: Any) -> None:
    """Refuse a model that has no two layers, or more pairs of them than are removed."""
    from .job import MOST_SETS

    n_layers = cfg.n_layers
    n_sets = n_layers + n_layers * (n_layers - 1) // 2
    if n_layers < 2 or n_sets > MOST_SETS:
        raise UserError(
            f"Interactions of all pairs of {count_noun(n_layers, 'layer')} make "
            f"{count_noun(n_sets, 'set')}; expected two layers or more, and at most {MOST_SETS:,} "
            "sets: leave 'interactions' out, and run `layerwise interactions` with some layers."
        )


# Under ``generate`` only accuracy is measured, of which no verdict is given.
PROTOCOLS = ("continuation", "letter")


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from .job import Interactions, SetsSpec

    chosen = [name for name in PROTOCOLS if name in start.able.protocols][:1]
    if chosen:
        setup = replace(start.able, protocols=tuple(chosen))
        layers = tuple(range(setup.model.cfg.n_layers))
        spec = SetsSpec.from_layers(
            setup.model, "layer", layers, None, order=2, permutations=0, seed=setup.seed
        )
        yield Interactions(setup, spec)


ANALYSIS = Analysis(
    "interactions", InteractionsResult, sections, findings, caveats,
    lambda result, others: saved_tables(result, others) | {SIGNAL: result.signal()},
    {SIGNAL: "interactions.parquet, its intact model"},
    extras=(
        Extra(
            "interactions", "skip all pairs of layers", _jobs_of_a_profile, planned=True,
            refuse=refuse_model_without_pairs, in_all=False,
        ),
    ),
    done={
        "interaction_pairs": "Pairs of layers were removed together.",
        "shapley": "Shapley values of layers were estimated.",
    },
)  # fmt: skip
