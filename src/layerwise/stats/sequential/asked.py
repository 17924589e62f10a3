"""Answers so far, as matrices, and the questions of the next round.

Answers that were not asked stand as if the change did nothing. No verdict reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from layerwise.errors import UserError
from layerwise.stats.cells import BASELINES, INTACT, Cell, cells

from .decisions import Decided
from .ordered_pools import OrderedPool


class AskedCell(NamedTuple):
    """A task under a protocol, with the answers that there are without each layer."""

    cell: Cell
    asked: Bool[np.ndarray, "items layers"]


def asked_cells(records: pd.DataFrame, layers: Sequence[int]) -> list[AskedCell]:
    """Answers of the intact model to all items, and without each layer to those that were asked.

    Args:
        records: of the intact model, its controls, and single skipped layers.
        layers: which layers are asked about.

    Raises:
        UserError: if the intact model's answers are incomplete, or an answer is doubled or of an
            item or layer that is not asked about.
    """
    baseline = records["kind"].isin(BASELINES)
    changed = dict(iter(records.loc[~baseline].groupby(["task", "protocol"])))
    intact = dict(iter(records.loc[records["kind"] == INTACT].groupby(["task", "protocol"])))
    return [
        _with_answers(
            cell, intact[cell.task, cell.protocol], changed.get((cell.task, cell.protocol)), layers
        )
        for cell in cells(records.loc[baseline])
    ]


def _with_answers(
    cell: Cell, intact: pd.DataFrame, changed: pd.DataFrame | None, layers: Sequence[int]
) -> AskedCell:
    shape = len(cell.items), len(layers)
    scores = intact.set_index("item").loc[list(cell.items), ["gold_logprob", "margin"]]
    before = scores.to_numpy(dtype=float, na_value=np.nan)
    correct = np.repeat(cell.intact[:, None], shape[1], axis=1)
    lost = np.repeat(before[:, None], shape[1], axis=1)
    lost = lost - lost  # nan where there is no score
    asked = np.zeros(shape, dtype=bool)
    if changed is not None:
        row = pd.Index(cell.items).get_indexer(pd.Index(changed["item"]))
        column = pd.Index(layers).get_indexer(pd.Index(changed["layer"].to_numpy(dtype=int)))
        places = row * shape[1] + column
        if min(row.min(), column.min()) < 0 or len(np.unique(places)) < len(places):
            raise UserError(
                f"Some answers of task {cell.task!r} under protocol {cell.protocol!r} are doubled, "
                "or of other items or layers than the run asked about: expected each once; run it "
                "again."
            )
        asked[row, column] = True
        correct[row, column] = changed["correct"].to_numpy(dtype=bool)
        after = changed[["gold_logprob", "margin"]].to_numpy(dtype=float, na_value=np.nan)
        lost[row, column] = before[row] - after
    skips = pd.DataFrame({
        "intervention": [f"skip:layer={layer}" for layer in layers], "kind": "skip",
        "site": "layer", "layer": list(layers),
    })  # fmt: skip
    filled = cell._replace(
        interventions=skips, correct=correct, nats=lost[..., 0], margins=lost[..., 1]
    )
    return AskedCell(filled, asked)


class ToAsk(NamedTuple):
    """Items of a task that the next round asks about some layers, under some protocols."""

    task: str
    items: tuple[str, ...]
    protocols: tuple[str, ...]
    layers: tuple[int, ...]


def next_round(decided: Decided, n_rounds: int) -> list[ToAsk]:
    """Questions of the round after so many; none where all is decided or asked.

    Layers that are open under several protocols stand together, so that prompts that these share
    are read once.
    """
    open_under: dict[tuple[str, tuple[str, ...]], dict[int, list[str]]] = {}
    for ordered, there in _pools_with_places(decided):
        start = 0 if n_rounds == 0 else _n_answers(ordered, n_rounds)
        own = slice(start, _n_answers(ordered, n_rounds + 1))
        task, items = ordered.pool.task[own], ordered.pool.items
        assert items is not None
        for name in dict.fromkeys(map(str, task)):
            key = name, tuple(map(str, items[own][task == name]))
            for layer in ordered.pool.layers[there].tolist():
                by_layer = open_under.setdefault(key, {})
                by_layer.setdefault(layer, []).append(ordered.pool.protocols[0])
    return [
        ToAsk(task, items, protocols, tuple(layers))
        for (task, items), by_layer in open_under.items()
        for protocols, layers in _by_protocols(by_layer).items()
    ]


def _by_protocols(by_layer: Mapping[int, list[str]]) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for layer, protocols in sorted(by_layer.items()):
        found.setdefault(tuple(protocols), []).append(layer)
    return found


def _n_answers(ordered: OrderedPool, n_rounds: int) -> int:
    return int(ordered.n_answers[min(n_rounds, len(ordered.ends)) - 1])


def _pools_with_places(decided: Decided) -> Iterator[tuple[OrderedPool, np.ndarray]]:
    start = 0
    for ordered in decided.pools:
        yield ordered, decided.race.there[start : start + len(ordered.layers)]
        start += len(ordered.layers)


def n_left(decided: Decided, n_rounds: int) -> int:
    """Answers that are still to be asked after so many rounds, if no layer left any more."""
    left = 0
    for ordered, there in _pools_with_places(decided):
        start = 0 if n_rounds == 0 else _n_answers(ordered, n_rounds)
        left += int(there.sum()) * (len(ordered.pool.loss) - start)
    return left


def refuse_missing_answers(decided: Decided, every: Sequence[AskedCell]) -> None:
    """Refuse records that lack an answer that a verdict was made from."""
    known = {(one.cell.task, one.cell.protocol): one for one in every}
    start = 0
    for ordered in decided.pools:
        rounds = decided.race.rounds[start : start + len(ordered.layers)]
        start += len(ordered.layers)
        n_asked = ordered.n_answers[ordered.own_rounds(rounds) - 1] if rounds.max() else rounds
        pool, number = ordered.pool, np.arange(len(ordered.pool.loss))
        assert pool.items is not None
        for task in pool.tasks:
            of = known[task, pool.protocols[0]]
            mine = pool.task == task
            row = pd.Index(of.cell.items).get_indexer(pd.Index(pool.items[mine]))
            if (~of.asked[row] & (number[mine][:, None] < n_asked)).any():
                raise UserError(
                    f"Answers of task {task!r} under protocol {pool.protocols[0]!r} are missing "
                    "that a verdict needs: expected all that the run asked; run it again."
                )
