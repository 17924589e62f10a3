"""Claims on a transplant: which layer carries what one model can do and the other cannot.

They read the tables of gaps and effects alone; what each could be mistaken for is its caveat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from layerwise.presentation.claim import (
    ESTABLISHED,
    OPEN,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.columns import Row
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL, every_test, n_tests, run_bounds_text
from layerwise.presentation.rows import claim_scope, numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    count_noun,
    interval,
    number,
    percent,
    protocol_phrase,
)
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.run_tables import RunTables

from .exchange.names import (
    ACTIVATIONS,
    BASE,
    BRINGS,
    DESTROYS,
    EMBED,
    FINAL_NORM,
    OF_NO_LAYER,
    RELATIVE,
    SINGLE,
    TIED,
    TOGETHER,
    UNEMBED,
    WEIGHTS,
    site_words,
)
from .result import order_words, set_words

KIND = "transplant"
EFFECTS, GAPS, GREEDY = "transplant_effects", "transplant_gaps", "transplant_greedy"
_OUTSIDE = {
    EMBED: "the embeddings",
    TIED: "the embeddings tied to the unembedding",
    UNEMBED: "the unembedding",
    FINAL_NORM: "the final norm",
    RELATIVE: "the relative position biases",
}
# Words of a short claim that say what was exchanged, at most.
_LONGEST = 8
# What a change in one direction alone is worth, and does not show.
_ONE_WAY = {
    BRINGS: (0.7, "That the lead is lost without it is not established: other layers may do the "
             "same there."),
    DESTROYS: (0.5, "The other way round nothing is established to be brought, so that it may be "
               "needed there, or not fit."),
}  # fmt: skip


def findings(run: RunTables) -> list[Claim]:
    """Claims on the changes of a run, one for each task, protocol and choice of layers."""
    effects, greedy = run.table(EFFECTS), run.table(GREEDY)
    if effects is None:
        return []
    shown = rows(effects, signal=True, set=[SINGLE, TOGETHER], t=1.0)
    cells = shown.groupby(["exchange", "task", "protocol", "set"], sort=True)
    claims = most_important([_cell_claim(cell, effects, run) for _, cell in cells], 3)
    return claims if greedy is None else [*claims, *most_important(_searches(greedy, run), 2)]


def caveats(run: RunTables) -> list[Claim]:
    """Tasks and protocols without a gap to be moved."""
    gaps = run.table(GAPS)
    without_gap = [] if gaps is None else records(rows(gaps, found=False))
    if not without_gap:
        return []
    n = len(without_gap)
    among = f"in {n} tasks and ways of scoring" if n > 1 else _cell_words(without_gap[0])
    accuracies = (
        f"In {row['task']} {protocol_phrase(row['protocol'])} the base is right in "
        f"{number(100 * row['acc_base'])} %, the other model in {number(100 * row['acc_other'])} %."
        for row in without_gap
    )
    return [
        Claim(
            kind=KIND,
            short=f"There is no gap to move between the two models {among}.",
            evidence=OPEN,
            importance=weight(0.3, 0.0),
            source=source(GAPS, {"found": False}),
            details=(*accuracies, "No layers were exchanged there.", *_named_models(run)),
            caveat="Neither is established to be better than the other and than guessing.",
            **claim_scope(pd.DataFrame(without_gap)),
        )
    ]


def _sure(table: pd.DataFrame, run: RunTables) -> pd.DataFrame:
    """Rows that move what is of interest at least, over the tests of the run."""
    smallest = SmallestEffects.from_settings(run.facts.settings).loss
    return table.loc[(numbers(table, "p_run") < LEVEL) & (numbers(table, "moved") >= smallest)]


def _cell_claim(cell: pd.DataFrame, effects: pd.DataFrame, run: RunTables) -> Claim:
    """The strongest change of a task and protocol, by what it does in both directions."""
    sure = _sure(cell, run)
    by = {
        direction: {row["intervention"]: row for row in records(rows(sure, direction=direction))}
        for direction in (BRINGS, DESTROYS)
    }
    first = cell.iloc[0]
    how = (first["exchange"], first["site"], first["set"])
    if by[BRINGS] and how == (ACTIVATIONS, "layer", SINGLE):
        return _stream(cell, effects, run, min(by[BRINGS].values(), key=lambda row: row["layer"]))
    both = [change for change in by[BRINGS] if change in by[DESTROYS]]
    if both:
        top = max(both, key=lambda change: min(by[way][change]["moved"] for way in by))
        return _carries(cell, effects, run, by[BRINGS][top], by[DESTROYS][top], len(both))
    for way, (worth, caveat) in _ONE_WAY.items():
        if by[way]:
            row = max(by[way].values(), key=lambda row: row["moved"])
            claim = _claim(cell, effects, run, row, len(by[way]))
            return replace(claim, importance=weight(worth, row["share"]), caveat=caveat)
    return _no_effect_claim(cell, effects, run)


def _carries(
    cell: pd.DataFrame, effects: pd.DataFrame, run: RunTables, brings: Row, destroys: Row, n: int
) -> Claim:
    better, _ = _models(brings)
    claim = _claim(cell, effects, run, brings, n)
    return replace(
        claim,
        short=f"The lead of {better} {_cell_words(brings)} lies in {_brief(brings)}.",
        importance=weight(0.85, min(brings["share"], destroys["share"])),
        p=max(float(brings["p_run"]), float(destroys["p_run"])),
        test=f"the larger of both; {claim.test}",
        details=(
            *claim.details,
            f"The other's put into the better model destroys {_points(destroys)} points.",
        ),
    )


def _stream(cell: pd.DataFrame, effects: pd.DataFrame, run: RunTables, first: Row) -> Claim:
    """From which layer on the better model's stream is worth something to the other's layers."""
    details = ["So much of what makes the difference has been done by there."]
    before = cell.loc[(cell["direction"] == BRINGS) & (cell["layer"] < first["layer"])]
    if len(before):
        last = max(records(before), key=lambda row: row["layer"])
        details.append(
            f"It is the first that is established to; after layer {name_layer(last['layer'])}: "
            f"{_points(last)} points."
        )
    same = {name: first[name] for name in ("task", "protocol", "host", "site", "set", "layer")}
    for row in records(rows(effects, **same, exchange=WEIGHTS, t=1.0)):
        sure = row["p_run"] < LEVEL and row["moved"] > 0
        doubt = "" if sure else ", which is not established; it may be what reaches the layer"
        details.append(f"The weights of that layer alone bring {_points(row)} points{doubt}.")
    claim = _claim(cell, effects, run, first, 0)
    return replace(
        claim, importance=weight(0.65, first["share"]), details=(*details, *claim.details)
    )


def _no_effect_claim(cell: pd.DataFrame, effects: pd.DataFrame, run: RunTables) -> Claim:
    top = max(records(cell), key=lambda row: row["moved"])
    n = len(cell["intervention"].unique())
    none = f"None of {n} exchanges is" if n > 1 else f"Exchanging {_brief(top)} is not"
    better, _ = _models(top)
    claim = _claim(cell, effects, run, top, 0)
    return replace(
        claim,
        short=f"{none} established to move the lead of {better} {_cell_words(top)}.",
        evidence=OPEN,
        importance=weight(0.4, 0.0),
        p=float(numbers(cell, "p_run").min()),
        test=f"the smallest; {claim.test}",
        details=(
            f"Both directions were tried; that of {_part_words(top)} {top['direction']} most.",
            *claim.details,
        ),
    )


def _claim(cell: pd.DataFrame, effects: pd.DataFrame, run: RunTables, row: Row, n: int) -> Claim:
    """A claim on a change that is one of ``n`` such, with the lead that it moves."""
    gaps = run.table(GAPS)
    assert gaps is not None, "effects are saved with gaps"
    (gap,) = records(rows(gaps, task=row["task"], protocol=row["protocol"]))
    lead = interval(*(100 * gap[name] for name in ("gap", "gap_low", "gap_high")))
    tried = len(cell["intervention"].unique())
    about = {name: str(row[name]) for name in ("task", "protocol", "set", "exchange")}
    return Claim(
        short=_moved_sentence(_brief(row), row),
        source=source(EFFECTS, about, intervention=str(row["intervention"])),
        details=(
            *([] if _brief(row) == _part_words(row) else [f"They are {_part_words(row)}."]),
            f"The lead is {lead} points.",
            *([f"Exchanges that do so: {n} of {tried}."] if n and tried > 1 else []),
            *_named_models(run),
        ),
        **_measured_fields(row, effects),
    )


def _searches(greedy: pd.DataFrame, run: RunTables) -> list[Claim]:
    """Claims on all steps of each search, where established on held-out items."""
    claims = []
    for _, sure in _sure(rows(greedy, direction=BRINGS), run).groupby(
        ["task", "protocol"], sort=True
    ):
        top = max(records(sure), key=lambda row: row["moved"] - 1e-9 * row["step"])
        share = percent(*(top[name] for name in ("share", "share_low", "share_high")))
        noun = HEAD_WORDS.get(top["site"], "layer")
        about = {name: str(top[name]) for name in ("task", "protocol", "host")}
        fields = _measured_fields(top, greedy)
        fields["items"] += " that did not choose"
        claims.append(
            Claim(
                short=_moved_sentence(count_noun(top["step"], f"greedily chosen {noun}"), top),
                importance=weight(0.6, top["share"]),
                source=source(GREEDY, about, step=int(top["step"])),
                details=(
                    f"Chosen in this order: {order_words(top)}.",
                    f"That is {share} of the lead.",
                    f"On the {top['n_selection']} items to choose by, it is "
                    f"{number(100 * top['moved_selection'])} points.",
                    *_named_models(run),
                ),
                caveat="Other items to choose by may give another order.",
                **fields,
            )
        )
    return claims


def _part_words(row: Row) -> str:
    """``layer 3``, ``the output of attention of layers 3–5``, ``head 7.3``, ``the embeddings``."""
    if row["site"] in OF_NO_LAYER:
        return _OUTSIDE[row["site"]]
    noun = HEAD_WORDS.get(row["site"], "layer") + "s" * (len(row["layers"]) > 1)
    return f"{site_words(row['site'], row['exchange'])}{noun} {set_words(row)}"


def _brief(row: Row) -> str:
    """Parts that were put in; of a long list their number."""
    what, noun = _part_words(row), HEAD_WORDS.get(row["site"], "layer")
    long = len(what.split()) > _LONGEST
    return f"{count_noun(len(row['layers']), noun)} together" if long else what


def _models(row: Row) -> tuple[str, str]:
    """The better model and the other, in words."""
    both = ("the base", "the other model")
    base_is_better = (row["host"] == BASE) == (row["direction"] == DESTROYS)
    return both if base_is_better else (both[1], both[0])


def _named_models(run: RunTables) -> list[str]:
    """A sentence with the names of the two models, where they have different ones."""
    base, other = run.facts.model.name, run.facts.settings.get("other")
    return [] if base == other else [f"The base is {base}, the other model {other}."]


def _cell_words(row: Row) -> str:
    """``in keys when it chooses``."""
    return f"in {row['task']} {protocol_phrase(row['protocol'])}"


def _moved_sentence(what: str, row: Row) -> str:
    """Effect of a change, in a sentence."""
    better, worse = _models(row)
    host, giver, verb = (
        (better, worse, "loses") if row["direction"] == DESTROYS else (worse, better, "gains")
    )
    points = number(100 * row["moved"])
    return f"With {what} of {giver}, {host} {verb} {points} points {_cell_words(row)}."


def _points(row: Row) -> str:
    return interval(*(100 * row[name] for name in ("moved", "run_low", "run_high")))


def _measured_fields(row: Row, table: pd.DataFrame) -> dict[str, Any]:
    """Effect of a change, over all changes of the run, as a claim has it."""
    moved, low, high = (100 * float(row[name]) for name in ("moved", "run_low", "run_high"))
    verb = f"accuracy points {'destroyed' if row['direction'] == DESTROYS else 'brought'}"
    return claim_scope(pd.DataFrame([row])) | {
        "kind": KIND,
        "evidence": ESTABLISHED,
        "layers": tuple(map(int, row["layers"])),
        "estimate": Estimate(moved, low, high, verb, run_bounds_text(table)),
        "p": float(row["p_run"]),
        "test": "exact McNemar test, and against guessing of what is brought; Holm over "
        f"{every_test(n_tests(table))} of the run",
    }
