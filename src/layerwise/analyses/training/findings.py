"""The claims that a series earns: when what is there to stay, by which layers, and moves.

They read the tables of a series only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.presentation.claim import ESTABLISHED, Claim, Estimate, source, weight
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.wording import capitalised, counted, layer_ranges, number, p_value, when

ONSET, FIRST_LAYERS, MOVES = "onset", "first layers", "moves"
_LONGEST = 9
Row = dict[str, Any]


def onset_findings(onsets: pd.DataFrame, steps: Sequence[int], gain: float) -> list[Claim]:
    """When each task is above its floor for good."""
    sure = records(rows(onsets, appears=True))
    return [_onset(row, len(onsets), steps, gain) for row in sure]


def first_layer_findings(onsets: pd.DataFrame, n_tests: int) -> list[Claim]:
    """Which layers each task needs first, and which last."""
    told = rows(onsets, appears=True)
    return [_first(row, n_tests) for row in records(told.loc[told["layers_step"].notna()])]


def move_findings(moves: pd.DataFrame) -> list[Claim]:
    """Whether what a task needs comes to lie deeper, or less deep, in training."""
    return [_move(row, len(moves)) for row in records(rows(moves, significant=True))]


def not_there(onsets: pd.DataFrame) -> list[str]:
    """What is not shown to be there at the end, in words for the page."""
    return [
        f"{row['task']} under {row['protocol']} ({p_value(row['p_corrected'])} at the last step)"
        for row in records(rows(onsets, appears=False))
    ]


def _onset(row: Row, n_rows: int, steps: Sequence[int], gain: float) -> Claim:
    onset, low, high = (float(row[name]) for name in ("onset", "low", "high"))
    since = f"to stay from step {onset:.0f} on"
    if high == steps[0]:
        since = f"at the first checkpoint, step {steps[0]}, to stay"
    from_start = "That it was there from the start is not excluded."
    bounds = f"95 % bounds of {counted(n_rows, 'onset')} together"
    return Claim(
        short=f"{capitalised(row['capability'])} ({row['task']}) is there {since} "
        f"{when(row['protocol'])}.",
        importance=0.9,
        estimate=Estimate(onset, low, high, "steps", bounds),
        details=(
            f"Accuracy is shown to be {number(100 * gain)} points or more above its floor at "
            f"every checkpoint from step {high:.0f} on ({row['n_steps']} in all).",
        ),
        caveat=from_start if low == steps[0] < high else "",
        **_common(row, ONSET, "training_onsets"),
    )


def _first(row: Row, tests: int) -> Claim:
    first, last = (tuple(map(int, row[f"layers_{name}"])) for name in ("first", "last"))
    need = _layers(first)
    is_long = len(need.split()) > _LONGEST
    return Claim(
        short=f"{capitalised(row['capability'])} ({row['task']}) is first known to need "
        f"{counted(len(first), 'layer') if is_long else need} at step "
        f"{int(row['layers_step'])} {when(row['protocol'])}.",
        importance=0.75,
        layers=first,
        details=(
            *((f"They are {need}.",) if is_long else ()),
            f"At step {int(row['layers_last_step'])} it is known to need "
            f"{'the same' if first == last else _layers(last)}.",
            f"Exact McNemar tests, Holm over all {counted(tests, 'test')} of the series.",
        ),
        **_common(row, FIRST_LAYERS, "training_onsets"),
    )


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {layer_ranges(layers)}"


def _move(row: Row, n_rows: int) -> Claim:
    sign, word = (1, "deeper") if row["change"] > 0 else (-1, "less deep")
    size, *ends = (sign * float(row[name]) for name in ("change", "low", "high"))
    early, late = (number(row[name], 1) for name in ("layer_early", "layer_late"))
    return Claim(
        short=f"What {row['capability']} ({row['task']}) needs lies {number(size, 1)} layers "
        f"{word} late in training than early {when(row['protocol'])}.",
        importance=weight(0.85, size / 4),
        estimate=Estimate(size, min(ends), max(ends), f"layers {word}", digits=1),
        p=float(row["p_holm"]),
        test=f"contrast over items of both halves, Holm over {counted(n_rows, 'test')}",
        details=(
            f"The centre of mass of the losses is {late} in the later half of its "
            f"{counted(row['n_steps'], 'checkpoint')} with signal and {early} in the earlier.",
            f"They are of steps {row['first_step']} to {row['last_step']}.",
        ),
        **_common(row, MOVES, "training_moves"),
    )


def _common(row: Row, kind: str, table: str) -> dict[str, Any]:
    n, clusters = row["n_items"], row["n_clusters"]
    return {
        "kind": kind,
        "evidence": ESTABLISHED,
        "source": source(table, {name: row[name] for name in ("task", "protocol")}),
        **asked_of(pd.DataFrame([row])),
        "items": f"{n} items" + f" in {clusters} clusters" * (n != clusters),
    }
