"""Sentences on direct logit attribution: which sublayer and which head write most of an answer.

Only tasks with signal, and only contributions that are significant after correction.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, Estimate, source, spaced, weight
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.over_run import HOLM, RATE, evidence_for, together
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    SUBLAYER_WORDS,
    in_order,
    interval,
    number,
    when,
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
    found = [
        claim
        for protocol in in_order(shown["protocol"], PROTOCOL_ORDER)
        for task in in_order(rows(shown, protocol=protocol)["task"], ())
        for claim in _task(rows(shown, protocol=protocol, task=task), attribution)
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
    tests = pd.DataFrame(every.loc[~of_heads])
    details = [f"The whole logit difference to the other choices is "
               f"{interval(total['value'], total['low'], total['high'], 1)} nats."]  # fmt: skip
    if head is not None:
        details.append(
            f"Of all heads{' of the decoder' * (stacks().n_encoder > 0)}, "
            f"{name_layer(head['layer'])}.{head['head']}{_HEADS[head['component']]} adds most: "
            f"{_run_nats(head, pd.DataFrame(every.loc[of_heads]), RATE)}."
        )
    through = _most(read, list(_THE))
    if through is not None:
        details.append(
            f"Of the encoder, through cross-attention, {_THE[through['component']]} of layer "
            f"{name_layer(through['layer'])} adds most: {_run_nats(through, tests)}."
        )
    whole, layer = total["value"], int(part["layer"])
    where = {name: str(part[name]) for name in ("task", "protocol", "metric")}
    value, low, high = (float(part[name]) for name in ("value", "run_low", "run_high"))
    return [Claim(
        kind=ATTRIBUTION, importance=weight(0.55, value / whole if whole > 0 else 0.0),
        short=f"On {part['task']}, {_THE[part['component']]} of layer {name_layer(layer)} adds "
        f"most directly to the answer's first token {when(part['protocol'])}: "
        f"{number(value, 1)} of {number(whole, 1)} nats.",
        estimate=Estimate(value, low, high, "nats", together(tests), 1),
        layers=(layer,), details=tuple(details),
        source=source("attribution_summary", where, component=str(part["component"]), layer=layer),
        **_tested(part, tests), **asked_of(pd.DataFrame([part])),
    )]  # fmt: skip


def _most(mine: pd.DataFrame, components: list[str]) -> dict[str, Any] | None:
    """The significant part that adds most; None if none adds anything for sure."""
    sure = rows(mine, component=components, significant=True)
    ranked = records(sure.sort_values(by="value", ascending=False, kind="stable"))
    return ranked[0] if ranked and ranked[0]["value"] > 0 else None


def _tested(row: dict[str, Any], every: pd.DataFrame, correction: str = HOLM) -> dict[str, Any]:
    within = ("p_adjusted", f"over such parts of the task ({correction})")
    return evidence_for(row, every, "t-test of a mean of 0", within, correction)


def _run_nats(row: dict[str, Any], every: pd.DataFrame, correction: str = HOLM) -> str:
    shown = interval(row["value"], row["run_low"], row["run_high"], 1)
    return f"{shown} nats ({_tested(row, every, correction)['evidence']})"
