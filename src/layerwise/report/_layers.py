"""Parts of the page on each layer, to be opened in turn: the layer, its sublayers, its heads.

Only what was run is there. Texts are put together; nothing is computed but the largest loss, and
how much more likely the lens finds the answer behind a layer than before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.ablation.tables.saved_effects import (
    HEADS,
    ablations,
    effects_of_layers,
    select_effects,
)
from layerwise.analyses.registry import ANALYSES
from layerwise.analyses.shared.lens_names import LENS_ORDER
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.section import GridCell, LayerGrid, Part, Section, Table, bounds
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    HEAD_WORDS,
    PROTOCOL_ORDER,
    SUBLAYER_WORDS,
    WAY,
    capitalise,
    in_order,
    interval,
    intervention_phrase,
    number,
    percent,
    protocol_words,
)
from layerwise.stats.items.clusters import clusters_from_table
from layerwise.storage.run_tables import RunTables

SURE, NO_SIGNAL = "•", "no signal"
_RESAMPLES = 2000
# What a method says at each layer, task and protocol, under its name.
Reading = tuple[str, dict[tuple[int, str, str], str]]
# Layer and head of a row, and its cells; a method's rows, and the table of all that it looked at.
HeadRow = tuple[int, int, list[str]]
HeadMethod = tuple[pd.DataFrame, list[HeadRow]]


def _readings(run: RunTables, sublayer: str | None) -> dict[str, dict[str, Mapping[Any, str]]]:
    """Readings of whole layers, or of one sublayer of each: when changed, and as it is."""
    changed = [*_ablations(run, sublayer), *_patchings(run, sublayer)]
    if sublayer is None:
        read = [*_lens_readings(run), *_settling_readings(run), *_similarities(run)]
    else:
        read = [*_attribution_readings(run, sublayer)]
    return {"when it is changed": dict(changed), "what is read there": dict(read)}


def _belongs(site: str, sublayer: str | None) -> bool:
    return site == sublayer if sublayer else site == "layer" or site.startswith("resid_")


def _ablations(run: RunTables, sublayer: str | None) -> Iterator[Reading]:
    signal = run.table("signal")
    silent = [] if signal is None else records(rows(signal, signal=False))
    for kind, site in ablations(run):
        if _belongs(site, sublayer):
            effects = select_effects(run, kind, site)
            action = capitalise(
                intervention_phrase(kind, "layer" if site in SUBLAYER_WORDS else site, "it")
            )
            cells = {_place(row | {"layer": layer}): NO_SIGNAL
                     for layer in layers_in(effects) for row in silent}  # fmt: skip
            for row in records(effects):
                lost = (
                    _estimate_with_mark(row, "share_lost", "share", 100)
                    if row["signal"]
                    else NO_SIGNAL
                )
                cells[_place(row)] = lost
            yield f"{action}: share lost (%)", cells


def _place(row: dict[str, Any]) -> tuple[int, str, str]:
    return int(row["layer"]), str(row["task"]), str(row["protocol"])


def _estimate_with_mark(
    row: dict[str, Any], middle: str, ends: str, scale: int = 1, digits: int = 0
) -> str:
    """An estimate with its interval, and a mark if it is significant."""
    mark = f" {SURE}" if row["significant"] else ""
    return bounds(row, middle, f"{ends}_low", f"{ends}_high", scale, digits) + mark


def _patchings(run: RunTables, sublayer: str | None) -> Iterator[Reading]:
    patching = run.table("patching_summary")
    if patching is None:
        return
    ordered = patching.sort_values("recovered", ascending=False, kind="stable")
    verbs = {"denoising": "recovered", "noising": "lost"}
    sites = in_order(patching["site"], ("resid_pre",))
    for site in (site for site in sites if _belongs(site, sublayer)):
        for direction in in_order(patching["direction"], tuple(verbs)):
            cells = rows(ordered, site=site, direction=direction)
            most = cells.loc[~cells.duplicated(["layer", "task", "protocol"])]
            texts = {
                _place(
                    row
                ): f"{_estimate_with_mark(row, 'recovered', 'recovered', 100)}, {row['pos_label']}"
                for row in records(most)
            }
            yield f"Patching {site}: {verbs[direction]} (%), where most", texts


def _lens_readings(run: RunTables) -> Iterator[Reading]:
    """Readings of how much more likely the answer is after each layer than before it."""
    lens = run.table("lens")
    if lens is None:
        return
    table = rows(lens, over="prompt", pos=-1, site="resid_post")
    for lens in in_order(table["lens"], LENS_ORDER):
        gains, ranks = {}, {}
        for _, part in rows(table, lens=lens).groupby(["task", "protocol"]):
            key = str(part["task"].iloc[0]), str(part["protocol"].iloc[0])
            gains |= {(at, *key): text for at, text in _gains(part, run.facts.seed, key[0])}
            median = 1 + part.groupby("layer")["rank"].median().astype(float)
            after = {int(at): number(value) for at, value in median.items()}  # type: ignore[arg-type]
            ranks |= {
                (at, *key): f"{after[at - 1]} → {after[at]}" for at in after if at - 1 in after
            }
        name = capitalise(lens)
        yield f"{name} lens: answer's probability, gain in % points", gains
        yield f"{name} lens: median rank before → after", ranks


def _gains(part: pd.DataFrame, seed: int, task: str) -> Iterator[tuple[int, str]]:
    shown = part.assign(probability=np.exp(numbers(part, "logprob")))
    wide = shown.pivot_table(index="item", columns="layer", values="probability").sort_index(axis=1)
    gain = 100 * np.diff(wide.to_numpy(dtype=float), axis=1)
    clusters = clusters_from_table(part, wide.index)
    drawn = stats.resample_indices(clusters.n, _RESAMPLES, stats.generator(seed, task))
    low, high = stats.percentile_bounds(clusters.resampled_means(gain, drawn), 0.95)
    layers = [int(layer) for layer in wide.columns]
    for i, layer in enumerate(layers[1:]):
        if layer == layers[i] + 1:
            yield layer, interval(gain[:, i].mean(), low[i], high[i], 1)


def _settling_readings(run: RunTables) -> Iterator[Reading]:
    """Numbers of right answers that are the lens's most likely token from here on."""
    depths = run.table("prediction_depth")
    if depths is None:
        return
    right = rows(depths, right=True)
    for lens in in_order(right["lens"], LENS_ORDER):
        kept = rows(right, lens=lens)
        whole = kept.groupby(["task", "protocol"]).size()
        counts = kept.groupby(["layer", "task", "protocol"], as_index=False).size()
        texts = {_place(row): f"{row['size']} of {whole[row['task'], row['protocol']]}"
                 for row in records(pd.DataFrame(counts))}  # fmt: skip
        yield f"Right answers that settle here ({lens} lens)", texts


def _similarities(run: RunTables) -> Iterator[Reading]:
    influence, angular = run.table("influence"), run.table("angular")
    single = None if angular is None else rows(angular, n_layers=1)
    for name, table, value in (
        ("Block influence", influence, "influence"), ("Angular distance", single, "distance"),
    ):  # fmt: skip
        if table is not None:
            yield name, {_place(row): interval(row[value], row["low"], row["high"], 3)
                         for row in records(table)}  # fmt: skip


def _attribution_readings(run: RunTables, component: str) -> Iterator[Reading]:
    for how, table in _component_attribution(run, component):
        if len(table):
            texts = {
                _place(row): _estimate_with_mark(row, "value", "value", 1, 2)
                for row in records(table)
            }
            yield f"Adds to the logit difference {how} (nats)", texts


def _component_attribution(run: RunTables, component: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Attribution of a component; the encoder's parts act through cross-attention."""
    attribution = run.table("attribution_summary")
    if attribution is not None:
        table = rows(attribution, metric="logit_diff", component=component, signal=True)
        table = table.rename(columns={"low": "value_low", "high": "value_high"})
        of_encoder = table["layer"] < stacks().n_encoder
        yield "directly", table.loc[~of_encoder]
        yield "through cross-attention", table.loc[of_encoder]


def head_evidence(run: RunTables) -> dict[int, Table]:
    """For each layer whose heads were looked at, what is known of them."""
    methods = [
        *_ablated_heads(run),
        *_patched_heads(run),
        *_attributed_heads(run),
        *_head_methods(run),
    ]
    layers = sorted({layer for table, _ in methods for layer in layers_in(table)})
    every = sorted((row for _, of_method in methods for row in of_method), key=lambda row: row[1])
    tables = {}
    for layer in layers:
        cells = [texts for at, _, texts in every if at == layer]
        note = "Heads that are not listed have no significant effect by any method that was run."
        note = note if cells else "No head of this layer has a significant effect in what was run."
        columns = ("head", "method", "strongest in", "value", "significant cells")
        title = f"Heads of layer {name_layer(layer)}"
        tables[layer] = Table(title, columns if cells else (), cells, note=note)
    return tables


def _ablated_heads(run: RunTables) -> Iterator[HeadMethod]:
    for kind, site in ablations(run, HEADS):
        table = select_effects(run, kind, site, HEADS, signal=True)
        noun = "it" if site == "z" else f"its {HEAD_WORDS[site]}"
        name = f"{intervention_phrase(kind, site, noun)}: share lost (%)"
        yield table, _strongest(table, name, "share_lost", "share", 100, 0)


def _patched_heads(run: RunTables) -> Iterator[HeadMethod]:
    patching = run.table("patching_summary")
    if patching is None:
        return
    by_head = patching.loc[patching["head"].notna()]
    for (site, direction), table in by_head.groupby(["site", "direction"], sort=True):
        verb = "recovered" if direction == "denoising" else "lost"
        name = f"patching {site}: {verb} (%)"
        yield table, _strongest(table, name, "recovered", "recovered", 100, 0)


def _attributed_heads(run: RunTables) -> Iterator[HeadMethod]:
    for component, subject in (("z", ""), ("cross_z", f"its {HEAD_WORDS['cross_z']} ")):
        for how, table in _component_attribution(run, component):
            name = f"{subject}adds {how} (nats)"
            yield table, _strongest(table, name, "value", "value", 1, 2)


def _head_methods(run: RunTables) -> Iterator[HeadMethod]:
    heads = run.table("heads_summary")
    if heads is not None:
        ends = "prefix_matching_low", "prefix_matching_high"
        yield heads, [
            _head_row(row, "attention on repeated tokens", "prefix matching",
                      bounds(row, "prefix_matching", *ends, 1, 2), "induction head")
            for row in records(rows(heads, induction_head=True))
        ]  # fmt: skip


def _strongest(
    table: pd.DataFrame, name: str, middle: str, ends: str, scale: int, digits: int
) -> list[HeadRow]:
    keys = ["layer", "head"]
    sure = rows(table, significant=True)
    sure = sure.iloc[(-abs(numbers(sure, middle))).argsort(kind="stable")]
    counts, whole = sure.groupby(keys).size(), table.groupby(keys).size()
    return [
        _head_row(
            row,
            name,
            ", ".join(_place_words(row)),
            bounds(row, middle, f"{ends}_low", f"{ends}_high", scale, digits),
            f"{counts[row['layer'], row['head']]} of {whole[row['layer'], row['head']]}",
        )
        for row in records(sure.loc[~sure.duplicated(keys)])
    ]


def _place_words(row: dict[str, Any]) -> Iterator[str]:
    """The task of a row, its way of scoring, and its position if it has one."""
    yield row["task"]
    yield protocol_words(row["protocol"])
    if "pos_label" in row:
        yield row["pos_label"]


def _head_row(row: dict[str, Any], name: str, where: str, value: str, count: str) -> HeadRow:
    cells = [f"{name_layer(row['layer'])}.{row['head']}", capitalise(name), where, value, count]
    return int(row["layer"]), int(row["head"]), cells


def layer_grid(run: RunTables) -> LayerGrid | None:
    """The layers of a run with an ablation of layers or their parts; None without one."""
    every = effects_of_layers(run)
    if every is None or not ablations(run):
        return None
    kind, site = ablations(run)[0]
    effects = select_effects(run, kind, site)
    columns = {
        (capability, protocol): of_column
        for capability in in_order(effects["capability"], CAPABILITY_ORDER)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER)
        if len(of_column := rows(effects, capability=capability, protocol=protocol))
    }
    words = (
        "Choose a layer to see what is known of it. Numbers: share (%) of the above-floor "
        f"accuracy lost by {intervention_phrase(kind, site, 'the layer')}, the largest "
        f"among the capability's "
        f"tasks; {SURE} significant after Holm's correction; – no signal."
    )
    names = tuple(f"{capability}, {protocol_words(one)}" for capability, one in columns)
    layers = tuple(
        (tuple(_cell(rows(of_column, layer=layer), name)
               for name, of_column in zip(names, columns.values(), strict=True)), part)
        for layer, part in _part_readings(run, layers_in(every)).items()
    )  # fmt: skip
    return LayerGrid(words, names, layers, run.facts.model.n_encoder_layers > 0)


def _cell(effects: pd.DataFrame, where: str) -> GridCell:
    if effects.empty:
        return GridCell("", None, "not changed")
    lit = rows(effects, signal=True)
    if lit.empty:
        return GridCell("–", None, f"{where}: no signal")
    row = records(lit)[int(np.argmax(numbers(lit, "share_lost")))]
    lost = percent(row["share_lost"], row["share_low"], row["share_high"])
    sure = ", significant" if row["significant"] else ""
    return GridCell(
        number(100 * row["share_lost"]) + SURE * bool(row["significant"]),
        round(10 * float(np.clip(row["share_lost"], 0, 1))),
        f"{where}: {lost} lost in {row['task']}{sure}",
    )


def _part_readings(run: RunTables, layers: list[int]) -> dict[int, Part]:
    """Readings of layers that were changed, as a whole or in part."""
    whole, heads = _readings(run, None), head_evidence(run)
    within = {site: _readings(run, site) for site in SUBLAYER_WORDS}
    parts = {}
    for layer in layers:
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
    known: dict[str, dict[str, Mapping[Any, str]]],
    inner: tuple[Part, ...],
) -> Part:
    title = capitalise(title)
    tables = (_table(run, f"{title}, {how}", layer, columns) for how, columns in known.items())
    return Part(title, tuple(table for table in tables if table.cells), inner)


def _table(run: RunTables, title: str, layer: int, columns: dict[str, Mapping[Any, str]]) -> Table:
    """A row per task and protocol of which anything is known at the layer."""
    nothing = {"–", NO_SIGNAL}
    # Patching has its own protocol, whatever the others were asked by.
    protocols = in_order((p for cells in columns.values() for _, _, p in cells), PROTOCOL_ORDER)
    named = [
        (str(capability), task.name, protocol)
        for capability in in_order((t.capability for t in run.facts.tasks), CAPABILITY_ORDER)
        for task in run.facts.tasks
        for protocol in protocols
        if task.capability == capability
    ]
    texts_of = {
        name: [cells.get((layer, task, protocol), "–") for _, task, protocol in named]
        for name, cells in columns.items()
    }
    texts_of = {name: texts for name, texts in texts_of.items() if set(texts) - nothing}
    cells = [
        [capability, task, protocol_words(protocol), *texts]
        for (capability, task, protocol), *texts in zip(named, *texts_of.values(), strict=True)
    ]
    heads = ("capability", "task", WAY, *texts_of)
    return Table(title, heads, [row for row in cells if set(row[3:]) - nothing])


def sections(run: RunTables) -> list[Section]:
    """The parts of a run's page that there is something to show in."""
    every = [section for analysis in ANALYSES for section in analysis.sections(run)]
    shown = [part for part in every if part.drawings or part.tables or part.lines]
    # The part that shows all layers at a glance is where each of them can be opened.
    return [
        replace(part, grid=layer_grid(run)) if part.anchor == "roles" else part
        for part in sorted(shown, key=lambda part: part.place)
    ]
