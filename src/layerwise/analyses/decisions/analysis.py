"""Sequential decisions: sentences, part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.analyses.contract import (
    Analysis,
    PlannableAnalysis,
    PlannedJobs,
    PlanOptions,
    saved_tables,
)
from layerwise.presentation import claim
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    few_layers,
    in_order,
    protocol_phrase,
    spread,
)
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.crossings import CROSSING
from layerwise.stats.sequential.ordered_pools import NATS
from layerwise.storage.run_tables import RunTables

from .result import COLUMNS, DecisionsResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

# Layers on a crossing; the other two are kinds of claims that every page knows.
CROSSED = "crossing layers"
_KINDS = {NEEDED: claim.NEEDED, SPARE: claim.SPARED, CROSSING: CROSSED}
_WORDS = (
    "Each layer was asked items in rounds, in an order that the seed fixed, until all that was "
    "asked of it was decided. The chance that any verdict on a question is false is at most 5 %, "
    "whenever one stops. An interval here is a confidence sequence: it holds at every item."
)
_MOST = 300
_SAYS = {NEEDED: "needs", SPARE: "can spare, one at a time,", CROSSING: "depends in particular on"}
_NONE = {
    NEEDED: "no layer is shown to be needed", SPARE: "no layer is shown to be spare",
    CROSSING: "no layer is shown to cross with another capability's",
}  # fmt: skip
_CAVEATS = {
    NEEDED: "Skipping a layer shows what breaks without it, not what it does.",
    SPARE: "Nothing is shown about leaving out several.",
    CROSSING: "Another capability depends on another layer in the same sense.",
}


def findings(run: RunTables) -> list[claim.Claim]:
    """Layers decided for each capability, or that none is."""
    table = run.table("decisions")
    if table is None or table.empty:
        return []
    return [
        _claim(about, str(capability), question)
        for question in (NEEDED, CROSSING, SPARE)
        for capability in in_order(table["capability"], CAPABILITY_ORDER)
        if len(about := rows(table, capability=capability, question=question))
    ]


def _claim(about: pd.DataFrame, capability: str, question: str) -> claim.Claim:
    sure = pd.DataFrame(about.loc[about["established"]])
    n_tests = int(about["n_tests"].iloc[0])
    where = {"capability": capability, "question": question}
    protocols = tuple(in_order(about["protocol"], PROTOCOL_ORDER))
    common: dict[str, Any] = {
        "kind": _KINDS[question],
        "capabilities": (capability,),
        "tasks": tuple(dict.fromkeys(", ".join(about["tasks"]).split(", "))),
        "protocols": protocols,
        "test": "bets that hold whenever one stops, sequential Holm over "
        f"{n_tests} {'hypothesis' if n_tests == 1 else 'hypotheses'}",
        "items": f"{spread(about['n_items'])} of {spread(about['n_all'])} answers a layer",
        "caveat": _CAVEATS[question],
    }
    if sure.empty:
        short = f"{capitalise(capability)}: {_NONE[question]}."
        least = float(numbers(about, "p_holm").min())
        told = claim.source("decisions", where)
        return claim.Claim(short=short, evidence=claim.OPEN, p=least, source=told, **common)
    order = sure.sort_values("estimate", ascending=question == SPARE, kind="stable")
    quoted = records(order)[0]
    unit = "nats" if quoted["measure"] == NATS else "of 1 in accuracy"
    n_open = len(about) - len(sure)
    return claim.Claim(
        short=f"{capitalise(capability)} {_SAYS[question]} {_layers_by_protocol(sure, protocols)}; "
        f"it took {spread(sure['n_items'])} answers.",
        evidence=claim.ESTABLISHED,
        importance=claim.weight(1.0 if question == NEEDED else 0.8, len(sure) / len(about)),
        layers=tuple(layers_in(sure)),
        details=(f"Of {len(about)} layers and ways of scoring {n_open} are open.",),
        estimate=claim.Estimate(
            float(quoted["estimate"]), float(quoted["low"]), float(quoted["high"]),
            f"{unit} without layer {name_layer(quoted['layer'])}", "95 % confidence sequence", 2,
        ),
        p=float(numbers(sure, "p_holm").max()),
        source=claim.source("decisions", where, layer=layers_in(sure)),
        **common,
    )  # fmt: skip


def _layers_by_protocol(sure: pd.DataFrame, protocols: Sequence[str]) -> str:
    """``"layers 2 and 3 when it chooses, 0–3 when it writes"``; once if all are alike."""
    layers = {name: layers_in(rows(sure, protocol=name)) for name in protocols}
    named = {name: which for name, which in layers.items() if which}
    if len(set(map(tuple, named.values()))) == 1 and len(named) == len(protocols) > 1:
        return f"{few_layers(next(iter(named.values())))}, however it is scored"
    first, *others = [
        f"{few_layers(which)} {protocol_phrase(name)}" for name, which in named.items()
    ]
    return ", ".join([first, *(words.removeprefix("layers ") for words in others)])


def sections(run: RunTables) -> list[Section]:
    """Verdicts on each layer, in a strip and in a table."""
    from .figures import decision_strip

    table = run.table("decisions")
    if table is None or table.empty:
        return []
    n_all = spread(table["n_all"])
    caption = (
        f"Verdicts on every layer, by capability and way of scoring ({n_all} answers each). Colour "
        "is the verdict. The bar in a cell is the share of the answers that were asked until all "
        "that is asked of the layer was decided. Any false verdict on a question has a chance of "
        "at most 5 % in the whole run."
    )
    alt = "A strip over the layers: needed, spare and open ones, with the share of items asked."
    figure = FigureSpec("decisions", partial(decision_strip, table), caption, alt)
    shown = table.sort_values(["established", "n_items"], ascending=[False, True], kind="stable")
    return [
        Section(
            "decisions", "Decisions: needed and spare layers", 1, _WORDS, (figure,),
            (as_text("Verdicts ({n})", COLUMNS, shown, most=_MOST),),
            kinds=(claim.NEEDED, CROSSED, claim.SPARED),
        )
    ]  # fmt: skip


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from layerwise.runs.setup import check_layers

    from .job import Decisions

    job = Decisions(setup, check_layers(options["layers"], setup.model), (NEEDED, SPARE))
    note = "The cost of decisions is the most that they take: layers leave as they are decided."
    return PlannedJobs({"decisions": job}, (note,))


ANALYSIS = Analysis(
    "decisions", DecisionsResult, sections, findings,
    tables=lambda result, others: saved_tables(result, others) | {"signal": result.signal()},
    files={"signal": "decision_records.parquet"},
    done={
        "decisions": "Layers were decided sequentially: items were asked in rounds until each "
        "verdict was made, with sequential Holm correction.",
    },
    plans=(PlannableAnalysis("decisions", _planned_jobs, options=("layers",)),),
)  # fmt: skip
