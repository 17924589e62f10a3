"""What is known of each layer, to be opened in turn: the layer, its attention and MLP, its heads.

Only what was run is there. Texts are put together; nothing is computed but the largest loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerwise.analyses.ablation.saved_effects import (
    HEADS,
    ablations,
    effects_of,
    effects_of_layers,
)
from layerwise.analyses.registry import ANALYSES
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.section import Grid, GridCell, Part, Section, Table, bounds
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    HEAD_WORDS,
    PROTOCOL_ORDER,
    SUBLAYER_WORDS,
    capitalised,
    doing,
    in_order,
    number,
    percent,
)
from layerwise.report._readings import NO_SIGNAL, SURE, MethodColumn, readings, with_ends
from layerwise.storage.run_tables import RunTables

_COLUMNS = ("head", "method", "strongest in", "value", "significant cells")


class HeadRow(NamedTuple):
    """One row: where, by which method, and what; ``order`` keeps heads and methods in order."""

    layer: int
    order: tuple[int, int]
    cells: list[str]


def head_evidence(run: RunTables) -> dict[int, Table]:
    """For each layer whose heads were looked at, what was found of them."""
    methods = [*_ablated(run), *_patched(run), *_attributed(run), *_scored(run)]
    layers = sorted({layer for table, _ in methods for layer in layers_of(table)})
    every = [row for i, (_, rows_) in enumerate(methods) for row in _numbered(rows_, i)]
    return {layer: _shown(layer, every) for layer in layers}


def _numbered(rows_: list[HeadRow], method: int) -> list[HeadRow]:
    return [row._replace(order=(row.order[0], method)) for row in rows_]


def _shown(layer: int, every: list[HeadRow]) -> Table:
    shown = sorted((row for row in every if row.layer == layer), key=lambda row: row.order)
    note = "Heads that are not listed have no significant effect by any method that was run."
    note = note if shown else "No head of this layer has a significant effect in what was run."
    title = f"Heads of layer {name_layer(layer)}"
    return Table(title, _COLUMNS if shown else (), [row.cells for row in shown], note=note)


Method = tuple[pd.DataFrame, list[HeadRow]]


def _ablated(run: RunTables) -> Iterator[Method]:
    for kind, site in ablations(run, HEADS):
        table = effects_of(run, kind, site, HEADS, signal=True)
        noun = "it" if site == "z" else f"its {HEAD_WORDS[site]}"
        name = f"{doing(kind, site, noun)}: share lost (%)"
        yield table, _strongest(table, name, "share_lost", "share", 100, 0)


def _patched(run: RunTables) -> Iterator[Method]:
    patching = run.table("patching_summary")
    if patching is None:
        return
    by_head = patching.loc[patching["head"].notna()]
    for (site, direction), table in by_head.groupby(["site", "direction"], sort=True):
        verb = "recovered" if direction == "denoising" else "lost"
        name = f"patching {site}: {verb} (%)"
        yield table, _strongest(table, name, "recovered", "recovered", 100, 0)


def _attributed(run: RunTables) -> Iterator[Method]:
    attribution = run.table("attribution_summary")
    if attribution is None:
        return
    attributed = with_ends(rows(attribution, metric="logit_diff", signal=True))
    for component, name in (
        ("z", "adds directly (nats)"),
        ("cross_z", f"its {HEAD_WORDS['cross_z']} adds directly (nats)"),
    ):
        table = rows(attributed, component=component)
        of_encoder = table["layer"] < stacks().n_encoder
        for how, here in (("directly", ~of_encoder), ("through cross-attention", of_encoder)):
            label = name.replace("directly", how)
            yield table.loc[here], _strongest(table.loc[here], label, "value", "value", 1, 2)


def _scored(run: RunTables) -> Iterator[Method]:
    heads = run.table("heads_summary")
    if heads is None:
        return
    rows_ = [
        _row(row, "attention on repeated tokens", "prefix matching",
             bounds(row, "prefix_matching", "prefix_matching_low", "prefix_matching_high", 1, 2),
             "induction head")
        for row in records(rows(heads, induction_head=True))
    ]  # fmt: skip
    yield heads, rows_


def _strongest(
    table: pd.DataFrame, name: str, middle: str, ends: str, scale: int, digits: int
) -> list[HeadRow]:
    keys = ["layer", "head"]
    sure = rows(table, significant=True)
    sure = sure.iloc[(-abs(numbers(sure, middle))).argsort(kind="stable")]
    counts, whole = sure.groupby(keys).size(), table.groupby(keys).size()
    return [
        _row(
            row,
            name,
            ", ".join(row[key] for key in ("task", "protocol", "pos_label") if key in row),
            bounds(row, middle, f"{ends}_low", f"{ends}_high", scale, digits),
            f"{counts[row['layer'], row['head']]} of {whole[row['layer'], row['head']]}",
        )
        for row in records(sure.loc[~sure.duplicated(keys)])
    ]


def _row(row: dict, name: str, where: str, value: str, count: str) -> HeadRow:
    cells = [f"{name_layer(row['layer'])}.{row['head']}", capitalised(name), where, value, count]
    return HeadRow(int(row["layer"]), (int(row["head"]), 0), cells)


def layer_grid(run: RunTables) -> Grid | None:
    """The layers of a run with an ablation of layers or their parts; None without one."""
    effects = effects_of_layers(run)
    if effects is None or not ablations(run):
        return None
    kind, site = ablations(run)[0]
    effects = effects_of(run, kind, site)
    columns = [
        (capability, protocol)
        for capability in in_order(effects["capability"], CAPABILITY_ORDER)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER)
        if len(rows(effects, capability=capability, protocol=protocol))
    ]
    words = (
        "Choose a layer to see what is known of it. Numbers: share (%) of the above-floor "
        f"accuracy lost by {doing(kind, site, 'the layer')}, the largest among the capability's "
        f"tasks; {SURE} significant after Holm's correction; – no signal."
    )
    cells = {column: _cells(effects, *column) for column in columns}
    missing = GridCell("", None, "not changed")
    parts = _parts(run)
    return Grid(
        words,
        tuple(f"{capability}, {protocol}" for capability, protocol in columns),
        tuple(
            (tuple(cells[column].get(layer, missing) for column in columns), part)
            for layer, part in parts.items()
        ),
        run.facts.model.n_encoder_layers > 0,
    )


def _cells(effects: pd.DataFrame, capability: str, protocol: str) -> dict[int, GridCell]:
    block = rows(effects, capability=capability, protocol=protocol)
    where = f"{capability}, {protocol}"
    return {layer: _cell(rows(block, layer=layer), where) for layer in layers_of(block)}


def _cell(effects: pd.DataFrame, where: str) -> GridCell:
    heard = rows(effects, signal=True)
    if heard.empty:
        return GridCell("–", None, f"{where}: no signal")
    row = records(heard)[int(np.argmax(numbers(heard, "share_lost")))]
    lost = percent(row["share_lost"], row["share_low"], row["share_high"])
    sure = ", significant" if row["significant"] else ""
    return GridCell(
        number(100 * row["share_lost"]) + SURE * bool(row["significant"]),
        round(10 * float(np.clip(row["share_lost"], 0, 1))),
        f"{where}: {lost} lost in {row['task']}{sure}",
    )


def _parts(run: RunTables) -> dict[int, Part]:
    """What is known of every layer that was changed, as a whole or in part."""
    effects = effects_of_layers(run)
    assert effects is not None
    whole, heads = readings(run, None), head_evidence(run)
    within = {site: readings(run, site) for site in SUBLAYER_WORDS}
    parts = {}
    for layer in layers_of(effects):
        name = f"layer {name_layer(layer)}"
        below = (Part(f"Heads of {name}", (heads[layer],)),) if layer in heads else ()
        inner = [
            _part(run, f"{words} of {name}", layer, within[site], below * (site == "attn_out"))
            for site, words in SUBLAYER_WORDS.items()
        ]
        filled = tuple(part for part in inner if part.tables or part.inner)
        parts[layer] = _part(run, name, layer, whole, filled)
    return parts


def _part(
    run: RunTables,
    title: str,
    layer: int,
    known: dict[str, list[MethodColumn]],
    inner: tuple[Part, ...],
) -> Part:
    title = capitalised(title)
    tables = (_table(run, f"{title}, {how}", layer, columns) for how, columns in known.items())
    return Part(title, tuple(table for table in tables if table.cells), inner)


def _table(run: RunTables, title: str, layer: int, columns: list[MethodColumn]) -> Table:
    """A row per task and protocol of which anything is known at the layer."""
    nothing = {"–", NO_SIGNAL}
    # Patching has its own protocol, whatever the others were asked by.
    protocols = in_order((p for column in columns for _, _, p in column.cells), PROTOCOL_ORDER)
    named = [
        (str(capability), task.name, protocol)
        for capability in in_order((t.capability for t in run.facts.tasks), CAPABILITY_ORDER)
        for task in run.facts.tasks
        for protocol in protocols
        if task.capability == capability
    ]
    texts_of = {
        column.name: [column.cells.get((layer, name[1], name[2]), "–") for name in named]
        for column in columns
    }
    texts_of = {name: texts for name, texts in texts_of.items() if set(texts) - nothing}
    cells = [[*name, *texts] for name, *texts in zip(named, *texts_of.values(), strict=True)]
    heads = ("capability", "task", "protocol", *texts_of)
    return Table(title, heads, [row for row in cells if set(row[3:]) - nothing])


# The part that shows all layers at a glance is where each of them can be opened.
_OPENED = "roles"


def sections(run: RunTables) -> list[Section]:
    """The parts of a run's page that there is something to show in."""
    every = [section for analysis in ANALYSES for section in analysis.sections(run)]
    shown = [part for part in every if part.drawings or part.tables]
    return [
        replace(part, grid=layer_grid(run)) if part.anchor == _OPENED else part
        for part in sorted(shown, key=lambda part: part.place)
    ]
