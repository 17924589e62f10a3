"""Sentences on direct logit attribution: which sublayer and which head write most of an answer.

Only tasks with signal, and only contributions that are significant after correction.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.over_run import RATE, count_that_hold, together
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    SUBLAYER_WORDS,
    in_order,
    interval,
)
from layerwise.storage.run_tables import RunTables

ATTRIBUTION = "attribution"
_HEADS = {"z": "", "cross_z": " of cross-attention"}
_THE = {site: f"the {words}" for site, words in SUBLAYER_WORDS.items()}


def attributions(run: RunTables) -> list[Claim]:
    """Per task and protocol, the sublayer and the head that add most to the logit difference.

    Of an encoder-decoder these are the decoder's, and the sublayer of the encoder that adds most
    through cross-attention is told beside them.
    """
    attribution = run.table("attribution_summary")
    if attribution is None:
        return []
    shown = rows(attribution, metric="logit_diff", signal=True)
    found = []
    for protocol in in_order(shown["protocol"], PROTOCOL_ORDER):
        mine = rows(shown, protocol=protocol)
        found += [
            finding
            for task in in_order(mine["task"], ())
            for finding in _task(rows(mine, task=task), attribution)
        ]
    return spaced(found, 2)


def _task(mine: pd.DataFrame, every: pd.DataFrame) -> list[Claim]:
    of_encoder = (mine["layer"] < stacks().n_encoder).fillna(False).astype(bool)
    written, read = mine.loc[~of_encoder], mine.loc[of_encoder]
    part, head = _most(written, list(_THE)), _most(written, list(_HEADS))
    if part is None:
        return []
    (total,) = records(rows(mine, component="total"))
    of_heads = every["component"].isin(list(_HEADS))
    tests, more = every.loc[~of_heads], ""
    if head is not None:
        whose = "all heads" if not stacks().n_encoder else "all heads of the decoder"
        more = (
            f"; of {whose}, {name_layer(head['layer'])}.{head['head']}{_HEADS[head['component']]} "
            f"adds most, {_run_nats(head)} ({_held(head, every.loc[of_heads], RATE)})"
        )
    through = _most(read, list(_THE))
    if through is not None:
        more += (
            f"; of the encoder, through cross-attention, {_THE[through['component']]} of layer "
            f"{name_layer(through['layer'])}, {_run_nats(through)} ({_held(through, tests)})"
        )
    sentence = (
        f"In {part['task']} ({part['protocol']} prompts), {_THE[part['component']]} of layer "
        f"{name_layer(part['layer'])} adds most to the answer's first token directly: "
        f"{_run_nats(part)} of a logit difference of {_nats(total)} to the other choices "
        f"({together(tests)}; not 0 after Holm's correction, {_held(part, tests)}, n = "
        f"{part['n_items']}){more}."
    )
    where = {name: str(part[name]) for name in ("task", "protocol", "metric")}
    at = {"component": str(part["component"]), "layer": int(part["layer"])}
    share = part["value"] / total["value"] if total["value"] > 0 else 0.0
    size = weight(0.55, share)
    return [finding(sentence, size, ATTRIBUTION, source("attribution_summary", where, **at))]


def _most(mine: pd.DataFrame, components: list[str]) -> dict[str, Any] | None:
    """The significant part that adds most; None if none adds anything for sure."""
    sure = rows(mine, component=components, significant=True)
    ranked = records(sure.sort_values(by="value", ascending=False, kind="stable"))
    return ranked[0] if ranked and ranked[0]["value"] > 0 else None


def _held(row: dict[str, Any], every: pd.DataFrame, *correction: str) -> str:
    return count_that_hold(pd.DataFrame([row]), every, *correction)


def _run_nats(row: dict[str, Any]) -> str:
    return f"{interval(row['value'], row['run_low'], row['run_high'], 1)} nats"


def _nats(row: dict[str, Any]) -> str:
    return f"{interval(row['value'], row['low'], row['high'], 1)} nats"
