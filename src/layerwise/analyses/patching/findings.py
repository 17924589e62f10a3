"""Sentences on where patching hands over from one position, or one stack, to the next.

Tasks without signal are left out; a task whose accuracy was not measured is said to be so. The
layer is chosen among many of many tasks, so all bounds here cover together over the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.ablation.lookup import has_signal
from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    counted,
    in_order,
    percent,
)
from layerwise.storage.run_tables import RunTables

HAND_OVER, TAKE_UP = "hand-over", "take-up"
_CHANGED = ("last changed", "first changed")
_BOUNDS = ("recovered", "recovered_run_low", "recovered_run_high")
# Of what the answer depends on; two places that hold so much together hold about all of it.
_HALF, _ABOUT_ALL = 0.5, 0.75
_TOGETHER = "bounds for all that the run patched together"
_UNMEASURED = "; the intact model's accuracy was not measured"


def hand_overs(run: RunTables) -> list[Claim]:
    """Where the last position takes over from the changed token, where that is established."""
    return spaced([one for mine, note in _patched(run) for one in _hand_over(mine, note)], 1)


def take_ups(run: RunTables) -> list[Claim]:
    """Where a decoder takes up what the encoder has found, where that is established."""
    return spaced([one for mine, note in _patched(run) for one in _taken_up(mine, note)], 1)


def _patched(run: RunTables) -> Iterator[tuple[pd.DataFrame, str]]:
    """Averages of each task, and what to say of all its bounds."""
    patching = run.table("patching_summary")
    if patching is None:
        return
    for task in in_order(patching["task"], ()):
        mine = rows(patching, task=task, site="resid_pre", direction="denoising")
        for protocol in in_order(mine["protocol"], PROTOCOL_ORDER):
            signal, there = has_signal(run, task, protocol), rows(mine, protocol=protocol)
            if signal is not False and rows(there, signal=False).empty:
                yield there, _TOGETHER if signal is not None else _TOGETHER + _UNMEASURED


def _hand_over(mine: pd.DataFrame, note: str) -> list[Claim]:
    changed = next((name for name in _CHANGED if name in set(mine["pos_label"])), None)
    if changed is None or "last" not in set(mine["pos_label"]):
        return []
    bounds = overtaking(mine, changed)
    if bounds is None:
        return []
    middle, low, high = bounds
    there = {row["pos_label"]: row for row in records(rows(mine, layer=middle))}
    first = there["last"]
    where = {name: str(first[name]) for name in ("task", "protocol", "direction", "site")}
    where = source("patching_summary", {**where, "pos_label": [changed, "last"]}, layer=middle)
    size = weight(0.65, 1 - (high - low) / 10)
    between = _elsewhere(mine, changed)
    if between is not None:
        return [_over_a_third(first, changed, between, note, size, where)]
    last, token = (percent(*(there[p][name] for name in _BOUNDS)) for p in ("last", changed))
    sentence = (
        f"In {first['task']} ({first['capability']}, {first['protocol']}), what the answer depends "
        f"on moves from the {changed} token to the last position at layer {name_layer(middle)} "
        f"[{name_layer(low)}, {name_layer(high)}]: patching the residual stream before "
        f"it recovers {last} of the logit difference at the last position and {token} at the "
        f"{changed} token ({note}; n = {counted(int(first['n_items']), 'pair')})."
    )
    return [finding(sentence, size, HAND_OVER, where)]


def _elsewhere(mine: pd.DataFrame, changed: str) -> tuple[int, int] | None:
    """The layers at which the answer leaves one place and reaches the other, if they are two.

    None where both places together hold about all of it at every layer from the one to the other.
    """
    layers = layers_of(rows(mine, pos_label="last"))
    token, last = (
        numbers(rows(mine, pos_label=name).set_index("layer").reindex(layers), "recovered")
        for name in (changed, "last")
    )
    left, reached = _stays(token < _HALF), _stays(last > _HALF)
    if left is None or reached is None or reached <= left:
        return None
    held = (token + last)[left:reached]
    return (layers[left], layers[reached]) if held.min() < _ABOUT_ALL else None


def _over_a_third(
    row: dict[str, Any], changed: str, between: tuple[int, int], note: str, size: float,
    where: dict[str, Any],
) -> Claim:  # fmt: skip
    left, reached = map(name_layer, between)
    return finding(
        f"In {row['task']} ({row['capability']}, {row['protocol']}), what the answer depends on "
        f"leaves the {changed} token at layer {left} and is at the last position from layer "
        f"{reached} on; in between it is at neither ({note}; n = "
        f"{counted(int(row['n_items']), 'pair')}).",
        size, HAND_OVER, where,
    )  # fmt: skip


def _taken_up(mine: pd.DataFrame, note: str) -> list[Claim]:
    """From which layer on more than half is at the decoder's position that answers."""
    answer = rows(mine, pos_label="answer").sort_values("layer")
    if answer.empty:
        return []
    bounds = [_stays(numbers(answer, name) > _HALF) for name in _BOUNDS]
    middle, last, first = (None if at is None else layers_of(answer)[at] for at in bounds)
    if middle is None or last is None or first is None or middle == layers_of(answer)[0]:
        return []
    row = records(rows(answer, layer=middle))[0]
    share = percent(*(row[name] for name in _BOUNDS))
    sentence = (
        f"In {row['task']} ({row['capability']}, {row['protocol']}), the decoder holds more "
        f"than half of what the answer depends on from layer {name_layer(middle)} "
        f"[{name_layer(first)}, {name_layer(last)}] on: patching the residual "
        f"stream before it recovers {share} of the logit difference where the answer's first "
        "token is predicted "
        f"({note}; n = {counted(int(row['n_items']), 'pair')})."
    )
    where = {name: str(row[name]) for name in ("task", "protocol", "direction", "site")}
    where = source("patching_summary", {**where, "pos_label": "answer"}, layer=middle)
    return [finding(sentence, weight(0.6, 1 - (last - first) / 10), TAKE_UP, where)]


def overtaking(mine: pd.DataFrame, changed: str) -> tuple[int, int, int] | None:
    """The layer from which the last position recovers more than the changed token, with bounds.

    Args:
        mine: patching averages of one task, protocol and site.
        changed: the label of the changed token.

    Returns:
        The layer, and the layers from which the same holds for the most and the least
        favourable bounds of the intervals, which cover together over the run; None unless the
        changed token's interval lies above the last position's at the first layer and below it at
        the last one.
    """
    layers = layers_of(rows(mine, pos_label="last"))  # in an encoder-decoder, the encoder's
    token, last = (
        rows(mine, pos_label=name).set_index("layer").reindex(layers) for name in (changed, "last")
    )
    middle, low, high = (
        _stays(numbers(last, _BOUNDS[a]) > numbers(token, _BOUNDS[b]))
        for a, b in ((0, 0), (2, 1), (1, 2))
    )
    before = numbers(token, _BOUNDS[1])[0] > numbers(last, _BOUNDS[2])[0]
    if not before or middle is None or low is None or high is None:
        return None
    return layers[middle], layers[low], layers[high]


def _stays(holds: Sequence[bool] | np.ndarray) -> int | None:
    """The first index from which on something holds to the end."""
    broken = np.flatnonzero(~np.asarray(holds, dtype=bool))
    first = int(broken[-1]) + 1 if len(broken) else 0
    return first if first < len(holds) else None


def findings(run: RunTables) -> list[Claim]:
    """Hand-overs from token to token, and take-ups from the encoder."""
    return [*hand_overs(run), *take_ups(run)]
