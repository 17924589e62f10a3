"""Differences of two capabilities: layers that cross, one order that may explain both, shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerwise.presentation.claim import APART, MORE, ONE_ORDER, OPEN, Claim, source
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    capitalise,
    count_noun,
    few_layers,
    in_order,
    join_words,
    number,
    protocol_phrase,
    writes,
)
from layerwise.stats.crossings import CROSSING
from layerwise.storage.run_tables import RunTables

from .established import Row, layers_claim, parts_in_points, percent, split_names


class CapabilityComparison(NamedTuple):
    """Two capabilities whose layers were compared, and those that cross."""

    capabilities: tuple[str, str]
    names: tuple[str, str]  # each by its name, or by its tasks where they do not agree
    tasks: tuple[tuple[str, ...], tuple[str, ...]]
    protocols: tuple[str, ...]
    # Layers on its side of an established crossing, and not on the other's side of one as well, as
    # a layer is that both need somewhat.
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    crossings: pd.DataFrame  # their rows of ``estimates.parquet``; if there are none, all rows
    closest: tuple[Row, Row]  # both sides of the largest crossing
    gap: float  # accuracy by which the smaller side of it differs; 0 if none is established


def compared_capabilities(run: RunTables) -> list[CapabilityComparison]:
    """Pairs of capabilities, those with the largest crossings first; compared once for a run."""
    return list(run.compute_cached(_every_pair))


def _every_pair(run: RunTables) -> tuple[CapabilityComparison, ...]:
    estimates = run.table("capability_estimates")
    table = pd.DataFrame() if estimates is None else rows(estimates, what=CROSSING)
    names = in_order(table["capability"], CAPABILITY_ORDER) if len(table) else []
    every = [
        _compare_pair(pair, *sides)
        for pair in combinations(names, 2)
        for sides in [[rows(table, capability=a, other=b) for a, b in (pair, pair[::-1])]]
        if len(sides[0])
    ]
    return tuple(sorted(every, key=lambda pair: -pair.gap))


def _compare_pair(
    pair: tuple[str, str], one: pd.DataFrame, two: pd.DataFrame
) -> CapabilityComparison:
    sure = [rows(side, established=True) for side in (one, two)]
    layers = [set(layers_in(side)) for side in sure]
    own = tuple(sorted(layers[0] - layers[1])), tuple(sorted(layers[1] - layers[0]))
    named = [rows(side, layer=list(ones)) for side, ones in zip(sure, own, strict=True)]
    smaller = np.minimum(numbers(one, "estimate"), numbers(two, "estimate"))
    clear = one["layer"].isin(own[0]) & one["other_layer"].isin(own[1]) & one["established"]
    smaller = np.where(clear, smaller, np.where(one["established"], smaller - 1, -2.0))
    at = int(np.argmax(smaller))
    return CapabilityComparison(
        pair,
        (_side_name(named[0] if own[0] else one), _side_name(named[1] if own[1] else two)),
        (tuple(split_names(one["tasks"].iloc[0])), tuple(split_names(two["tasks"].iloc[0]))),
        tuple(split_names(one["protocols"].iloc[0])),
        own,
        pd.concat(named if own[0] else [one, two]),
        (records(one)[at], records(two)[at]),
        max(float(smaller[at]), 0.0),
    )


def different_layers(run: RunTables) -> list[CapabilityComparison]:
    """Pairs of capabilities that no one order of layers explains."""
    return [pair for pair in compared_capabilities(run) if pair.layers[0]]


def _side_name(side: pd.DataFrame) -> str:
    """A capability if two of its tasks show each layer by themselves, else its tasks."""
    # What one task shows holds of that task.
    alone = [(row["layer"], set(split_names(row["tasks_alone"]))) for row in records(side)]
    agree = {layer for layer, tasks in alone if len(tasks) > 1}
    if agree == set(layers_in(side)):
        return str(side["capability"].iloc[0])
    shown = set[str]().union(*(tasks for _, tasks in alone))
    tasks = split_names(side["tasks"].iloc[0])
    named = [task for task in tasks if task in shown] or tasks
    return named[0] if len(named) == 1 else f"{side['capability'].iloc[0]} ({', '.join(named)})"


def depend_on_different_layers(pair: CapabilityComparison) -> Claim:
    """Two capabilities, each with the layers that cost it more and the other one less."""
    one, two = pair.names
    own, others = (few_layers(layers, noun="") for layers in pair.layers)
    sure = pair.crossings
    alone = sorted({name for row in sure["protocols_alone"] for name in split_names(row)})
    only = f" when the model {writes(alone[0])}" if len(alone) == 1 else ""
    n_tests = int(sure["n_tests"].iloc[0])
    both = list(pair.capabilities)
    return layers_claim(
        APART,
        f"{capitalise(one)} and {two} depend on different layers{only}: {own} against {others}.",
        sure,
        {"what": CROSSING, "capability": both, "other": both, "established": True},
        importance=min(pair.gap, 1.0),
        capabilities=pair.capabilities,
        details=(with_named_sides(pair), *_agreement(pair, sure)),
        test="exact sign flips of items on both sides, the larger p, Holm over "
        f"{count_noun(n_tests, 'crossing')} (pairs of layers, pairs of capabilities)",
        caveat="A harder task alone makes no such pair of layers. It does not show what they do.",
    )


def with_named_sides(pair: CapabilityComparison) -> str:
    """Losses of both capabilities without each of the two layers that cross most clearly."""
    (one, two), (first, second) = pair.names, pair.closest
    i, j = name_layer(first["layer"]), name_layer(second["layer"])
    return (
        f"Without layer {i}, {one} falls from {percent(first['acc_intact'])} to "
        f"{percent(first['acc'])} %, {two} from {percent(second['acc_intact'])} to "
        f"{percent(second['acc_other_layer'])}; without {j}, to "
        f"{percent(first['acc_other_layer'])} and {percent(second['acc'])} %."
    )


def _agreement(pair: CapabilityComparison, sure: pd.DataFrame) -> Iterator[str]:
    """Layers that each task and each way of scoring shows by itself."""
    for capability, tasks in zip(pair.capabilities, pair.tasks, strict=True):
        if len(tasks) == 1:
            yield f"Of {capability}, {tasks[0]} alone was compared: its other tasks may differ."
            continue
        side = rows(sure, capability=capability)
        for task in tasks:
            layers = layers_in(_with_name(side, "tasks_alone", task))
            yield f"By itself, {task} shows {few_layers(layers) if layers else 'no layer'}."
    for protocol in pair.protocols if len(pair.protocols) > 1 else ():
        layers = layers_in(_with_name(sure, "protocols_alone", protocol))
        crossings = f"{few_layers(layers)} cross" if layers else "no layers are shown to cross"
        yield f"Taken {protocol_phrase(protocol)} alone, {crossings}."


def _with_name(table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    return pd.DataFrame(table.loc[[name in split_names(alone) for alone in table[column]]])


def one_order(pair: CapabilityComparison) -> Claim:
    """Two capabilities without a crossing: nothing tells their layers apart."""
    both = {"what": CROSSING, "capability": list(pair.capabilities)}
    both |= {"other": list(pair.capabilities)}
    one, two = pair.capabilities
    claim = layers_claim(
        ONE_ORDER,
        f"One order of layers may explain {one} and {two}: no layer is shown to matter to one "
        "rather than to the other.",
        pair.crossings,
        both,
        capabilities=pair.capabilities,
        test="the smallest of exact sign flips of items on both sides, Holm over "
        f"{count_noun(int(pair.crossings['n_tests'].iloc[0]), 'crossing')}",
        caveat="That they share one order is not shown.",
    )
    p = float(numbers(pair.crossings, "p_table").min())
    told = source("capability_estimates", both)
    return replace(claim, evidence=OPEN, source=told, layers=(), p=p)


def loses_more_claims(more: pd.DataFrame) -> Iterator[Claim]:
    """Claims on capabilities that lose more of their score than another, for each other one."""
    pairs = more[["capability", "other"]].drop_duplicates().to_numpy(dtype=str).tolist()
    for capability, other in pairs:
        about = rows(more, capability=capability, other=other)
        top = records(about.sort_values("estimate", ascending=False, kind="stable"))[0]
        layer = name_layer(top["layer"])
        unit = f"% of the score more than {other} without layer {layer}"
        yield layers_claim(
            MORE,
            f"{capitalise(capability)} loses more of its score than {other} without "
            f"{few_layers(layers_in(about))}. It may be only harder.",
            about,
            {"what": MORE, "capability": capability, "other": other, "established": True},
            importance=min(float(top["estimate"]), 1.0),
            capabilities=(capability, other),
            details=(*_score_and_margin(top),),
            estimate=parts_in_points(top, unit, "contrasts"),
            test="the largest of Welch's t over items, of the losses and of what exceeds each "
            f"capability's usual loss; Holm over {count_noun(int(top['n_tests']), 'contrast')}",
            caveat="A layer that takes the same from every answer's margin takes more of the score "
            "of a harder task.",
        )


def _score_and_margin(row: Row) -> Iterator[str]:
    """Both accuracies without a layer, and what it takes of both margins."""
    names, layer = (row["capability"], row["other"]), name_layer(row["layer"])
    right = (row["acc_intact"], row["acc"]), (row["acc_intact_other"], row["acc_other"])
    fall = [f"{name} falls from {percent(one)} to {percent(two)} %"
            for name, (one, two) in zip(names, right, strict=True)]  # fmt: skip
    yield f"Without layer {layer}, {join_words(fall)}."
    lost = row["margin"], row["margin_other"]
    if not any(map(pd.isna, lost)):
        nats = [
            f"{number(value, 1)} nats of {name}" for value, name in zip(lost, names, strict=True)
        ]
        yield f"It takes {join_words(nats)} from the margin of the right answer, on average."
