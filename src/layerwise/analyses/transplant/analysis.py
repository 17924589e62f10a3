"""A transplant's part of the page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from layerwise.analyses.contract import Analysis, PlannableAnalysis, PlannedJobs, PlanOptions
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.section import FigureSpec, Section, Table, not_shown_note
from layerwise.presentation.wording import HEAD_WORDS, count_range, protocol_phrase, spread
from layerwise.storage.run_tables import RunTables

from .exchange.names import (
    BRINGS,
    BY_HEAD,
    EXCHANGES,
    FROM_FIRST,
    FROM_LAST,
    OF_NO_LAYER,
    OUTSIDE,
    SINGLE,
    WEIGHTS,
)
from .findings import KIND, caveats, findings
from .result import DISTANCES, EFFECTS, GAPS, GREEDY, RANKS, TransplantResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

_WORDS = (
    "Layers of one model were put into another of the same architecture, in both directions. The "
    "better model’s layer in the other shows what that layer brings. The other’s layer in the "
    "better model shows what is lost without it. A layer that only destroys may merely not fit "
    "among the others. Only one that also brings something carries the difference. Embeddings, "
    "last norm and unembedding stay those of the model that is changed."
)
_MOST_ROWS = 200
_TABLES = {
    "transplant_gaps": (GAPS, "The gap between the two models"),
    "transplant_effects": (EFFECTS, "What moves"),
    "transplant_greedy": (GREEDY, "Chosen one after the other, each as the one that moves most"),
    "transplant_ranks": (RANKS, "Is where weights differ most where the gap moves most?"),
    "transplant_distances": (DISTANCES, "Distance of weights, relative to the base's"),
}
_NOTES = {
    "transplant_greedy": "Some items chose the order of layers, and the others show what moves. "
    "Other items may choose another order.",
}


def _figures(run: RunTables) -> list[FigureSpec]:
    """Shares of the gap by layer and by head, a figure for each way of choosing them."""
    from .figures import gap_share_by_layer

    effects = run.table("transplant_effects")
    if effects is None:
        return []
    figures = _head_figures(effects)
    for chosen, exchange in product((SINGLE, FROM_FIRST, FROM_LAST), EXCHANGES):
        shown = rows(effects, set=chosen, t=1.0, signal=True, exchange=exchange)
        # Sets of heads and weights outside of the layers have no place in a chart of layers.
        if set(shown["site"]) <= {*BY_HEAD, *OF_NO_LAYER}:
            continue
        what = "layers" if exchange == WEIGHTS else "what leaves layers"
        caption = (
            f"Share of the gap in accuracy between the two models that moves with {what}, by task "
            f"and way of scoring where there is such a gap. Filled: {what} of the better model "
            f"put into the other (brings); open: {what} of the other put into the better model "
            "(destroys); 100 % is all of the gap. Lines: 95 % intervals, paired bootstrap over "
            f"n = {count_range(shown['n_items'], 'item')}; they are cut off at the panel's edge."
        )
        alt = "Line charts of the share of the gap moved against the layer, one chart per task."
        draw = partial(gap_share_by_layer, effects, chosen, exchange=exchange)
        figures.append(FigureSpec(_figure_name(chosen, exchange), draw, caption, alt))
    return figures


def _head_figures(effects: pd.DataFrame) -> list[FigureSpec]:
    """Shares of the gap by layer and head, a figure for each protocol and direction."""
    from .figures import gap_share_by_head

    single = rows(effects, set=SINGLE, t=1.0, signal=True)
    figures = []
    for key, shown in single.loc[single["head"].notna()].groupby(
        ["exchange", "protocol", "direction"], sort=True
    ):
        exchange, protocol, direction = map(str, key)
        noun = HEAD_WORDS[str(shown["site"].iloc[0])]
        what = noun if exchange == WEIGHTS else f"{noun}'s output"
        models = ("better model's put into the other", "other model's put into the better model")
        caption = (
            f"Share of the gap in accuracy between the two models that moves with one {what}: the "
            f"{models[direction != BRINGS]}, {protocol_phrase(protocol)}, on n = "
            f"{spread(shown['n_items'])} "
            f"items. Dots: significant after Holm's correction over the {noun}s of a panel. The "
            "intervals are in the table."
        )
        alt = f"Heat maps of layers by {noun}s, one per task: the share of the gap that moves."
        draw = partial(gap_share_by_head, effects, direction, protocol, exchange=exchange)
        name = _figure_name(f"{direction}_{protocol}", exchange)
        figures.append(FigureSpec(name, draw, caption, alt))
    return figures


def _figure_name(part: str, exchange: str) -> str:
    return f"transplant_{part}" + ("" if exchange == WEIGHTS else f"_{exchange}")


def _tables(run: RunTables) -> list[Table]:
    """The tables that have rows, all but the gaps to be opened."""
    tables = []
    for name, (columns, title) in _TABLES.items():
        table = run.table(name)
        if table is None or table.empty:
            continue
        left = not_shown_note(len(table), _MOST_ROWS, f"are in {name}.parquet")
        shown, note = cells(columns, table.head(_MOST_ROWS)), _NOTES.get(name, "")
        if name == "transplant_distances":
            apart = int((numbers(rows(table, site=OUTSIDE), "distance") > 0).sum())
            note = (
                f"Outside of the layers {apart} weights differ; no exchange of layers moves these."
                if apart
                else "Outside of the layers the weights are the same."
            )
        collapsed = name != "transplant_gaps"
        tables.append(Table(title, heads(columns), shown, collapsed, f"{note} {left}".strip()))
    return tables


def sections(run: RunTables) -> list[Section]:
    """Exchanged layers and what moves with them, and how far weights are apart."""
    if run.table("transplant_gaps") is None:
        return []
    return [
        Section(
            "transplant", "What moves with which layers", 18, _WORDS,
            tuple(_figures(run)), tuple(_tables(run)), kinds=(KIND,),
        )
    ]  # fmt: skip


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from layerwise.runs.setup import check_layers

    from .exchange.spec import TransplantSpec
    from .job import Transplant

    layers, named = check_layers(options["layers"], setup.model), options["layers"] is not None
    spec = TransplantSpec.for_models(
        setup.model, setup.model, options["site"] or "layer", layers, (SINGLE,), 1, named
    )
    notes = (
        "The other model is taken to be of the same size, and every task to have a gap between the "
        "two under every protocol: without one no layers are exchanged. Greedy searches and "
        "activations come on top.",
    )
    return PlannedJobs({"transplant": Transplant(setup, setup, spec)}, notes)


ANALYSIS = Analysis(
    "transplant", TransplantResult, sections, findings, caveats,
    plans=(PlannableAnalysis("transplant", _planned_jobs, options=("site", "layers")),),
    done={
        "transplant_effects": "Layers were exchanged with those of another model.",
    },
)  # fmt: skip
