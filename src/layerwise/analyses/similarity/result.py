"""The typed result of the similarity of layers, and its compact table for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, ClassVar

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
    drop_columns,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.stats.effects import Cell, Chance, cells, layer_skips
from layerwise.stats.families.estimate import mean_columns
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import Clusters, Counts, clusters_from_table, draws_of_tasks
from layerwise.stats.signals.signal import signals
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts, join_facts

_TASK = ["task", "capability", "protocol"]
PREDICTORS = ("influence", "angular", "cka")
EFFECTS = ("share_lost", "nats")
N_RESAMPLES = 5000
# Predictors and effects by layer, in draws of a task's clusters.
Drawn = Callable[[Counts], dict[str, Float[np.ndarray, "draws layers"]]]


def _by_item(group: pd.DataFrame, column: str) -> Float[np.ndarray, "item cell"]:
    """A column of one task, by item (in the order of their ids) and layer, or cell of the map."""
    values = pd.Series(group.sort_values(["item", "layer"])[column]).explode()
    return values.to_numpy(dtype=float).reshape(len(set(group["item"])), -1)


def _angular_map(group: pd.DataFrame) -> pd.DataFrame:
    """``layer`` and ``n_layers`` of the cells of the map of angular distances, in their order."""
    of_item = group.loc[group["item"] == group["item"].iloc[0]].sort_values("layer")
    cells = of_item[["layer", "angular"]].explode("angular", ignore_index=True)
    n_layers = cells.groupby("layer").cumcount() + 1
    return cells.assign(layer=cells["layer"].astype(int), n_layers=n_layers)


def _task_means(
    similarity: pd.DataFrame, column: str, name: str, seed: int
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The rows of each task, and means over its items with bootstrap intervals, a row per cell."""
    for _, group in similarity.groupby(_TASK, sort=True):
        task, clusters = (
            str(group["task"].iloc[0]),
            clusters_from_table(group, sorted(set(group["item"]))),
        )
        values, random = _by_item(group, column), stats.generator(seed, task)
        columns = mean_columns(name, "", values, clusters, random)
        key = {each: group[each].iloc[0] for each in _TASK}
        yield group, pd.DataFrame(columns).assign(**key, n_items=len(values))


def prediction_table(
    similarity: pd.DataFrame, cka: pd.DataFrame, records: pd.DataFrame, chance: Chance, seed: int,
    n_encoder: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """``prediction``: rank correlation of each predictor with each effect, over layers."""
    # the tasks with signal of which all layers were skipped and the prompts read
    every, known = list(cells(layer_skips(records))), []
    signal = signals(every, chance)
    for cell in every:
        read = _prompt_rows(similarity, cell)
        layers = sorted(read["layer"].unique())
        complete = cell.interventions["layer"].tolist() == layers and len(layers) > 0
        if complete and signal[cell.task, cell.protocol]:
            asked = set(records.loc[records["task"] == cell.task, "item"])
            if asked != set(read["item"]):
                raise UserError(
                    f"Ablation and similarity have other items of task {cell.task!r} "
                    f"({len(asked)} and {read['item'].nunique()}): expected both on the same "
                    "items; run one of them again."
                )
            level = chance(cell.task, cell.protocol)
            known.append((cell, _resampled_measures(cell, read, _prompt_rows(cka, cell), level)))
    known.sort(key=lambda each: (each[0].capability, each[0].protocol, each[0].task))
    groups = groupby(known, key=lambda each: (each[0].capability, each[0].protocol))
    rows = [row for _, group in groups for row in _rows(list(group), n_encoder, seed)]
    return frame("prediction", correct_rows(rows, by=["effect"]))


def _prompt_rows(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of a task read on the prompts of a protocol; ``generate`` has continuation's."""
    protocol = "continuation" if cell.protocol == "generate" else cell.protocol
    return table.loc[(table["task"] == cell.task) & (table["protocol"] == protocol)]


def _resampled_measures(cell: Cell, read: pd.DataFrame, cka: pd.DataFrame, chance: float) -> Drawn:
    clusters = cell.clusters
    right = np.column_stack([cell.intact, cell.floor(chance), cell.correct])
    through = cka.loc[cka["other"] == cka["layer"] + 1].sort_values("layer")["cka_unbiased"]
    turned = 1 - through.to_numpy(dtype=float, na_value=np.nan)
    single = (_angular_map(read)["n_layers"] == 1).to_numpy()
    block, angles = _by_item(read, "influence"), _by_item(read, "angular")[:, single]

    def drawn(counts: Counts) -> dict[str, Float[np.ndarray, "draws layers"]]:
        intact, floor, correct = np.split(clusters.means_of_counts(right, counts), [1, 2], axis=1)
        return {
            "influence": clusters.means_of_counts(block, counts),
            "angular": clusters.means_of_counts(angles, counts),
            "cka": np.repeat(turned[None], len(counts), axis=0),
            "share_lost": stats.shares(intact, correct, floor),
            "nats": clusters.means_of_counts(cell.nats, counts),
        }

    return drawn


def _rows(tasks: list[tuple[Cell, Drawn]], n_encoder: int, seed: int) -> Iterator[dict[str, Any]]:
    """Every predictor with every effect, each the mean over the tasks, with the same weight."""
    asked = [cell for cell, _ in tasks]
    several_clusters = [cell.clusters for cell in asked]
    counts = draws_of_tasks([cell.task for cell in asked], several_clusters, N_RESAMPLES, seed)
    drawn = [draw(count) for (_, draw), count in zip(tasks, counts, strict=True)]
    curves = {name: np.mean([each[name] for each in drawn], axis=0) for name in drawn[0]}
    stacks: dict[str | None, slice] = {None: slice(None)}
    if n_encoder:
        stacks |= {ENCODER: slice(n_encoder), DECODER: slice(n_encoder, None)}
    same = {
        "capability": asked[0].capability,
        "protocol": asked[0].protocol,
        "n_items": sum(len(cell.intact) for cell in asked),
        "n_tasks": len(tasks),
        "tasks": ",".join(cell.task for cell in asked),
    }
    several = min(clusters.n for clusters in several_clusters) > 1
    n = Clusters.concatenate(several_clusters).n if several else 1
    random = stats.generator(seed, "rank correlation", same["capability"], same["protocol"])
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


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityResult(Result):
    """Similarity of the residual streams before and after layers.

    Attributes:
        similarity: ``similarity.parquet``: block influence and angular distances of every item.
        cka: ``cka.parquet``: linear CKA of every pair of depths, over items.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("similarity", "cka")
    derived_by: ClassVar[dict[str, str]] = {"angular": "angular", "influence": "influence"}
    title: ClassVar[str] = "Similarity of layers: those that turn the stream least"
    if_empty: ClassVar[str] = "No prompt was read."

    similarity: pd.DataFrame
    cka: pd.DataFrame
    facts: Facts

    @cache_tables
    def angular(self) -> pd.DataFrame:
        """``angular``: mean angular distance per task, layer and number of layers."""
        tables = []
        for group, table in _task_means(self.similarity, "angular", "distance", self.facts.seed):
            table = table.assign(**_angular_map(group)[["layer", "n_layers"]])
            lowest = table.groupby("n_layers")["distance"].transform("min")
            tables.append(table.assign(least=table["distance"] == lowest))
        return conform("angular", pd.concat(tables)) if tables else frame("angular", [])

    @cache_tables
    def influence(self) -> pd.DataFrame:
        """``influence``: mean block influence per task and layer."""
        means = _task_means(self.similarity, "influence", "influence", self.facts.seed)
        tables = [table.assign(layer=range(len(table))) for _, table in means]
        return conform("influence", pd.concat(tables)) if tables else frame("influence", [])

    def predicts(self, ablation: AblationResult) -> pd.DataFrame:
        """``prediction``: how well similarity ranks layers by what skipping them costs.

        Args:
            ablation: skips of all layers, of the same model and items.

        Raises:
            UserError: if it is of another model or of other items.
        """
        facts = join_facts([self.facts, ablation.facts])
        seed, tables = self.facts.seed, (self.similarity, self.cka, ablation.records)
        n_encoder = self.facts.model.n_encoder_layers
        return prediction_table(*tables, facts.chance, seed, n_encoder)

    def _figure(self) -> Any:
        """Maps of angular distance and CKA, and block influence."""
        from .figures import similarity_map

        return draw_table(self, similarity_map, self.angular(), self.influence(), self.cka)

    def summary_rows(self) -> pd.DataFrame:
        """The three layers of each task and protocol with the least block influence."""
        ranked = self.influence().sort_values(by="influence", kind="stable")
        top = ranked.groupby(["protocol", "task"], sort=True).head(3)
        top = top.sort_values(["protocol", "task"], kind="stable")
        return in_short(self, drop_columns(INFLUENCE, "n"), top)


INFLUENCE = (
    *plain("task", "protocol"),
    LAYER,
    text_column("n", "n_items"),
    estimate_column("block influence", "influence", "", 1, 3),
)
PREDICTION = (
    *plain("capability", "protocol"),
    text_column("measure", "predictor"),
    *plain("effect"),
    Column(  # of which stack, if of one alone
        "layers",
        lambda row: str(row["n_layers"]) + ("" if pd.isna(row["stack"]) else f" ({row['stack']})"),
    ),
    text_column("n", "n_items"),
    estimate_column("rank correlation", "rho", "", 1, 2),
    p_column("p (Holm)", "p_holm"),
)
