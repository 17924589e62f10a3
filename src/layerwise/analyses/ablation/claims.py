"""What layers are for: needed by all, by some more than by others, or spare.

Claims read ``estimates.parquet`` alone; no test is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

_HIDDEN = ("The intact model is not shown to be better than its controls there.",)
# Capabilities that share a layer, for a claim of its own.
_MANY = 3
# Of a task with signal, and of one without.
_AGAINST = (
    "exact sign flips of items",
    "the largest of exact tests against the intact model, chance and controls",
)
_CAVEATS = (
    "Other tasks of the capability may lose.",
    "Other items' questions were asked of the intact model alone.",
)
_BREAKS = "Other layers may break without it; that does not show what it does."


def claims(run: RunTables) -> list[Claim]:
    """What each layer is for, as far as the run's estimates establish it."""
    estimates = run.table("estimates")
    if estimates is None:
        return []
    needed, more, spare = (rows(estimates, what=what) for what in (NEEDED, MORE, SPARED))
    sign = np.where(estimates["what"] == GAINED, 1, -1)
    gains = rows(estimates.assign(gain=sign * estimates["estimate"]), what=[NEEDED, GAINED])
    smallest = Interest.of(run.facts.settings).loss
    losses = _that_matter(needed, smallest)
    names = in_order(needed["capability"], CAPABILITY_ORDER)
    signal = run.table("signal")
    known = names if signal is None else signal["capability"].unique()
    noun = "capabilities" if len(names) == len(known) else "capabilities with signal"
    together = list(_needed_together(losses, names, noun))
    general = [layer for claim in together if claim.kind == GENERAL for layer in claim.layers]
    return [
        *together,
        *_more(_at_needed_layers(_that_matter(more, smallest), losses)),
        *(
            _needed(rows(needed, capability=name), rows(losses, capability=name), general)
            for name in names
        ),
        *(_gain(row, run) for row in _apart(_that_matter(gains, smallest, "gain"))),
        *_spare(spare, names, noun),
    ]


def _in_all(sure: pd.DataFrame, names: Sequence[str]) -> list[int]:
    """Layers that have a row of every capability."""
    every = [set(layers_of(rows(sure, capability=name))) for name in names]
    return sorted(set.intersection(*every)) if every else []


def _needed_together(losses: pd.DataFrame, names: Sequence[str], noun: str) -> Iterator[Claim]:
    """A claim for the layers that all capabilities need, and for those that the same three do."""
    needing: dict[tuple[str, ...], list[int]] = {}
    for layer in layers_of(losses):
        who = tuple(in_order(rows(losses, layer=layer)["capability"], CAPABILITY_ORDER))
        needing.setdefault(who, []).append(layer)
    for who, layers in needing.items():
        if len(who) == len(names) > 1:
            every = f"{'both' if len(names) == 2 else f'all {len(names)}'} {noun}"
            caveat = "A layer that only passes things on is needed by all, too."
            yield _together(losses, GENERAL, who, every, layers, caveat)
        elif len(who) >= _MANY:
            caveat = "That the others do not need it is not shown."
            yield _together(losses, SHARED, who, joined(who), layers, caveat)


def _together(
    losses: pd.DataFrame, kind: str, who: tuple[str, ...], named: str, layers: list[int],
    caveat: str,
) -> Claim:  # fmt: skip
    about = rows(losses, layer=layers)
    is_one = len(layers) == 1
    points = 100 * numbers(about, "estimate")
    where = {"what": NEEDED, "layer": layers}
    return Claim(
        kind=kind,
        short=f"{capitalised(few_layers(layers))} {'is' if is_one else 'are'} needed by {named}: "
        f"losing {'it' if is_one else 'one'} costs {spread(points.round())} accuracy points.",
        evidence=ESTABLISHED,
        source=source("estimates", where | ({"capability": list(who)} if kind == SHARED else {})),
        capabilities=who,
        layers=tuple(layers),
        p=_largest_p(about),
        test=f"the largest of each capability's, {_flips(about)}",
        **_scope(about),
        caveat=caveat,
    )


def _that_matter(
    estimates: pd.DataFrame, smallest: float, column: str = "estimate"
) -> pd.DataFrame:
    """What is established, and no smaller than what is of interest."""
    large = numbers(estimates, column) >= smallest - 1e-9
    return pd.DataFrame(estimates.loc[estimates["established"] & large])


def _at_needed_layers(more: pd.DataFrame, losses: pd.DataFrame) -> pd.DataFrame:
    """Of differences of needs, those at layers that the capability is shown to need."""
    needs = set(zip(losses["capability"], losses["layer"], strict=True))
    named = zip(more["capability"], more["layer"], strict=True)
    return pd.DataFrame(more.loc[[key in needs for key in named]])


def _more(sure: pd.DataFrame) -> list[Claim]:
    """One claim for each capability that needs layers more than another does."""
    names = in_order(sure["capability"], CAPABILITY_ORDER)
    shared = sure.groupby("layer")["capability"].transform("nunique")
    sure = sure.assign(shared=shared)
    return [_more_of(rows(sure, capability=name), str(name)) for name in names]


def _more_of(effects: pd.DataFrame, capability: str) -> Claim:
    """Its example is the layer that the fewest capabilities need more than others."""
    others = in_order(effects["other"], CAPABILITY_ORDER)
    layers = layers_of(effects)
    top = records(effects.sort_values(["shared", "estimate"], ascending=[True, False]))[0]
    layer = name_layer(top["layer"])
    less = "another capability" if len(others) > 1 else others[0]
    n_tests = int(top["n_tests"])
    return Claim(
        kind=MORE,
        short=f"{capitalised(capability)} needs {few_layers(layers)} more than {less} does. "
        f"Without {layer} it loses {_on_average(top['share'])}, {top['other']} "
        f"{share_lost(top['share_other'])}.",
        evidence=ESTABLISHED,
        importance=min(float(top["estimate"]), 1.0),
        source=source("estimates", {"what": MORE, "capability": capability, "other": others,
                                    "established": True}, layer=layers),
        capabilities=(capability, *others),
        layers=tuple(layers),
        details=tuple(
            f"More than {other}: {layer_ranges(layers_of(rows(effects, other=other)))}."
            for other in others
        ),
        estimate=_estimate(
            top, f"% of the score more than {top['other']} without layer {layer}", "contrasts"
        ),
        p=_largest_p(effects),
        test="the largest of Welch's t over items, of the losses and of what exceeds each "
        f"capability's usual loss; Holm over {counted(n_tests, 'contrast')}",
        **_scope(effects),
        caveat=_BREAKS,
    )  # fmt: skip


def _needed(effects: pd.DataFrame, sure: pd.DataFrame, general: list[int]) -> Claim:
    """The layers that a capability needs beside those that all need."""
    every = layers_of(sure)
    own = [layer for layer in every if layer not in general]
    first = records(effects)[0]
    capability = capitalised(str(first["capability"]))
    where = {"what": NEEDED, "capability": str(first["capability"])}
    common = {
        "kind": NEEDED,
        "capabilities": (str(first["capability"]),),
        **_scope(effects),
        "details": (_power(effects),),
        "caveat": "No significant loss is not no loss.",
    }
    if not every:
        least = float(numbers(effects, "p_family").min())
        return Claim(
            short=f"{capability}: no layer is shown to be needed.", evidence=OPEN, p=least,
            test=f"the smallest; {_flips(effects)}", source=source("estimates", where), **common,
        )  # fmt: skip
    shown = own or every
    top = records(rows(sure, layer=shown).sort_values("acc", kind="stable"))[0]
    if own and general:
        needs = f"{capability} also needs {few_layers(own)}."
    elif general:
        needs = f"{capability} is shown to need no other layer than those that all need."
    else:
        needs = f"{capability} needs {few_layers(every)}."
    fall = (
        f"Without {name_layer(top['layer'])}, accuracy falls from {_percent(top['acc_intact'])} "
        f"to {_percent(top['acc'])} %."
    )
    return Claim(
        short=f"{needs} {fall}",
        evidence=ESTABLISHED,
        importance=min(float(top["estimate"]), 1.0),
        source=source("estimates", where, layer=shown),
        layers=tuple(shown),
        estimate=_estimate(top, f"accuracy points without layer {name_layer(top['layer'])}"),
        p=_largest_p(rows(effects, layer=shown)),
        test=f"the largest; {_flips(effects)}",
        **common,
    )  # fmt: skip


def _apart(gains: pd.DataFrame) -> list[dict[str, Any]]:
    """Gains of capabilities, and of single tasks where their capability is not known to gain."""
    pooled = rows(gains, what=NEEDED)
    known = set(zip(pooled["capability"], pooled["layer"], strict=True))
    return [
        row
        for row in records(gains)
        if row["what"] == NEEDED or (row["capability"], row["layer"]) not in known
    ]


def _gain(row: dict[str, Any], run: RunTables) -> Claim:
    """A layer without which a capability or a task is better, or no longer guessed on."""
    layer, task, protocol = int(row["layer"]), str(row["tasks"]), str(row["protocols"])
    single, capability = row["what"] == GAINED, str(row["capability"])
    hidden = single and not has_signal(run, task, protocol)
    about = pd.DataFrame([row])
    who = f"{task} improves {when(protocol)}" if single else f"{capability} improves"
    if hidden:
        who = f"the model answers {task} {when(protocol)}"
    where = {"what": row["what"], "capability": capability, "tasks": task}
    n = counted(int(row["n_tests"]), "test")
    return Claim(
        kind=GAINED,
        short=f"Without layer {name_layer(layer)}, {who}: accuracy rises from "
        f"{_percent(row['acc_intact'])} to {_percent(row['acc'])} %.",
        evidence=ESTABLISHED,
        importance=min(float(row["gain"]), 1.0),
        source=source("estimates", where | {"protocols": protocol}, layer=layer),
        capabilities=(str(row["capability"]),),
        layers=(layer,),
        details=_HIDDEN if hidden else (),
        p=float(row["p_family"]),
        test=f"{_AGAINST[hidden]}, Holm over {n} (tasks, protocols and layers)"
        if single else _flips(about),
        **_scope(about),
        caveat=_CAVEATS[hidden] if single else "",
    )  # fmt: skip


def _spare(spare: pd.DataFrame, names: Sequence[str], noun: str) -> list[Claim]:
    """Layers of which a loss that matters is excluded for every capability with signal."""
    sure = rows(spare, established=True)
    layers = _in_all(sure, names)
    if not layers:
        return []
    alone = "each " if len(layers) > 1 else ""
    every = f"none of the {noun}" if len(names) > 1 else f"{names[0]} never"
    return [
        Claim(
            kind=SPARED,
            short=f"{capitalised(few_layers(layers))} can {alone}be spared: {every} loses "
            "enough to matter.",
            evidence=ESTABLISHED,
            source=source("estimates", {"what": SPARED, "layer": layers}),
            capabilities=tuple(names),
            layers=tuple(layers),
            p=_largest_p(rows(sure, layer=layers)),
            test="the largest; paired tests of equivalence over items, Holm over "
            f"{counted(int(spare['n_tests'].iloc[0]), 'test')}",
            **_scope(pd.DataFrame(sure)),
            caveat="Nothing is shown about leaving out several.",
        )
    ]


def _estimate(row: dict[str, Any], unit: str, tests: str = "tests") -> Estimate:
    value, low, high = (100 * float(row[name]) for name in ("estimate", "low", "high"))
    return Estimate(value, low, high, unit, f"bounds for all {row['n_tests']} {tests} together")


def _largest_p(about: pd.DataFrame) -> float:
    return float(numbers(about, "p_family").max())


def _flips(about: pd.DataFrame) -> str:
    n = counted(int(about["n_tests"].iloc[0]), "test")
    return f"exact sign flips of items, Holm over {n} (capabilities and layers)"


def _scope(about: pd.DataFrame) -> dict[str, Any]:
    names = {
        name: tuple(dict.fromkeys(part for row in about[name] for part in row.split(", ")))
        for name in ("tasks", "protocols")
    }
    return names | {"items": f"{spread(about['n_items'])} items a capability"}


def _on_average(share: float) -> str:
    """A share lost, averaged over tasks and ways of scoring."""
    return f"{share_lost(share)}{' on average' * (0.005 <= share < 0.995)}"


def _percent(share: float) -> str:
    return number(100 * float(share))


def _power(effects: pd.DataFrame) -> str:
    n, n_answers, n_tests = (int(effects[of].iloc[0]) for of in ("n_items", "n_answers", "n_tests"))
    shown = could_be_found(int(independent_answers(n, n_answers)), n_tests)
    return f"With {counted(n, 'item')} {shown}."
