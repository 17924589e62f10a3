"""Direct logit attribution: its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, saved_tables
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.gates import gate_tables
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table, others
from layerwise.presentation.wording import HEAD_WORDS, PROTOCOL_ORDER, in_order, spread
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .columns import CONTRIBUTIONS
from .curves import attribution_evidence
from .findings import ATTRIBUTION, attributions
from .result import AttributionResult
from .tables import HEADS, SUBLAYERS, attribution_gate

_ATTRIBUTION_WORDS = (
    "The logits are read from a sum of what all layers and heads wrote, so each one's own share "
    "can be told exactly. It is only what a part writes itself: a layer on which others build may "
    "have none."
)
_RIGHT = "the answer's first token above those of the other choices"
_MOST = 200
_ATTRIBUTED_HEADS = {"z": "attribution_heads", "cross_z": "attribution_cross_heads"}
_THROUGH_CROSS = (
    " The encoder's parts act through cross-attention, whose patterns are held: with its embedding "
    "and biases they are what the decoder's cross-attention adds, taken apart in another way."
)


def _figures(run: RunTables) -> list[FigureSpec]:
    """What layers and heads add to the answer, a figure of each for each protocol with signal."""
    from .figures import attribution_heads, attribution_lines

    attribution = run.table("attribution_summary")
    if attribution is None:
        return []
    found, two = [], stacks().n_encoder > 0
    shown = rows(attribution, metric="logit_diff", signal=True)
    for protocol in in_order(shown["protocol"], PROTOCOL_ORDER):
        items = spread(rows(shown, protocol=protocol)["n_items"])
        where = "where the answer begins" if two else "last position"
        what = (
            f"to the answer's first token against the other choices' ({protocol} prompts, {where}, "
            f"n = {items} items a task, tasks with signal)"
        )
        lines = (
            f"What each sublayer of each layer adds directly {what}: logit difference in nats, "
            "mean over items, with bootstrap 95 % intervals. Filled markers: not 0 after Holm's "
            "correction over the layers. Layers that prepare what others write are not credited."
            f"{_THROUGH_CROSS if two else ''}"
        )
        alt = "of what each {} adds to the logit difference, one chart per task."
        draw = partial(attribution_lines, shown, protocol)
        found.append(
            FigureSpec(f"attribution_{protocol}", draw, lines, f"Line charts {alt.format('layer')}")
        )
        for component, name in _ATTRIBUTED_HEADS.items():
            if rows(shown, component=component).empty:
                continue
            head = HEAD_WORDS[component]
            grey = " Grey: no such head." if two and component == "z" else ""
            heads = (
                f"What each {head} adds directly {what}: logit difference in nats, mean over "
                "items. Dots: not 0 after Benjamini-Hochberg correction over all heads of the "
                f"task. The largest, with their intervals, are in the table below.{grey}"
                f"{_THROUGH_CROSS if two and component == 'z' else ''}"
            )
            draw = partial(attribution_heads, shown, protocol, component=component)
            found.append(
                FigureSpec(f"{name}_{protocol}", draw, heads, f"Heat maps {alt.format(head)}")
            )
    return found


def attribution_tables(run: RunTables) -> list[Table]:
    """The parts that add most to the logit difference, of tasks with signal."""
    attribution = run.table("attribution_summary")
    if attribution is None:
        return []
    found = rows(attribution, metric="logit_diff", component=[*SUBLAYERS, *HEADS])
    silent = sorted(set(rows(found, signal=False)["task"]))
    mine = rows(found, signal=True)
    ranked = mine.iloc[(-abs(numbers(mine, "value"))).argsort(kind="stable")]
    shown = cells(CONTRIBUTIONS, ranked.head(_MOST))
    note = others(len(ranked), len(shown), "are in attribution_summary.parquet")
    if stacks().n_encoder:
        note = f"{note} What the encoder's parts add is within what cross-attention adds.".strip()
    if silent:
        note = f"{note} No signal, so left out: {', '.join(silent)}.".strip()
    title = f"Largest contributions to the logit difference ({len(shown)} of {len(ranked)})"
    return [Table(title, heads(CONTRIBUTIONS), shown, True, note)]


def sections(run: RunTables) -> list[Section]:
    """What layers and heads write, and the largest contributions in numbers."""
    return [
        Section("attribution", "Direct logit attribution", 50, _ATTRIBUTION_WORDS,
                tuple(_figures(run)),
                (*gate_tables(run, "attribution_gate", _RIGHT, "guessing among choices (%)"),
                 *attribution_tables(run)), kinds=(ATTRIBUTION,)),
    ]  # fmt: skip


def _with_gate(result: AttributionResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    own = attribution_gate(result.attribution)
    return saved_tables(result, others) | {"attribution_gate": own}


ANALYSIS = Analysis(
    "attribution",
    AttributionResult,
    sections,
    attributions,
    tables=_with_gate,
    files={"attribution_gate": "attribution.parquet, answers counted"},
    curves=Curves("attribution", attribution_evidence),
)
