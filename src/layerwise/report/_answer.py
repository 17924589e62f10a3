"""The first screen of a run: the answer in a sentence, a strip over the layers, and its limits.

It reads claims and tables; pages and terminals render it. No test is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerwise.analyses.ablation.claims.differences import different_layers
from layerwise.analyses.ablation.tables.saved_effects import ablations, select_effects
from layerwise.analyses.replication.columns import verdict_lines
from layerwise.presentation.claim import (
    APART,
    ESTABLISHED,
    GENERAL,
    LENS,
    NEEDED,
    ONE_ORDER,
    ORDER,
    PATCHING,
    PUBLISHED,
    ROLES,
    SCORING,
    SHARED,
    SILENT,
    SPARED,
    VERDICT,
    Claim,
)
from layerwise.presentation.naming import model_layer_names, model_title, name_layer
from layerwise.presentation.no_signal import (
    by_protocol,
    has_little_to_lose,
    levels,
    little_to_lose,
    right_answers,
    sentences,
)
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.section import GridCell
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    count_range,
    few_layers,
    in_order,
    intervention_phrase,
    join_words,
    number,
    percent,
    protocol_phrase,
    writes,
)
from layerwise.storage.run_tables import RunTables

# Claims on the first screen: of each kind, and in all.
_MOST_OF_KIND, _MOST = 4, 8
# Pairs of capabilities that the headline names beside the first.
_MOST_NAMED = 2
# Of claims on scoring, only those on this table say that the answer changes with it.
_OTHER_LAYERS = "dissociations"
_SHADES = 10
# Labels on the axis of layers.
_LABELS = 10


class Band(NamedTuple):
    """One way of scoring a capability: a cell by layer, or why it has none."""

    protocol: str
    cells: Mapping[int, GridCell]  # the share of the score that is lost without the layer
    silent: str = ""
    right: str = ""  # how often the intact model is right
    pale: bool = False  # whether it has too few right answers to compare layers by

    @property
    def words(self) -> str:
        """Words for what the model does under the protocol."""
        return writes(self.protocol)


class CapabilityBlock(NamedTuple):
    """A capability on the strip."""

    capability: str
    tasks: tuple[str, ...]
    bands: tuple[Band, ...]  # those without signal last
    needed: frozenset[int]  # layers that it is shown to need
    particular: frozenset[int]  # layers that it depends on and another capability does not

    @property
    def n_with_signal(self) -> int:
        """Number of bands with signal."""
        return sum(not band.silent for band in self.bands)


class StripColumn(NamedTuple):
    """A layer on the axis."""

    layer: int
    name: str  # ``"7"``, ``"encoder.3"``
    label: str  # its number within its stack; empty where there is no room for one
    stack: str  # ``"encoder"`` or ``"decoder"``; empty in a model of one stack
    starts_stack: bool  # whether it is the first of the second stack


@dataclass(frozen=True)
class Answer:
    """First screen of a run."""

    about: str  # model, layers, tasks, items and ways of scoring
    headline: str  # the answer, or that there is none
    columns: tuple[StripColumn, ...]  # the layers of the strip
    blocks: tuple[CapabilityBlock, ...]  # the strip
    general: frozenset[int]  # layers that every capability needs
    change: str  # what was done to a layer
    claims: tuple[Claim, ...]  # those of the first screen
    not_shown: tuple[str, ...]  # what must not be concluded
    lines: tuple[str, ...] = ()  # verdicts on published claims, where a run has them


def first_screen(run: RunTables, claims: Sequence[Claim]) -> Answer:
    """The first screen of a run."""
    with model_layer_names(run.facts.model):
        kinds = ablations(run)
        effects = select_effects(run, *kinds[0]) if kinds else pd.DataFrame()
        layers = layers_in(effects) if len(effects) else []
        return Answer(
            _run_summary(run),
            _headline(run, effects, claims),
            _columns(layers, run.facts.model.n_encoder_layers),
            _blocks(run, effects, claims),
            _established_layers(claims, GENERAL),
            intervention_phrase(*kinds[0], "a layer") if kinds else "",
            _first(claims),
            _limits(run, claims, effects),
            tuple(verdict_lines(run)),
        )


def _run_summary(run: RunTables) -> str:
    facts = run.facts
    model = facts.model
    layers = f"{model.n_layers} layers"
    if model.n_encoder_layers:
        decoder = model.n_layers - model.n_encoder_layers
        layers = f"{model.n_encoder_layers} encoder and {decoder} decoder layers"
    items = count_range((task.n_items for task in facts.tasks), "item")
    tasks = f"{count_noun(len(facts.tasks), 'task')}, {items} each" if facts.tasks else "no tasks"
    ways = join_words(writes(protocol) for protocol in in_order(facts.protocols, PROTOCOL_ORDER))
    parts = [model_title(model), layers, tasks, f"the model {ways}" if ways else ""]
    return " · ".join(filter(None, parts))


def _established_layers(claims: Sequence[Claim], kind: str, capability: str = "") -> frozenset[int]:
    """Layers of the established claims of a kind, of one capability if it is given."""
    return frozenset(
        layer
        for claim in claims
        if claim.kind == kind and claim.evidence == ESTABLISHED
        if not capability or claim.capabilities[:1] == (capability,)
        for layer in claim.layers
    )


def _headline(run: RunTables, effects: pd.DataFrame, claims: Sequence[Claim]) -> str:
    model = run.facts.model.name
    if published := [claim for claim in claims if claim.kind == PUBLISHED]:
        return published[0].short
    spoken = [claim for claim in claims if claim.kind != SILENT]
    if effects.empty and spoken:
        return spoken[0].short
    if not claims and effects.empty:
        return f"Nothing is established about {model} here."
    if effects.empty or rows(effects, signal=True).empty:
        return f"{model} guesses. Nothing can be said about its layers here."
    names = in_order(rows(effects, signal=True)["capability"], CAPABILITY_ORDER)
    general = sorted(_established_layers(claims, GENERAL))
    needs = {
        name: layers
        for name in names
        if (layers := sorted(_established_layers(claims, NEEDED, name)))
    }
    every = "Both capabilities" if len(names) == 2 else f"All {len(names)} capabilities"
    signal = " with signal" * (len(set(effects["capability"])) > len(names))
    of_all = f"{every}{signal} need {few_layers(general)}." if general else ""
    if apart := [claim for claim in claims if claim.kind == APART]:
        return " ".join(
            filter(None, [apart[0].short, _other_different_pairs(run), _open(claims), of_all])
        )
    shown = join_words(f"{name} needs {few_layers(layers)}" for name, layers in needs.items())
    nothing = "No layer is shown to be needed."
    if run.table("capability_estimates") is None:
        nothing = "Layers are shown task by task; capabilities were not compared."
    return " ".join(
        [of_all or (f"{capitalise(shown)}." if shown else nothing), *filter(None, [_open(claims)])]
    )


def _other_different_pairs(run: RunTables) -> str:
    """The other pairs that depend on different layers."""
    named = [join_words(pair.names) for pair in different_layers(run)[1:]]
    if len(named) > _MOST_NAMED:
        return f"So do {len(named)} other pairs of capabilities."
    return f"So do {'; '.join(named)}." if named else ""


def _open(claims: Sequence[Claim]) -> str:
    """The pairs that one order of layers may explain."""
    pairs = [claim.capabilities for claim in claims if claim.kind == ONE_ORDER]
    if len(pairs) > _MOST_NAMED:
        every = join_words(in_order((name for pair in pairs for name in pair), CAPABILITY_ORDER))
        return f"One order of layers may explain {len(pairs)} pairs of {every}."
    named = "; or ".join(map(join_words, pairs))
    return f"One order of layers may explain {named}." if named else ""


def _columns(layers: Sequence[int], n_encoder: int) -> tuple[StripColumn, ...]:
    """The axis: first, last and some layers between are named."""
    n = len(layers)
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if n <= _LABELS * s), max(n // _LABELS, 1))
    near = (step + 1) // 2 + (n > 20)  # so close to an end there is no room for another label
    ends = [i for i, layer in enumerate(layers) if i == n - 1 or layer == n_encoder - 1]
    columns = []
    for i, layer in enumerate(layers):
        within = layer - n_encoder if layer >= n_encoder else layer
        crowded = any(0 < end - i < near for end in ends)
        named = i in ends or (within % step == 0 and not crowded)
        name = name_layer(layer)
        label, stack = str(within) if named else "", name.rpartition(".")[0]
        columns.append(StripColumn(layer, name, label, stack, 0 < n_encoder == layer))
    return tuple(columns)


def _blocks(
    run: RunTables, effects: pd.DataFrame, claims: Sequence[Claim]
) -> tuple[CapabilityBlock, ...]:
    signal = run.table("signal")
    if effects.empty or signal is None:
        return ()
    general = _established_layers(claims, GENERAL)
    lit = rows(signal, signal=True)["protocol"]
    if len(lit):  # a way of scoring that no task has signal under is in the box alone
        signal = rows(signal, protocol=list(lit.unique()))
    blocks = []
    for capability in map(str, in_order(signal["capability"], CAPABILITY_ORDER)):
        of_capability, gates = (rows(table, capability=capability) for table in (effects, signal))
        bands = [
            _band(protocol, rows(of_capability, protocol=protocol), rows(gates, protocol=protocol))
            for protocol in in_order(gates["protocol"], PROTOCOL_ORDER)
        ]
        ordered = tuple(sorted(bands, key=lambda band: bool(band.silent)))
        silent = all(band.silent for band in bands)
        needed = (
            frozenset() if silent else _established_layers(claims, NEEDED, capability) | general
        )
        particular = frozenset() if silent else _particular(run, capability)
        tasks = tuple(in_order(gates["task"], ()))
        blocks.append(CapabilityBlock(capability, tasks, ordered, needed, particular))
    return tuple(blocks)


def _particular(run: RunTables, capability: str) -> frozenset[int]:
    """Layers that the capability depends on and any other one does not."""
    return frozenset(
        layer
        for pair in different_layers(run)
        for name, layers in zip(pair.capabilities, pair.layers, strict=True)
        if name == capability
        for layer in layers
    )


def _band(protocol: str, effects: pd.DataFrame, gates: pd.DataFrame) -> Band:
    lit = rows(effects, signal=True)
    if lit.empty:
        return Band(protocol, {}, f"no signal: {levels(records(gates))}")
    cells = {}
    for layer in layers_in(lit):
        at = rows(lit, layer=layer)
        share = float(np.nanmean(numbers(at, "share_lost")))
        tasks = "; ".join(
            f"{row['task']} {percent(row['share_lost'], row['share_low'], row['share_high'])}, "
            f"n = {row['n_items']}"
            for row in records(at)
        )
        lost = f"{number(100 * share)} % of the score lost ({tasks})"
        words = f"layer {name_layer(layer)}, {protocol_phrase(protocol)}: {lost}"
        cells[layer] = GridCell("", round(_SHADES * min(max(share, 0.0), 1.0)), words)
    with_signal = records(rows(gates, signal=True))
    right = sum(right_answers(row)[0] for row in with_signal)
    percentage = number(100 * right / sum(row["n_items"] for row in with_signal))
    pale = all(map(has_little_to_lose, with_signal))
    return Band(protocol, cells, right=f"{percentage} %, {right} right", pale=pale)


def _answers_a_question(claim: Claim) -> bool:
    """True if a claim answers a reader's question; what a harder way of scoring costs does not."""
    return claim.kind != SCORING or claim.source["table"] == _OTHER_LAYERS


def _first(every: Sequence[Claim]) -> tuple[Claim, ...]:
    """Claims for the first screen, in the order in which they come."""
    claims = list(filter(_answers_a_question, every))
    needed = [] if any(claim.kind == APART for claim in claims) else [NEEDED]
    most = dict.fromkeys((APART, ONE_ORDER, GENERAL, *needed, SPARED), _MOST_OF_KIND)
    most |= dict.fromkeys((SHARED, ORDER, SCORING, LENS, PATCHING), 1)
    chosen = [claim for kind, n in most.items()
              for claim in [claim for claim in claims if claim.kind == kind][:n]]  # fmt: skip
    ids = {id(claim) for claim in chosen[:_MOST]}
    # What has no signal is in the box, verdicts are in their list.
    apart = (*ROLES, SILENT, PUBLISHED, VERDICT)
    others = (claim for claim in claims if claim.kind not in apart and id(claim) not in ids)
    ids |= {id(claim) for claim, _ in zip(others, range(_MOST // 2 - len(ids)), strict=False)}
    shown = (claim for claim in claims if id(claim) in ids)
    # What everything needs is no news, and does not lead.
    return tuple(sorted(shown, key=lambda claim: claim.kind not in (APART, ONE_ORDER, NEEDED)))


def _limits(run: RunTables, claims: Sequence[Claim], effects: pd.DataFrame) -> tuple[str, ...]:
    signal = run.table("signal")
    shown: list[str] = []
    if signal is not None and rows(signal, signal=True).empty:
        lines = "\n".join(sentences(signal, run.facts)).split("\n")
        shown += dict.fromkeys(sentence.strip() for sentence in lines)
    elif signal is not None:
        shown += [*by_protocol(signal), *little_to_lose(signal)]
    if len(effects):
        shown += _unlike(rows(effects, signal=True))
        if not _established_layers(claims, SPARED):
            shown.append("No layer is shown to be spare.")
        shown.append("What a layer does is not shown: only what breaks without it.")
    return tuple(shown)


def _unlike(lit: pd.DataFrame) -> Iterator[str]:
    """Note on ways of scoring that are of other tasks, for want of signal in the rest."""
    for capability, part in lit.groupby("capability", sort=False):
        of_way = {way: set(rows(part, protocol=way)["task"]) for way in set(part["protocol"])}
        if of_way and not set.intersection(*of_way.values()):
            ways = in_order(of_way, PROTOCOL_ORDER)
            asked = join_words(
                f"{join_words(sorted(of_way[way]))} {protocol_phrase(way)}" for way in ways
            )
            yield f"{capitalise(str(capability))} is {asked}: do not compare these rows."
