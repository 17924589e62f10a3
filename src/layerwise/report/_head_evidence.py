"""Which heads of a layer anything was found of, by every method that looks at single heads.

Of each head and method the strongest significant value is told, and how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from layerwise.analyses.ablation.saved_effects import HEADS, ablations, effects_of
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.section import Table, bounds
from layerwise.presentation.wording import HEAD_WORDS, capitalised, doing
from layerwise.report._readings import with_ends
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
