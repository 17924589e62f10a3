"""What layers are for, from ``estimates.parquet`` alone: needed by all, by some more, or spare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import (
    ESTABLISHED,
    GAINED,
    GENERAL,
    MORE,
    NEEDED,
    OPEN,
    SHARED,
    SPARED,
    Claim,
    Estimate,
    source,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.no_signal import has_signal
from layerwise.presentation.power import could_be_found
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    capitalised,
    counted,
    few_layers,
    in_order,
    joined,
    layer_ranges,
    number,
    share_lost,
    spread,
    when,
)
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.stats.signals.power import independent_answers
from layerwise.storage.run_tables import RunTables

# Capabilities that share a layer, for a claim of its own.
_MANY = 3
Row = dict[str, Any]


def claims(run: RunTables) -> list[Claim]:
    """What each layer is for, as far as the run's estimates establish it."""
    estimates = run.table("estimates")
    if estimates is None:
        return []
    needed, spare = (rows(estimates, what=what) for what in (NEEDED, SPARED))
    names = in_order(needed["capability"], CAPABILITY_ORDER)
    signal = run.table("signal")
    known = names if signal is None else signal["capability"].unique()
    noun = "capabilities" if len(names) == len(known) else "capabilities with signal"
    size, what = numbers(estimates, "estimate"), estimates["what"]
    large = np.abs(size) >= Interest.of(run.facts.settings).loss - 1e-9
    sure = estimates["established"] & large
    losses = pd.DataFrame(estimates.loc[sure & (what == NEEDED) & (size > 0)])
    more = estimates.loc[sure & (what == MORE) & (size > 0)]
    gains = estimates.loc[sure & (what == np.where(size > 0, GAINED, NEEDED))]
    together = list(_needed_together(losses, names, noun))
    general = [layer for claim in together if claim.kind == GENERAL for layer in claim.layers]
    return [
        *together,
        *_needed_more(more.merge(losses[["capability", "layer"]])),
        *(
            _needed(rows(needed, capability=name), rows(losses, capability=name), general)
            for name in names
        ),
        *_gains(pd.DataFrame(gains), run),
        *_spare(spare, names, noun),
    ]


def _needed_together(losses: pd.DataFrame, names: Sequence[str], noun: str) -> Iterator[Claim]:
    """A claim for the layers that all capabilities need, and for those that the same three do."""
    needing: dict[tuple[str, ...], list[int]] = {}
    for layer in layers_of(losses):
        who = tuple(in_order(rows(losses, layer=layer)["capability"], CAPABILITY_ORDER))
        needing.setdefault(who, []).append(layer)
    for who, layers in needing.items():
        if len(who) == len(names) > 1:
            kind, named = GENERAL, f"{'both' if len(names) == 2 else f'all {len(names)}'} {noun}"
            caveat = "A layer that only passes things on is needed by all, too."
        elif len(who) >= _MANY:
            kind, named = SHARED, joined(who)
            caveat = "That the others do not need it is not shown."
        else:
            continue
        about = rows(losses, layer=layers)
        are, one = ("is", "it") if len(layers) == 1 else ("are", "one")
        points = spread((100 * numbers(about, "estimate")).round())
        yield _established(
            kind,
            f"{capitalised(few_layers(layers))} {are} needed by {named}: losing {one} costs "
            f"{points} accuracy points.",
            about,
            {"what": NEEDED, "layer": layers, "capability": list(who)},
            capabilities=who,
            test=f"the largest of each capability's, {_flips(about)}",
            caveat=caveat,
        )


def _needed_more(more: pd.DataFrame) -> Iterator[Claim]:
    """Claims on capabilities that need layers more than another, by the layer that fewest share."""
    shared = more.groupby("layer")["capability"].transform("nunique")
    for capability in in_order(more["capability"], CAPABILITY_ORDER):
        about = rows(more.assign(shared=shared), capability=capability)
        others = in_order(about["other"], CAPABILITY_ORDER)
        top = records(about.sort_values(["shared", "estimate"], ascending=[True, False]))[0]
        layer, share = name_layer(top["layer"]), float(top["share"])
        average = " on average" * (0.005 <= share < 0.995)  # over tasks and ways of scoring
        unit = f"% of the score more than {top['other']} without layer {layer}"
        yield _established(
            MORE,
            f"{capitalised(capability)} needs {few_layers(layers_of(about))} more than "
            f"{others[0] if len(others) == 1 else 'another capability'} does. Without {layer} it "
            f"loses {share_lost(share)}{average}, {top['other']} {share_lost(top['share_other'])}.",
            about,
            {"what": MORE, "capability": capability, "other": others, "established": True},
            importance=min(float(top["estimate"]), 1.0),
            capabilities=(capability, *others),
            details=tuple(
                f"More than {other}: {layer_ranges(layers_of(rows(about, other=other)))}."
                for other in others
            ),
            estimate=_estimate(top, unit, "contrasts"),
            test="the largest of Welch's t over items, of the losses and of what exceeds each "
            f"capability's usual loss; Holm over {counted(int(top['n_tests']), 'contrast')}",
            caveat="Other layers may break without it; that does not show what it does.",
        )


def _needed(effects: pd.DataFrame, losses: pd.DataFrame, general: list[int]) -> Claim:
    """The layers that a capability needs, those that all need left out if there are others."""
    first = records(effects)[0]
    capability, n_items = str(first["capability"]), int(first["n_items"])
    where = {"what": NEEDED, "capability": capability}
    answers = int(independent_answers(n_items, int(first["n_answers"])))
    found = could_be_found(answers, int(first["n_tests"]))
    common: dict[str, Any] = {
        "capabilities": (capability,),
        "details": (f"With {counted(n_items, 'item')} {found}.",),
        "caveat": "No significant loss is not no loss.",
    }
    if losses.empty:
        none = f"{capitalised(capability)}: no layer is shown to be needed."
        test = f"the smallest; {_flips(effects)}"
        claim = _established(NEEDED, none, effects, where, test=test, **common)
        least = float(numbers(effects, "p_family").min())
        return replace(claim, evidence=OPEN, source=source("estimates", where), layers=(), p=least)
    own = [layer for layer in layers_of(losses) if layer not in general]
    about = rows(losses, layer=own or layers_of(losses))
    top = records(about.sort_values("acc", kind="stable"))[0]
    layer, also = name_layer(top["layer"]), "also " if own and general else ""
    return _established(
        NEEDED,
        f"{capitalised(capability)} {also}needs {few_layers(layers_of(about))}. Without {layer}, "
        f"accuracy falls from {_percent(top['acc_intact'])} to {_percent(top['acc'])} %.",
        about,
        where,
        importance=min(float(top["estimate"]), 1.0),
        estimate=_estimate(top, f"accuracy points without layer {layer}"),
        test=f"the largest; {_flips(effects)}",
        **common,
    )


def _gains(gains: pd.DataFrame, run: RunTables) -> Iterator[Claim]:
    """Gains of capabilities, and of single tasks where their capability is not known to gain."""
    pooled = rows(gains, what=NEEDED)
    known = set(zip(pooled["capability"], pooled["layer"], strict=True))
    for row in records(gains):
        task, protocol, capability = (str(row[of]) for of in ("tasks", "protocols", "capability"))
        about = pd.DataFrame([row])
        who, test = f"{capability} improves", _flips(about)
        details, caveat = (), ""
        if row["what"] == GAINED:
            if (row["capability"], row["layer"]) in known:
                continue
            holm = f"Holm over {counted(int(row['n_tests']), 'test')} (tasks, protocols and layers)"
            who, test = f"{task} improves {when(protocol)}", f"exact sign flips of items, {holm}"
            caveat = "Other tasks of the capability may lose."
            if not has_signal(run, task, protocol):
                who = f"the model answers {task} {when(protocol)}"
                test = f"the largest of exact tests against the intact model and controls, {holm}"
                details = ("The intact model is not shown to be better than its controls there.",)
                caveat = "Other items' questions were asked of the intact model alone."
        where = {"what": row["what"], "capability": capability, "tasks": task}
        yield _established(
            GAINED,
            f"Without layer {name_layer(row['layer'])}, {who}: accuracy rises from "
            f"{_percent(row['acc_intact'])} to {_percent(row['acc'])} %.",
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
        layers = layers_of(about)
        yield _established(
            SPARED,
            f"{capitalised(few_layers(layers))} can {'each ' * (len(layers) > 1)}be spared: "
            f"none of the {noun} loses enough to matter.",
            about,
            {"what": SPARED, "layer": layers},
            capabilities=tuple(names),
            test="the largest; paired tests of equivalence over items, Holm over "
            f"{counted(int(spare['n_tests'].iloc[0]), 'test')}",
            caveat="Nothing is shown about leaving out several.",
        )


def _established(
    kind: str, short: str, about: pd.DataFrame, where: dict[str, Any], **more: Any
) -> Claim:
    """A claim on the layers of some estimates, with the largest of their p-values."""
    layers = layers_of(about)
    names = {
        name: tuple(dict.fromkeys(part for row in about[name] for part in row.split(", ")))
        for name in ("tasks", "protocols")
    }
    return Claim(
        kind=kind,
        short=short,
        evidence=ESTABLISHED,
        source=source("estimates", where, layer=layers),
        layers=tuple(layers),
        p=float(numbers(about, "p_family").max()),
        items=f"{spread(about['n_items'])} items a capability",
        **names,
        **more,
    )


def _estimate(row: Row, unit: str, tests: str = "tests") -> Estimate:
    value, low, high = (100 * float(row[name]) for name in ("estimate", "low", "high"))
    return Estimate(value, low, high, unit, f"bounds for all {row['n_tests']} {tests} together")


def _flips(about: pd.DataFrame) -> str:
    n = counted(int(about["n_tests"].iloc[0]), "test")
    return f"exact sign flips of items, Holm over {n} (capabilities and layers)"


def _percent(share: float) -> str:
    return number(100 * float(share))
