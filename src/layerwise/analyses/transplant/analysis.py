"""A transplant: its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from layerwise.analyses.contract import Analysis, Planned, PlannedJobs, PlanOptions
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import FigureSpec, Section, Table, others
from layerwise.presentation.wording import HEAD_WORDS, spread, spread_of, when
from layerwise.storage.run_tables import RunTables

from .columns import DISTANCES, EFFECTS, GAPS, GREEDY, RANKS
from .findings import caveats, findings
from .names import (
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
from .naming import KIND
from .result import TransplantResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

_WORDS = (
    "Layers of one model were put into another of the same architecture, in both directions. The "
    "better model’s layer in the other shows what that layer brings. The other’s layer in the "
    "better model shows what is lost without it. A layer that only destroys may merely not fit "
    "among the others. Only one that also brings something carries the difference. Embeddings, "
    "last norm and unembedding stay those of the model that is changed."
)
_MOST = 200


def _figures(run: RunTables) -> list[FigureSpec]:
    """Shares of the gap by layer, a figure for each way of choosing layers."""
    from .figures import moved_by_layer

    effects = run.table("transplant_effects")
    if effects is None:
        return []
    figures = _of_heads(effects)
    for chosen, exchange in product((SINGLE, FROM_FIRST, FROM_LAST), EXCHANGES):
        shown = rows(effects, set=chosen, t=1.0, signal=True, exchange=exchange)
        # Neither sets of heads nor what is of no layer have a place in a chart of layers.
        if set(shown["site"]) <= {*BY_HEAD, *OF_NO_LAYER}:
            continue
        what = "layers" if exchange == WEIGHTS else "what leaves layers"
        caption = (
            f"Share of the gap in accuracy between the two models that moves with {what}, by task "
            f"and protocol where there is such a gap. Filled: {what} of the better model put into "
            f"the other (brings); open: {what} of the other put into the better model (destroys); "
            "100 % is all of the gap. Lines: 95 % intervals, paired bootstrap over "
            f"n = {spread_of(shown['n_items'], 'item')}; they are cut off at the panel's edge."
        )
        alt = "Line charts of the share of the gap moved against the layer, one chart per task."
        draw = partial(moved_by_layer, effects, chosen, exchange=exchange)
        suffix = "" if exchange == WEIGHTS else f"_{exchange}"
        figures.append(FigureSpec(f"transplant_{chosen}{suffix}", draw, caption, alt))
    return figures


def _of_heads(effects: pd.DataFrame) -> list[FigureSpec]:
    """Shares of the gap by layer and head, a figure for each protocol and direction."""
    from .figures import moved_by_head

    alone = rows(effects, set=SINGLE, t=1.0, signal=True)
    figures = []
    for (exchange, protocol, direction), shown in alone.loc[alone["head"].notna()].groupby(
        ["exchange", "protocol", "direction"], sort=True
    ):
        noun = HEAD_WORDS[str(shown["site"].iloc[0])]
        what = noun if exchange == WEIGHTS else f"{noun}'s output"
        whose = "better model's" if direction == BRINGS else "other model's"
        host = "other" if direction == BRINGS else "better model"
        caption = (
            f"Share of the gap in accuracy between the two models that moves with one {what}: the "
            f"{whose} put into the {host}, {when(str(protocol))}, on n = "
            f"{spread(shown['n_items'])} items. Dots: significant after Holm's "
            f"correction over the {noun}s of a panel. The intervals are in the table below."
        )
        alt = f"Heat maps of layers by {noun}s, one per task: the share of the gap that moves."
        draw = partial(
            moved_by_head, effects, str(direction), str(protocol), exchange=str(exchange)
        )
        suffix = "" if exchange == WEIGHTS else f"_{exchange}"
        figures.append(FigureSpec(f"transplant_{direction}_{protocol}{suffix}", draw, caption, alt))
    return figures


def _tables(run: RunTables) -> list[Table]:
    tables = []
    gaps = run.table("transplant_gaps")
    if gaps is not None:
        tables.append(Table("The gap between the two models", heads(GAPS), cells(GAPS, gaps)))
    effects = run.table("transplant_effects")
    if effects is not None:
        shown = effects.head(_MOST)
        left = others(len(effects), len(shown), "are in transplant_effects.parquet")
        title, moved = f"What moves ({len(shown)})", cells(EFFECTS, shown)
        tables.append(Table(title, heads(EFFECTS), moved, True, left))
    greedy = run.table("transplant_greedy")
    if greedy is not None and len(greedy):
        title = "Chosen one after the other, each as the one that moves most"
        note = (
            "Some items chose the order of layers, and the others show what moves. Other items "
            "may choose another order."
        )
        tables.append(Table(title, heads(GREEDY), cells(GREEDY, greedy), True, note))
    ranks = run.table("transplant_ranks")
    if ranks is not None:
        title = "Is where weights differ most where the gap moves most?"
        tables.append(Table(title, heads(RANKS), cells(RANKS, ranks), True))
    distances = run.table("transplant_distances")
    if distances is not None:
        title = "Distance of weights, relative to the base's"
        apart = sum(1 for row in records(distances) if row["site"] == OUTSIDE and row["distance"])
        note = (
            f"Outside of the layers {apart} weights differ; no exchange of layers moves these."
            if apart
            else "Outside of the layers the weights are the same."
        )
        distances_cells = cells(DISTANCES, distances)
        tables.append(Table(title, heads(DISTANCES), distances_cells, True, note))
    return tables


def sections(run: RunTables) -> list[Section]:
    """What moves with which layers, and how far weights are apart."""
    if run.table("transplant_gaps") is None:
        return []
    return [
        Section(
            "transplant", "What moves with which layers", 18, _WORDS,
            tuple(_figures(run)), tuple(_tables(run)), kinds=(KIND,),
        )
    ]  # fmt: skip


_NOTES = (
    "The other model is taken to be of the same size, and every task to have a gap between the two "
    "under every protocol: without one no layers are exchanged. Greedy searches and activations "
    "come on top.",
)


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from layerwise.runs.setup import check_layers

    from .job import Transplant
    from .spec import TransplantSpec

    layers, named = check_layers(options["layers"], setup.model), options["layers"] is not None
    spec = TransplantSpec.of(
        setup.model, setup.model, options["site"] or "layer", layers, (SINGLE,), 1, named
    )
    return PlannedJobs({"transplant": Transplant(setup, setup, spec)}, _NOTES)


ANALYSIS = Analysis(
    "transplant", TransplantResult, sections, findings, caveats,
    plans=(Planned("transplant", _planned_jobs, options=("site", "layers")),),
)  # fmt: skip
