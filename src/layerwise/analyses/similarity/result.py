"""The typed result of the similarity of layers, and its compact table for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.ablation.result import AblationResult
from layerwise.errors import UserError
from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.presentation.columns import (
    LAYER,
    Column,
    Row,
    estimated,
    in_short,
    named,
    p_column,
    plain,
    without,
)
from layerwise.presentation.section import drawn
from layerwise.stats.effects import Cell, Chance, cells, layer_skips
from layerwise.stats.families.estimate import known, mean_columns, with_holm
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import Clusters, clusters_of
from layerwise.stats.items.joint_draws import Counts, draws_of_tasks
from layerwise.stats.signals.signal import signals
from layerwise.storage.base import Result, computed_once
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts, join_facts

_TASK = ["task", "capability", "protocol"]
PREDICTORS = ("influence", "angular", "cka")
EFFECTS = ("share_lost", "nats")
N_RESAMPLES = 5000
Curves = Float[np.ndarray, "draws layers"]


def angular_map(group: pd.DataFrame) -> Float[np.ndarray, "item cell"]:
    """Angular distances of one task, by item (in the order of their ids) and cell of the map."""
    ordered = group.sort_values(["item", "layer"])
    flat = [value for listed in ordered["angular"] for value in listed]
    return np.array(flat, dtype=float).reshape(len(set(group["item"])), -1)


def influences(group: pd.DataFrame) -> Float[np.ndarray, "item layer"]:
    """Block influence of one task, by item (in the order of their ids) and layer."""
    ordered = group.sort_values(["item", "layer"])
    return ordered["influence"].to_numpy(dtype=float).reshape(len(set(group["item"])), -1)


def cells_of(group: pd.DataFrame) -> list[tuple[int, int]]:
    """Layer and number of layers of the map's cells, in the order of ``angular_map``."""
    of_one = group.loc[group["item"] == group["item"].iloc[0]].sort_values("layer")
    listed = zip(of_one["layer"], of_one["angular"], strict=True)
    return [(int(at), n) for at, values in listed for n in range(1, len(values) + 1)]


def angular_table(similarity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``angular.parquet``: mean distance per task, layer and number of layers."""
    rows: list[dict[str, Any]] = []
    for group in _groups(similarity):
        intervals = _means_of(group, angular_map(group), "distance", seed)
        cells = cells_of(group)
        least: dict[int, float] = {}
        for (_, n), one in zip(cells, intervals, strict=True):
            least[n] = min(least.get(n, np.inf), one["distance"])
        rows += [
            {**row, "layer": at, "n_layers": n, "least": row["distance"] == least[n]}
            for (at, n), row in zip(cells, intervals, strict=True)
        ]
    return frame("angular", rows)


def influence_table(similarity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``influence.parquet``: mean block influence per task and layer."""
    rows = [
        {**row, "layer": layer}
        for group in _groups(similarity)
        for layer, row in enumerate(_means_of(group, influences(group), "influence", seed))
    ]
    return frame("influence", rows)


def _groups(similarity: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in similarity.groupby(_TASK, sort=True)]


def _means_of(
    group: pd.DataFrame, values: Float[np.ndarray, "item column"], name: str, seed: int
) -> list[dict[str, Any]]:
    """Means over items with their bootstrap intervals, a row per column."""
    task, clusters = str(group["task"].iloc[0]), clusters_of(group, sorted(set(group["item"])))
    random = stats.generator(seed, task)
    columns = mean_columns(name, "", values, clusters, random)
    key = {column: group[column].iloc[0] for column in _TASK} | {"n_items": len(values)}
    return [
        key | {end: known(column[i]) for end, column in columns.items()}
        for i in range(values.shape[1])
    ]


class TaskCurves(NamedTuple):
    """One task under one protocol: predictors and effects by layer, in draws of its clusters."""

    capability: str
    protocol: str
    task: str
    n_items: int
    clusters: Clusters
    drawn: Callable[[Counts], dict[str, Curves]]


def prediction_table(
    similarity: pd.DataFrame, cka: pd.DataFrame, records: pd.DataFrame, chance: Chance, seed: int,
    n_encoder: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """``prediction.parquet``: rank correlation of each predictor with each effect, over layers."""
    evidence = sorted(_evidence(similarity, cka, records, chance), key=lambda e: e[:3])
    rows = [
        row
        for (capability, protocol), group in groupby(evidence, key=lambda e: e[:2])
        for row in _rows(capability, protocol, list(group), n_encoder, seed)
    ]
    return frame("prediction", with_holm(rows, by=["effect"]))


def _evidence(
    similarity: pd.DataFrame, cka: pd.DataFrame, records: pd.DataFrame, chance: Chance
) -> Iterator[TaskCurves]:
    """The tasks with signal of which all layers were skipped and the prompts read."""
    every = list(cells(layer_skips(records)))
    signal = signals(every, chance)
    for cell in every:
        level = chance(cell.task, cell.protocol)
        read = _of_prompts(similarity, cell)
        layers = sorted(read["layer"].unique())
        complete = cell.interventions["layer"].tolist() == layers and len(layers) > 0
        if complete and signal[cell.task, cell.protocol]:
            asked = records.loc[records["task"] == cell.task, "item"]
            _refuse_other_items(cell.task, set(asked), set(read["item"]))
            yield _of_task(cell, read, _of_prompts(cka, cell), level)


def _of_prompts(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of a task read on the prompts of a protocol; ``generate`` has continuation's."""
    protocol = "continuation" if cell.protocol == "generate" else cell.protocol
    return table.loc[(table["task"] == cell.task) & (table["protocol"] == protocol)]


def _refuse_other_items(task: str, asked: set[str], read: set[str]) -> None:
    if asked != read:
        raise UserError(
            f"Ablation and similarity have other items of task {task!r} ({len(asked)} and "
            f"{len(read)}): expected both on the same items; run one of them again."
        )


def _of_task(cell: Cell, read: pd.DataFrame, cka: pd.DataFrame, chance: float) -> TaskCurves:
    clusters = cell.clusters
    near = [i for i, (_, span) in enumerate(cells_of(read)) if span == 1]
    right = np.column_stack([cell.intact, cell.floor(chance), cell.correct])
    through = cka.loc[cka["other"] == cka["layer"] + 1].sort_values("layer")["cka_unbiased"]
    turned = 1 - through.to_numpy(dtype=float, na_value=np.nan)
    block, angles = influences(read), angular_map(read)[:, near]

    def drawn(counts: Counts) -> dict[str, Curves]:
        intact, floor, correct = np.split(clusters.means_of_counts(right, counts), [1, 2], axis=1)
        return {
            "influence": clusters.means_of_counts(block, counts),
            "angular": clusters.means_of_counts(angles, counts),
            "cka": np.repeat(turned[None], len(counts), axis=0),
            "share_lost": stats.shares(intact, correct, floor),
            "nats": clusters.means_of_counts(cell.nats, counts),
        }

    return TaskCurves(cell.capability, cell.protocol, cell.task, len(cell.intact), clusters, drawn)


def _rows(
    capability: str, protocol: str, tasks: list[TaskCurves], n_encoder: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Every predictor with every effect, each the mean over the tasks, with the same weight."""
    several_clusters = [task.clusters for task in tasks]
    counts = draws_of_tasks([task.task for task in tasks], several_clusters, N_RESAMPLES, seed)
    drawn = [task.drawn(count) for task, count in zip(tasks, counts, strict=True)]
    curves = {name: np.mean([each[name] for each in drawn], axis=0) for name in drawn[0]}
    stacks: dict[str | None, slice] = {None: slice(None)}
    if n_encoder:
        stacks |= {ENCODER: slice(n_encoder), DECODER: slice(n_encoder, None)}
    same = {
        "capability": capability,
        "protocol": protocol,
        "n_items": sum(task.n_items for task in tasks),
        "n_tasks": len(tasks),
        "tasks": ",".join(task.task for task in tasks),
    }
    several = min(clusters.n for clusters in several_clusters) > 1
    n = Clusters.joined(several_clusters).n if several else 1
    random = stats.generator(seed, "rank correlation", capability, protocol)
    for effect, predictor, stack in product(EFFECTS, PREDICTORS, stacks):
        if np.isnan(curves[effect][0]).all():  # no nats of generated texts
            continue
        layers = stacks[stack]
        known = ~np.isnan(curves[predictor][0, layers])
        ranked, cost = (curves[name][:, layers][:, known] for name in (predictor, effect))
        # CKA is of all items together, and the same in all draws
        rho = rank_correlation(ranked, cost, n, random, sampled=(predictor != "cka", True))
        columns = rho.columns("rho", "") | {"n_layers": int(known.sum())}
        yield {**same, "predictor": predictor, "effect": effect, "stack": stack, **columns}


# Layers of a task and protocol in the short view.
_SHOWN = 3


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityResult(Result):
    """Similarity of the residual streams before and after layers.

    Attributes:
        similarity: ``similarity.parquet``: block influence and angular distances of every item.
        cka: ``cka.parquet``: linear CKA of every pair of depths, over items.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("similarity", "cka")
    title: ClassVar[str] = "Similarity of layers: those that turn the stream least"
    if_empty: ClassVar[str] = "No prompt was read."

    similarity: pd.DataFrame
    cka: pd.DataFrame
    facts: Facts

    @computed_once
    def angular(self) -> pd.DataFrame:
        """``angular.parquet``: angular distance across every block of layers."""
        return angular_table(self.similarity, self.facts.seed)

    @computed_once
    def influence(self) -> pd.DataFrame:
        """``influence.parquet``: block influence of every layer."""
        return influence_table(self.similarity, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``angular`` and ``influence``."""
        return {"angular": self.angular(), "influence": self.influence()}

    def predicts(self, ablation: AblationResult) -> pd.DataFrame:
        """``prediction.parquet``: how well similarity ranks layers by what skipping them costs.

        Args:
            ablation: skips of all layers, of the same model and items.

        Raises:
            UserError: if it is of another model or of other items.
        """
        facts = join_facts([self.facts, ablation.facts])
        seed, tables = self.facts.seed, (self.similarity, self.cka, ablation.records)
        n_encoder = self.facts.model.n_encoder_layers
        return prediction_table(*tables, facts.chance, seed, n_encoder)

    def plot(self) -> Any:
        """Maps of angular distance and CKA, and block influence."""
        from .figures import similarity_map

        return drawn(self, similarity_map, self.angular(), self.influence(), self.cka)

    def summary_rows(self) -> pd.DataFrame:
        """The layers with the least block influence."""
        ranked = self.influence().sort_values(by="influence", kind="stable")
        top = ranked.groupby(["protocol", "task"], sort=True).head(_SHOWN)
        top = top.sort_values(["protocol", "task"], kind="stable")
        return in_short(self, without(INFLUENCE, "n"), top)


def _of_stack(row: Row) -> str:
    """How many layers a row is about, and of which stack if of one alone."""
    return str(row["n_layers"]) + ("" if pd.isna(row["stack"]) else f" ({row['stack']})")


INFLUENCE = (
    *plain("task", "protocol"),
    LAYER,
    named("n", "n_items"),
    estimated("block influence", "influence", "", 1, 3),
)
PREDICTION = (
    *plain("capability", "protocol"),
    named("measure", "predictor"),
    *plain("effect"),
    Column("layers", _of_stack),
    named("n", "n_items"),
    estimated("rank correlation", "rho", "", 1, 2),
    p_column("p (Holm)", "p_holm"),
)
