"""The sentences that a series earns: when what is there to stay, by which layers, and moves.

They read the tables of a series only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, weight
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    counted,
    interval,
    layer_ranges,
    number,
    p_value,
)

ONSET, FIRST_LAYERS, MOVES = "onset", "first layers", "moves"
Row = dict[str, Any]


def onset_findings(onsets: pd.DataFrame, steps: Sequence[int], gain: float) -> list[Claim]:
    """When each task is above its floor for good.

    Args:
        onsets: ``training_onsets.parquet``.
        steps: all steps of the series.
        gain: accuracy above the floor from which on a capability is there.
    """
    sure = records(rows(onsets, appears=True))
    return [_onset(row, len(onsets), steps, gain) for row in sure]


def first_layer_findings(onsets: pd.DataFrame, n_tests: int) -> list[Claim]:
    """Which layers each task needs first, and which last.

    Args:
        onsets: ``training_onsets.parquet``.
        n_tests: how many tests of layers were corrected together.
    """
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
    points = f"{number(100 * gain)} points or more above its floor"
    onset, low, high = (int(row[name]) for name in ("onset", "low", "high"))
    begun = steps[0]
    if high == begun:
        when = f"is there at the first checkpoint, step {begun}, and stays"
    elif low == begun:
        when = (
            f"is there to stay from step {onset} on, by step {high} at the latest (that it was "
            "there from the start is not excluded)"
        )
    else:
        when = f"is there to stay from step {onset} on [{low}, {high}]"
    sentence = (
        f"Under {row['protocol']}, {row['capability']} ({row['task']}) {when}: accuracy is shown "
        f"to be {points} at every checkpoint from step {high} on ({row['n_steps']} in all, n = "
        f"{_n(row)}; the intervals of {counted(n_rows, 'onset')} hold together in 95 %)."
    )
    where = {name: row[name] for name in ("task", "protocol")}
    return finding(sentence, 0.9, ONSET, source("training_onsets", where))


def _first(row: Row, tests: int) -> Claim:
    first, last = (layer_ranges(row[f"layers_{name}"]) for name in ("first", "last"))
    ends = f"the same at step {int(row['layers_last_step'])}"
    if first != last:
        ends = f"{_layers(row['layers_last'], last)} at step {int(row['layers_last_step'])}"
    sentence = (
        f"Under {row['protocol']}, {row['capability']} ({row['task']}) is first known to need "
        f"{_layers(row['layers_first'], first)} at step {int(row['layers_step'])}, and {ends} "
        f"(n = {_n(row)}; exact McNemar tests, Holm's correction over all "
        f"{counted(tests, 'test')} of the series)."
    )
    where = {name: row[name] for name in ("task", "protocol")}
    return finding(sentence, 0.75, FIRST_LAYERS, source("training_onsets", where))


def _layers(layers: Sequence[int], named: str) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {named}"


def _move(row: Row, n_rows: int) -> Claim:
    deeper = row["change"] > 0
    ends = (row["low"], row["high"]) if deeper else (-row["high"], -row["low"])
    size = interval(abs(row["change"]), *ends, 1)
    early, late = (number(row[name], 1) for name in ("layer_early", "layer_late"))
    holds = f"{p_value(row['p_holm'])} after Holm's correction over {counted(n_rows, 'test')}"
    sentence = (
        f"Under {row['protocol']}, what {row['capability']} ({row['task']}) needs lies {size} "
        f"layers {'deeper' if deeper else 'less deep'} in the later half of its "
        f"{counted(row['n_steps'], 'checkpoint')} with signal than in the earlier (centre of mass "
        f"of the losses {late} against {early}; steps {row['first_step']} to {row['last_step']}; "
        f"{holds}; n = {_n(row)})."
    )
    where = {name: row[name] for name in ("task", "protocol")}
    return finding(sentence, weight(0.85, abs(row["change"]) / 4), MOVES, source(
        "training_moves", where))  # fmt: skip


def _n(row: Row) -> str:
    n, clusters = row["n_items"], row["n_clusters"]
    return f"{n}" if n == clusters else f"{n} in {clusters} clusters"
