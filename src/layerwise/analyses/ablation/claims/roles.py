"""Claims of what layers are for, from ``estimates.parquet`` alone: different roles, and needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import (
    GAINED,
    GENERAL,
    MORE,
    NEEDED,
    OPEN,
    SHARED,
    SPARED,
    Claim,
    source,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.no_signal import has_signal
from layerwise.presentation.power import detectable_loss_text
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
)
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.stats.signals.power import independent_answers
from layerwise.storage.run_tables import RunTables

from .differences import (
    compared_capabilities,
    depend_on_different_layers,
    loses_more_claims,
    one_order,
)
from .established import layers_claim, parts_in_points, percent, split_names

# Capabilities that share a layer, for a claim of its own.
_MANY = 3


def claims(run: RunTables) -> list[Claim]:
    """Roles of layers, as far as the run's estimates establish them."""
    estimates = run.table("capability_estimates")
    if estimates is None:
        return []
    needed, spare = (rows(estimates, what=what) for what in (NEEDED, SPARED))
    names = in_order(needed["capability"], CAPABILITY_ORDER)
    signal = run.table("signal")
    known = names if signal is None else signal["capability"].unique()
    noun = "capabilities" if len(names) == len(known) else "capabilities with signal"
    size, what = numbers(estimates, "estimate"), estimates["what"]
    large = np.abs(size) >= SmallestEffects.from_settings(run.facts.settings).loss - 1e-9
    sure = estimates["established"] & large
    losses = pd.DataFrame(estimates.loc[sure & (what == NEEDED) & (size > 0)])
    more = estimates.loc[sure & (what == MORE) & (size > 0)]
    gains = estimates.loc[sure & (what == np.where(size > 0, GAINED, NEEDED))]
    together = list(_shared_layer_claims(losses, names, noun))
    general = [layer for claim in together if claim.kind == GENERAL for layer in claim.layers]
    return [
        *(
            depend_on_different_layers(pair) if pair.layers[0] else one_order(pair)
            for pair in compared_capabilities(run)
        ),
        *together,
        *(
            _needed_layers_claim(
                rows(needed, capability=name), rows(losses, capability=name), general
            )
            for name in names
        ),
        *loses_more_claims(more.merge(losses[["capability", "layer"]])),
        *_gains(pd.DataFrame(gains), run),
        *_spare(spare, names, noun),
    ]


def _shared_layer_claims(losses: pd.DataFrame, names: Sequence[str], noun: str) -> Iterator[Claim]:
    """A claim for the layers that all capabilities need, and for those that the same three do."""
    needing: dict[tuple[str, ...], list[int]] = {}
    for layer in layers_in(losses):
        who = tuple(in_order(rows(losses, layer=layer)["capability"], CAPABILITY_ORDER))
        needing.setdefault(who, []).append(layer)
    for who, layers in needing.items():
        if len(who) == len(names) > 1:
            kind, named = GENERAL, f"{'both' if len(names) == 2 else f'all {len(names)}'} {noun}"
            caveat = "A layer that only passes things on is needed by all, too."
        elif len(who) >= _MANY:
            kind, named = SHARED, join_words(who)
            caveat = "That the others do not need it is not shown."
        else:
            continue
        about = rows(losses, layer=layers)
        are = "is" if len(layers) == 1 else "are"
        weakest = records(about.sort_values("estimate", kind="stable"))[0]
        where = f" without {name_layer(weakest['layer'])}" if layers[1:] else ""
        yield layers_claim(
            kind,
            f"{capitalise(few_layers(layers))} {are} needed by {named}; {weakest['capability']} "
            f"loses least: {number(100 * weakest['estimate'])} points{where}.",
            about,
            {"what": NEEDED, "layer": layers, "capability": list(who)},
            capabilities=who,
            test=f"the largest of each capability's, {_flips(about)}",
            caveat=caveat,
        )


def _needed_layers_claim(effects: pd.DataFrame, losses: pd.DataFrame, general: list[int]) -> Claim:
    """The layers that a capability needs, those that all need left out if there are others."""
    first = records(effects)[0]
    capability, n_items = str(first["capability"]), int(first["n_items"])
    where = {"what": NEEDED, "capability": capability}
    answers = int(independent_answers(n_items, int(first["n_answers"])))
    found = detectable_loss_text(answers, int(first["n_tests"]))
    common: dict[str, Any] = {
        "capabilities": (capability,),
        "details": (f"With {count_noun(n_items, 'item')} {found}.",),
        "caveat": "No significant loss is not no loss.",
    }
    if losses.empty:
        none = f"{capitalise(capability)}: no layer is shown to be needed."
        test = f"the smallest; {_flips(effects)}"
        claim = layers_claim(NEEDED, none, effects, where, test=test, **common)
        least = float(numbers(effects, "p_table").min())
        told = source("capability_estimates", where)
        return replace(claim, evidence=OPEN, source=told, layers=(), p=least)
    own = [layer for layer in layers_in(losses) if layer not in general]
    about = rows(losses, layer=own or layers_in(losses))
    ways = {name for row in about["protocols_alone"] for name in split_names(row)}
    only = f" {protocol_phrase(*ways)}" if len(ways) == 1 else ""
    common["details"] += tuple(_task_sentences(about))
    top = records(about.sort_values("acc", kind="stable"))[0]
    layer, also = name_layer(top["layer"]), "also " if own and general else ""
    return layers_claim(
        NEEDED,
        f"{capitalise(capability)} {also}needs {few_layers(layers_in(about))}{only}. Without "
        f"{layer}, "
        f"accuracy falls from {percent(top['acc_intact'])} to {percent(top['acc'])} %.",
        about,
        where,
        importance=min(float(top["estimate"]), 1.0),
        estimate=parts_in_points(top, f"accuracy points without layer {layer}"),
        test=f"the largest; {_flips(effects)}",
        **common,
    )


def _task_sentences(about: pd.DataFrame) -> Iterator[str]:
    """Layers that each task and way of scoring shows by itself, where there are several."""
    for names, column in (("tasks", "tasks_alone"), ("protocols", "protocols_alone")):
        asked = split_names(about[names].iloc[0])
        for name in asked if len(asked) > 1 else ():
            chosen = [name in split_names(alone) for alone in about[column]]
            layers = layers_in(pd.DataFrame(about.loc[chosen]))
            who = (
                f"Taken {protocol_phrase(name)} alone, it"
                if names == "protocols"
                else f"By itself, {name}"
            )
            yield f"{who} shows {few_layers(layers) if layers else 'none of them'}."


def _gains(gains: pd.DataFrame, run: RunTables) -> Iterator[Claim]:
    """Gains of capabilities, and of single tasks where their capability is not known to gain."""
    pooled = rows(gains, what=NEEDED)
    known = set(zip(pooled["capability"], pooled["layer"], strict=True))
    for row in records(gains):
        task, protocol, capability = (str(row[of]) for of in ("tasks", "protocols", "capability"))
        about = pd.DataFrame([row])
        who, test = f"{capability} improves: accuracy", _flips(about)
        details, caveat = (), ""
        if row["what"] == GAINED:
            if (row["capability"], row["layer"]) in known:
                continue
            holm = (
                f"Holm over {count_noun(int(row['n_tests']), 'test')} (tasks, protocols and layers)"
            )
            who, test = (
                f"{task} improves {protocol_phrase(protocol)}: accuracy",
                f"exact sign flips of items, {holm}",
            )
            caveat = "Other tasks of the capability may lose."
            if not has_signal(run, task, protocol):
                who = f"accuracy on {task} {protocol_phrase(protocol)}"
                test = f"the largest of exact tests against the intact model and controls, {holm}"
                details = ("The intact model is not shown to be better than its controls there.",)
                caveat = "That it reads the question is not shown."
        where = {"what": row["what"], "capability": capability, "tasks": task}
        yield layers_claim(
            GAINED,
            f"Without layer {name_layer(row['layer'])}, {who} rises from "
            f"{percent(row['acc_intact'])} to {percent(row['acc'])} %.",
            about,
            where | {"protocols": protocol},
            importance=min(abs(float(row["estimate"])), 1.0),
            capabilities=(capability,),
            details=details,
            test=test,
            caveat=caveat,
        )


def _spare(spare: pd.DataFrame, names: Sequence[str], noun: str) -> Iterator[Claim]:
    """Layers of which a loss that matters is excluded for every capability with signal."""
    sure = rows(spare, established=True, capability=list(names))
    n_capabilities = sure.groupby("layer")["capability"].transform("nunique")
    about = pd.DataFrame(sure.loc[n_capabilities == len(names)])
    if len(about):
        layers = layers_in(about)
        yield layers_claim(
            SPARED,
            f"{capitalise(few_layers(layers))} can {'each ' * (len(layers) > 1)}be spared: "
            f"none of the {noun} loses enough to matter.",
            about,
            {"what": SPARED, "layer": layers},
            capabilities=tuple(names),
            test="the largest of every task's and protocol's test of equivalence, Holm over "
            f"{count_noun(int(spare['n_tests'].iloc[0]), 'test')}",
            caveat="Nothing is shown about leaving out several.",
        )


def _flips(about: pd.DataFrame) -> str:
    n = count_noun(int(about["n_tests"].iloc[0]), "test")
    return f"exact sign flips of items, Holm over {n} (capabilities and layers)"
