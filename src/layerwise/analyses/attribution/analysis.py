"""Direct logit attribution: claims, curves, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, reads_prompts, saved_tables
from layerwise.analyses.shared.left_out import words_with_exclusions
from layerwise.presentation.claim import Claim, Estimate, most_important, source, weight
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.no_signal import gate_tables
from layerwise.presentation.over_run import HOLM, RATE, run_bounds_text, run_wide_evidence
from layerwise.presentation.rows import claim_scope, numbers, parts, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    HEAD_WORDS,
    PROTOCOL_ORDER,
    SUBLAYER_WORDS,
    interval,
    number,
    protocol_phrase,
    spread,
)
from layerwise.stats.depth.layer_curves import (
    ATTRIBUTION,
    TASK,
    ExcludedTask,
    MethodCurve,
    Sampling,
    Signal,
    progress,
    task_key,
    while_the_encoder_runs,
    with_own_signal,
)
from layerwise.stats.signals.signal import signals_from_table
from layerwise.storage.run_tables import RunTables

from .result import ANALYSIS as NAME
from .result import CONTRIBUTIONS, HEADS, SUBLAYERS, AttributionResult, attribution_gate

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

    from .api import Attribution

KIND = "attribution"
_HEADS = {"z": "", "cross_z": " of cross-attention"}
_THE = {site: f"the {words}" for site, words in SUBLAYER_WORDS.items()}
_ATTRIBUTION_WORDS = (
    "The logits are read from a sum of what all layers and heads wrote. So the share of each part "
    "is exact. It is only what the part writes itself: a layer that prepares the answer for "
    "others may have no share."
)
_RIGHT = "the answer's first token above those of the other choices"
_ATTRIBUTED_HEADS = {"z": "attribution_heads", "cross_z": "attribution_cross_heads"}
_THROUGH_CROSS = (
    " The encoder's parts act through cross-attention, whose patterns are held: with its embedding "
    "and biases they are what the decoder's cross-attention adds, taken apart in another way."
)


def attribution_evidence(
    result: AttributionResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    """Progress of the answer's logit difference by what each layer itself adds to it."""
    # Biases of the final norm and the unembedding are no layer's.
    attribution, n_encoder = result.attribution, result.facts.model.n_encoder_layers
    edges, own = np.arange(-1, sampling.n_layers), signals_from_table(attribution_gate(attribution))
    written = attribution["component"].isin(["embedding", *SUBLAYERS])
    written &= attribution["layer"].isna() | (attribution["layer"] >= n_encoder)
    chosen = attribution.loc[written & (attribution["metric"] == "logit_diff")]
    why = "the layers together do not add to the answer's logit difference"
    for _, group in chosen.groupby(TASK, sort=True):
        key = task_key(ATTRIBUTION, group)
        placed = group.assign(layer=group["layer"].fillna(-1))
        wide = placed.pivot_table(index="item", columns="layer", values="value", aggfunc="sum")
        wide = while_the_encoder_runs(wide, n_encoder)
        known = with_own_signal(signal, key, own[key[3], key[1]])
        yield progress(ATTRIBUTION, group, wide.cumsum(axis=1), edges, known, sampling, why)


def attributions(run: RunTables) -> list[Claim]:
    """Per task and protocol, the sublayer and the head that add most to the logit difference."""
    attribution = run.table("attribution_summary")
    if attribution is None:
        return []
    shown = rows(attribution, metric="logit_diff", signal=True)
    groups = parts(shown, protocol=PROTOCOL_ORDER, task=())
    return most_important(
        [claim for _, of_task in groups for claim in _task(of_task, attribution)], 2
    )


def _task(of_task: pd.DataFrame, every: pd.DataFrame) -> list[Claim]:
    of_encoder = (of_task["layer"] < stacks().n_encoder).fillna(False).astype(bool)
    written, read = of_task.loc[~of_encoder], of_task.loc[of_encoder]
    part, head = _largest_part(written, list(_THE)), _largest_part(written, list(_HEADS))
    if part is None:
        return []
    (total,) = records(rows(of_task, component="total"))
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
    through = _largest_part(read, list(_THE))
    if through is not None:
        details.append(
            f"Of the encoder, through cross-attention, {_THE[through['component']]} of layer "
            f"{name_layer(through['layer'])} adds most: {_run_nats(through, tests)}."
        )
    whole, layer = total["value"], int(part["layer"])
    where = {name: str(part[name]) for name in ("task", "protocol", "metric")}
    value, low, high = (float(part[name]) for name in ("value", "run_low", "run_high"))
    return [Claim(
        kind=KIND, importance=weight(0.55, value / whole if whole > 0 else 0.0),
        short=f"On {part['task']}, {_THE[part['component']]} of layer {name_layer(layer)} adds "
        f"most directly to the answer's first token {protocol_phrase(part['protocol'])}: "
        f"{number(value, 1)} of {number(whole, 1)} nats.",
        estimate=Estimate(value, low, high, "nats", run_bounds_text(tests), 1),
        layers=(layer,), details=tuple(details),
        source=source("attribution_summary", where, component=str(part["component"]), layer=layer),
        **_test_evidence(part, tests), **claim_scope(pd.DataFrame([part])),
    )]  # fmt: skip


def _largest_part(parts: pd.DataFrame, components: list[str]) -> dict[str, Any] | None:
    """The significant part that adds most; None if none adds anything for sure."""
    sure = rows(parts, component=components, significant=True)
    ranked = records(sure.sort_values(by="value", ascending=False, kind="stable"))
    return ranked[0] if ranked and ranked[0]["value"] > 0 else None


def _test_evidence(
    row: dict[str, Any], every: pd.DataFrame, correction: str = HOLM
) -> dict[str, Any]:
    within = ("p_adjusted", f"over such parts of the task ({correction})")
    return run_wide_evidence(row, every, "t-test of a mean of 0", within, correction)


def _run_nats(row: dict[str, Any], every: pd.DataFrame, correction: str = HOLM) -> str:
    shown = interval(row["value"], row["run_low"], row["run_high"], 1)
    return f"{shown} nats ({_test_evidence(row, every, correction)['evidence']})"


def _figures(attribution: pd.DataFrame) -> list[FigureSpec]:
    """Contributions of layers and heads to the answer, figures for each protocol with signal."""
    from .figures import attribution_heads, attribution_lines

    figures, two = [], stacks().n_encoder > 0
    where, through = ("where the answer begins", _THROUGH_CROSS) if two else ("last position", "")
    shown = rows(attribution, metric="logit_diff", signal=True)
    for (protocol,), of_protocol in parts(shown, protocol=PROTOCOL_ORDER):
        what = (
            f"to the answer's first token against the other choices' "
            f"({protocol_phrase(protocol)}, {where}, "
            f"n = {spread(of_protocol['n_items'])} items a task, tasks with signal)"
        )
        alt = "of what each {} adds to the logit difference, one chart per task."
        lines = (
            f"What each sublayer of each layer adds directly {what}: logit difference in nats, "
            "mean over items, with bootstrap 95 % intervals. Filled markers: not 0 after Holm's "
            "correction over the layers. Layers that prepare what others write are not credited."
            f"{through}"
        )
        draw = partial(attribution_lines, shown, protocol)
        figures.append(
            FigureSpec(f"attribution_{protocol}", draw, lines, f"Line charts {alt.format('layer')}")
        )
        for component, name in _ATTRIBUTED_HEADS.items():
            if component not in set(shown["component"]):
                continue
            head, grey = HEAD_WORDS[component], " Grey: no such head." + through
            heads = (
                f"What each {head} adds directly {what}: logit difference in nats, mean over "
                "items. Dots: not 0 after Benjamini-Hochberg correction over all heads of the "
                "task. The largest, with their intervals, are in the table."
                f"{grey if two and component == 'z' else ''}"
            )
            draw = partial(attribution_heads, shown, protocol, component=component)
            figures.append(
                FigureSpec(f"{name}_{protocol}", draw, heads, f"Heat maps {alt.format(head)}")
            )
    return figures


def sections(run: RunTables) -> list[Section]:
    """Contributions of layers and heads, and the largest of tasks with signal."""
    attribution = run.table("attribution_summary")
    if attribution is None:
        return []
    every = rows(attribution, metric="logit_diff", component=[*SUBLAYERS, *HEADS])
    silent, heard = sorted(set(rows(every, signal=False)["task"])), rows(every, signal=True)
    ranked = heard.iloc[(-abs(numbers(heard, "value"))).argsort(kind="stable")]
    table = as_text(
        "Largest contributions to the logit difference ({shown} of {n})", CONTRIBUTIONS, ranked,
        most=200, where="are in attribution_summary.parquet",
    )  # fmt: skip
    notes = [
        table.note,
        "What the encoder's parts add is within what cross-attention adds."
        if stacks().n_encoder else "",
        f"No signal, so left out: {', '.join(silent)}." if silent else "",
    ]  # fmt: skip
    table = replace(table, note=" ".join(filter(None, notes)))
    gates = gate_tables(run, "attribution_gate", _RIGHT, "guessing among choices (%)")
    words = words_with_exclusions(_ATTRIBUTION_WORDS, run.facts, NAME)
    return [
        Section("attribution", "Direct logit attribution", 50, words,
                tuple(_figures(attribution)), (*gates, table), kinds=(KIND,)),
    ]  # fmt: skip


def _job(setup: Setup, of_profile: bool) -> Attribution:
    from .api import Attribution

    return Attribution(setup, strict=not of_profile)


_PLANS, _EXTRAS = reads_prompts("attribution", "direct logit attribution", _job)
ANALYSIS = Analysis(
    "attribution",
    AttributionResult,
    sections,
    attributions,
    tables=lambda result, others: (
        saved_tables(result, others) | {"attribution_gate": attribution_gate(result.attribution)}
    ),
    files={"attribution_gate": "attribution.parquet, answers counted"},
    curves=Curves("attribution", attribution_evidence),
    plans=_PLANS,
    extras=_EXTRAS,
    done={
        "attribution_summary": "Direct logit attribution split the answer's logit difference "
        "among layers and heads, with the final norm held at its scale.",
    },
)
