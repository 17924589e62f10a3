"""The typed result of the lens, and the compact table that it shows in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.analyses.shared.left_out import exclusion_sentences
from layerwise.analyses.shared.lens_names import stream_names
from layerwise.presentation import no_signal
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import WAY, protocol_words
from layerwise.stats.depth.item_curves import ItemCurves, item_settling_curves
from layerwise.stats.depth.layer_curves import Signal
from layerwise.stats.effects import ALPHA, Chance
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.families.over_items import lens_summary
from layerwise.stats.items.clusters import Clusters, clusters_from_table
from layerwise.stats.signals.signal import MethodAnswers, gate_table, signals_from_table
from layerwise.storage.base import Result, cache_tables, number
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts
from layerwise.tasks.items import CAPABILITIES

_TASK = ["lens", "protocol", "capability", "task"]


def answer_rows(lens: pd.DataFrame) -> pd.DataFrame:
    """The rows that look for the answer at the prompt's last position, after each layer."""
    wanted = {"over": "prompt", "pos": -1, "site": "resid_post"}
    chosen = [np.asarray(lens[name].eq(value), dtype=bool) for name, value in wanted.items()]
    return pd.DataFrame(lens.loc[np.logical_and.reduce(chosen)])


def answers_on_top(lens: pd.DataFrame) -> pd.DataFrame:
    """Share of the items whose answer is on top after each layer, with exact 95 % intervals."""
    answers = answer_rows(lens).assign(on_top=lambda table: table["rank"] == 0)
    grouped = answers.groupby(["task", "layer"], as_index=False)
    table = grouped.agg(n_items=("on_top", "size"), on_top=("on_top", "sum"))
    shares = [
        stats.exact_interval(int(n_right), int(n))
        for n_right, n in zip(table["on_top"], table["n_items"], strict=True)
    ]
    ends = [(share.estimate, share.low, share.high) for share in shares]
    table[["on_top", "low", "high"]] = np.array(ends).reshape(-1, 3)
    return table


def prediction_depths(lens: pd.DataFrame, n_layers: int, n_encoder: int = 0) -> pd.DataFrame:
    """``prediction_depth.parquet``: from which layer on each final answer stays on top."""
    # Baldock et al. 2021 (arXiv:2106.09647), with the lens for their nearest-neighbour probes.
    rows: list[dict[str, Any]] = []
    for _, group in answer_rows(lens).groupby(_TASK, sort=True):
        on_top = group.assign(top=(group["final_rank"] == 0).fillna(False).astype(bool))
        wide = on_top.pivot(index="item", columns="layer", values="top")
        columns = wide.columns.to_numpy(dtype=int)
        if not covers_a_stack(columns, n_layers, n_encoder):
            continue
        right = group.loc[group["layer"] == columns[-1]].set_index("item")["rank"] == 0
        named = {name: str(group[name].iloc[0]) for name in _TASK}
        layers = columns[0] + 1 + settling_layer(wide.to_numpy(dtype=bool))
        labels = clusters_from_table(group, wide.index).labels
        for item, layer, label in zip(wide.index, layers, labels, strict=True):
            depth = max(int(layer), 0) / max(n_layers - 1, 1)
            more = {"layer": int(layer), "depth": depth, "right": bool(right[item]),
                    "cluster": label}  # fmt: skip
            rows.append({**named, "item": str(item), **more})
    return frame("prediction_depth", rows)


def covers_a_stack(layers: Int[np.ndarray, " read"], n_layers: int, n_encoder: int) -> bool:
    """True if layers that were read, and what enters them, are all of the model or of a stack."""
    ends = {(-1, n_layers - 1)}
    if n_encoder:
        ends |= {(-1, n_encoder - 1), (n_encoder - 1, n_layers - 1)}
    first, last = int(layers[0]), int(layers[-1])
    return (first, last) in ends and np.array_equal(layers, np.arange(first, last + 1))


def settling_layer(on_top: np.ndarray) -> Int[np.ndarray, " items"]:
    """The layer from which on the final answer stays on top; column 0 is layer -1."""
    n_columns = on_top.shape[1]
    below = ~on_top
    last_below = n_columns - 1 - np.argmax(below[:, ::-1], axis=1)
    return np.where(below.any(axis=1), last_below, -1)


def guessing_chance(facts: Facts) -> Chance:
    """Accuracy by guessing; 0 where a task has no choices to guess from."""
    return lambda task, protocol: facts.task(task).chance.get(protocol, 0.0)


def lens_gate(lens: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """Signal where right answers end on top more often than without the question."""
    # The model chooses among all tokens: floors are the most frequent first token, and choosing
    # among the options where one ends on top (exact binomial test against the larger, if anything
    # too wide: Hoeffding 1956, Ann. Math. Stat. 27), and other items' questions (exact McNemar;
    # else stated chance). Holm over the run's tasks and protocols.
    answered, floors = [], {}
    for _, group in answer_rows(lens).groupby(["task", "protocol"]):
        place = str(group["task"].iloc[0]), str(group["protocol"].iloc[0])
        last = group.loc[group["layer"] == group["layer"].max()].drop_duplicates("item")
        right = last["rank"].eq(0).to_numpy(dtype=bool)
        answered.append(MethodAnswers.from_items(last, right))
        known = last["token"].dropna()
        most = known.value_counts().max() / len(last) if len(known) else 0.0
        stated = 0.0 if answered[-1].blind is not None and len(known) else chance(*place)
        floors[place] = max(float(most), _option_chance(last), stated)
    return gate_table(answered, lambda task, protocol: floors[task, protocol])


def _option_chance(last: pd.DataFrame) -> float:
    """Chance of choosing evenly among the options where one of them ends on top."""
    n = last["options"].fillna(0).to_numpy(dtype=float)
    return float(np.divide(1.0, n, out=np.zeros(len(n)), where=n > 0).mean())


class Sample(NamedTuple):
    """The relative depths of a capability's right answers by a lens, in tasks with signal."""

    lens: str
    protocol: str
    capability: str
    tasks: tuple[str, ...]
    depths: Float[np.ndarray, " items"]
    mean: float  # over tasks, of their means
    clusters: Clusters
    curves: tuple[ItemCurves, ...]
    n_layers: int


def samples(depths: pd.DataFrame, signal: Signal, n_layers: int) -> Iterator[Sample]:
    """Depths by lens, protocol and capability, of tasks with signal and two right answers."""
    known = [*CAPABILITIES, *sorted(set(depths["capability"]) - set(CAPABILITIES))]
    ordered = depths.assign(place=depths["capability"].map(known.index))
    for _, of_capability in ordered.groupby(["lens", "protocol", "place"], sort=True):
        lens, protocol, capability = (str(of_capability[name].iloc[0]) for name in _TASK[:3])
        solved: list[tuple[str, np.ndarray, Clusters, ItemCurves]] = []
        for task, group in of_capability.groupby("task", sort=True):
            right = group["right"].to_numpy(dtype=bool)
            clusters = clusters_from_table(group, group["item"].tolist())
            if not signal.get((str(task), protocol), False) or clusters.select_items(right).n < 2:
                continue
            layers = group["layer"].to_numpy(dtype=float).clip(min=0)
            curve = item_settling_curves(layers, right, n_layers, clusters)
            own_depths = group.loc[right, "depth"].to_numpy(dtype=float)
            solved.append((str(task), own_depths, clusters.select_items(right), curve))
        if solved:
            tasks, each, clusters, curves = zip(*solved, strict=True)
            yield Sample(
                lens, protocol, capability, tasks, np.concatenate(each),
                float(np.mean([x.mean() for x in each])), Clusters.concatenate(clusters), curves,
                n_layers,
            )  # fmt: skip


def depth_means(depths: pd.DataFrame, signal: Signal, n_layers: int) -> pd.DataFrame:
    """``prediction_depth_means``: mean depth by capability, bounded as in ``emergence``."""
    from layerwise.stats.depth.depth_inference import CENTRE, depth_bounds

    rows = []
    for sample in samples(depths, signal, n_layers):
        low, high = np.array(depth_bounds(sample.curves, CENTRE)) / max(n_layers - 1, 1)
        rows.append(
            {
                "lens": sample.lens,
                "protocol": sample.protocol,
                "capability": sample.capability,
                "tasks": ",".join(sample.tasks),
                "n_items": len(sample.depths),
                "depth": sample.mean,
                "low": float(low),
                "high": float(high),
                "median": float(np.median(sample.depths)),
            }
        )
    return frame("prediction_depth_means", rows)


def depth_comparisons(depths: pd.DataFrame, signal: Signal, n_layers: int) -> pd.DataFrame:
    """``prediction_depth_comparisons``: do two capabilities settle at other depths?"""
    # Mann-Whitney test (1947, Ann. Math. Stat. 18) of items' depths, or of clusters' means; Holm
    # over all rows. ``later`` counts ties half; the difference has the interval of
    # ``order``.
    rows = [
        _comparison(first, second)
        for first, second in combinations(samples(depths, signal, n_layers), 2)
        if (first.lens, first.protocol) == (second.lens, second.protocol)
    ]
    tested = [row | {"significant": row["p_holm"] < ALPHA} for row in correct_rows(rows)]
    return frame("prediction_depth_comparisons", tested)


def _comparison(first: Sample, second: Sample) -> dict[str, Any]:
    from scipy.stats import mannwhitneyu

    from layerwise.stats.depth.depth_inference import CENTRE, Axis, depth_difference

    axis = Axis(first.n_layers, 0.0, max(first.n_layers - 1, 1))
    bounds = depth_difference(
        first.curves, second.curves, (axis, axis), paired=False, measure=CENTRE
    )
    ranked = mannwhitneyu(second.depths, first.depths)
    late, early = (sample.clusters.means(sample.depths) for sample in (second, first))
    tested = mannwhitneyu(late, early)
    # Where all depths are the same there is no rank to compare.
    p = 1.0 if np.isnan(tested.pvalue) else float(tested.pvalue)
    return {
        "lens": first.lens,
        "protocol": first.protocol,
        "first": first.capability,
        "second": second.capability,
        "n_first": len(first.depths),
        "n_second": len(second.depths),
        "difference": second.mean - first.mean,
        "low": bounds.low,
        "high": bounds.high,
        "later": float(ranked.statistic) / (len(first.depths) * len(second.depths)),
        "p": p,
    }


@dataclass(frozen=True, repr=False, eq=False)
class LensResult(Result):
    """Rank and log-probability of tokens at each layer, read through the unembedding.

    Attributes:
        lens: ``lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("lens",)
    title: ClassVar[str] = "Logit lens: the answer, layer by layer"
    if_empty: ClassVar[str] = "Nothing was read."

    lens: pd.DataFrame
    facts: Facts

    @cache_tables
    def summary(self) -> pd.DataFrame:
        """Averages over items per task, protocol and place, with bootstrap intervals.

        Returns:
            ``task``, ``capability``, ``protocol``, ``lens``, ``over``, ``site``, ``pos``,
            ``layer``, ``n_items``, ``median_rank``, ``logprob``, ``logprob_low``,
            ``logprob_high``, ``entropy``, ``kl`` (nats).
        """
        return lens_summary(self.lens, self.facts.seed)

    def signals(self) -> dict[tuple[str, str], bool]:
        """Signal where right answers end on top more often than blind, by task and protocol."""
        return signals_from_table(lens_gate(self.lens, guessing_chance(self.facts)))

    @cache_tables
    def prediction_depths(self) -> pd.DataFrame:
        """``prediction_depth.parquet``: the layer from which each final answer stays on top."""
        model = self.facts.model
        return prediction_depths(self.lens, model.n_layers, model.n_encoder_layers)

    @cache_tables
    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """Prediction depths, their means by capability, and tests between capabilities."""
        depths = self.prediction_depths()
        if not len(depths):
            return {}
        given = (depths, self.signals(), self.facts.model.n_layers)
        return {
            "prediction_depth": depths,
            "prediction_depth_means": depth_means(*given),
            "prediction_depth_comparisons": depth_comparisons(*given),
        }

    def _figure(self) -> Any:
        """Curves of what the lens reads after each layer."""
        from .figures import lens_curves

        return draw_table(self, lens_curves, self.lens, seed=self.facts.seed)

    def notes(self) -> list[str]:
        """Items that are left out, and how often the model is right where it has no signal."""
        silent = no_signal.gate_sentences(lens_gate(self.lens, guessing_chance(self.facts)))
        return [*exclusion_sentences(self.facts, "logit lens"), *silent]

    def summary_rows(self) -> pd.DataFrame:
        """Median rank and log-probability by way of scoring, layer, and lens and site if many."""
        lens, n_encoder = self.lens, self.facts.model.n_encoder_layers
        several = [name for name in ("lens", "site") if len(set(lens[name])) > 1]
        table = lens.groupby(["protocol", *several, "layer"], as_index=False).agg(
            rank=("rank", "median"), logprob=("logprob", "mean")
        )
        if n_encoder:
            named = table if "lens" in table else table.assign(lens=lens["lens"].iloc[0])
            table["layer"] = stream_names(named, n_encoder)
        names = {"protocol": WAY, "rank": "median rank", "logprob": "log-probability (nats)"}
        words = {
            "protocol": table["protocol"].map(protocol_words),
            "logprob": table["logprob"].map(number),
        }
        return table.assign(**words).rename(columns=names)
