"""Sentences on direct logit attribution: which sublayer and which head write most of an answer.

Only tasks with signal, and only contributions that are significant after correction.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.report.finding import Finding, source, spaced, weight
from layerwise.report.naming import name_layer
from layerwise.report.rows import records, rows
from layerwise.report.run import Run
from layerwise.report.wording import PROTOCOL_ORDER, in_order, interval

ATTRIBUTION = "attribution"
_SUBLAYERS = {"attn_out": "the attention", "mlp_out": "the MLP"}


def attributions(run: Run) -> list[Finding]:
    """Per task and protocol, the sublayer and the head that add most to the logit difference."""
    if run.attribution is None:
        return []
    shown = rows(run.attribution, metric="logit_diff", signal=True)
    found = []
    for protocol in in_order(shown["protocol"], PROTOCOL_ORDER):
        mine = rows(shown, protocol=protocol)
        found += [f for task in in_order(mine["task"], ()) for f in _task(rows(mine, task=task))]
    return spaced(found, 2)


def _task(mine: pd.DataFrame) -> list[Finding]:
    part, head = _most(mine, list(_SUBLAYERS)), _most(mine, ["z"])
    if part is None:
        return []
    (total,) = records(rows(mine, component="total"))
    by_head = ""
    if head is not None:
        by_head = (
            f"; of all heads, {name_layer(head['layer'])}.{head['head']} adds most, {_nats(head)} "
            "(Benjamini-Hochberg)"
        )
    sentence = (
        f"In {part['task']} ({part['protocol']} prompts), {_SUBLAYERS[part['component']]} of layer "
        f"{name_layer(part['layer'])} adds most to the answer's first token directly: "
        f"{_nats(part)} of a logit difference of {_nats(total)} to the other choices "
        f"(not 0 after Holm's correction, n = {part['n_items']}){by_head}."
    )
    where = {name: str(part[name]) for name in ("task", "protocol", "metric")}
    at = {"component": str(part["component"]), "layer": int(part["layer"])}
    share = part["value"] / total["value"] if total["value"] > 0 else 0.0
    size = weight(0.55, share)
    return [Finding(sentence, size, ATTRIBUTION, source("attribution_summary", where, **at))]


def _most(mine: pd.DataFrame, components: list[str]) -> dict[str, Any] | None:
    """The significant part that adds most; None if none adds anything for sure."""
    sure = rows(mine, component=components, significant=True)
    ranked = records(sure.sort_values(by="value", ascending=False, kind="stable"))
    return ranked[0] if ranked and ranked[0]["value"] > 0 else None


def _nats(row: dict[str, Any]) -> str:
    return f"{interval(row['value'], row['low'], row['high'], 1)} nats"
