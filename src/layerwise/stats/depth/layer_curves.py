"""Curves of a method for each task, layer by layer, in the sample and in resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise.errors import count_noun
from layerwise.ground.layer_names import COMPUTATION
from layerwise.stats.inference import percentile_bounds
from layerwise.stats.items.clusters import (
    Clusters,
    Counts,
    clusters_from_table,
    draws_of_tasks,
    sample_and_resamples,
    share_clusters,
)
from layerwise.stats.resampling import generator

from .item_curves import ItemCurves, progress_by_item

ABLATION, PATCHING, ATTRIBUTION = "ablation", "activation patching", "direct attribution"
# Whether the intact model can do a task, by task and protocol.
Signal = Mapping[tuple[str, str], bool]
TASK = ["task", "capability", "protocol"]


class CriticalLayerTest(NamedTuple):
    """The test of which layers are critical, and its items."""

    clusters: Clusters  # which of the items ask for the same thing
    # Says of how often each cluster is drawn which layers are critical then.
    critical: Callable[[Counts], Bool[np.ndarray, "draws layers"]]


class MethodCurve(NamedTuple):
    """One method's curve for one task under one protocol; row 0 is the sample itself."""

    # ``ablation``, ``logit lens`` or another of ``LENS_ORDER``, ``activation patching`` or ``direct
    # attribution``.
    method: str
    capability: str  # the task's capability
    protocol: str
    task: str
    items: tuple[str, ...]  # item ids
    clusters: Clusters  # which items ask for the same thing
    values: Float[np.ndarray, "items measured"]  # what was measured of each item
    curve: Callable[[np.ndarray], np.ndarray]  # makes rows of the means of ``values``
    # Makes curves item by item of ``values``, from which depths are inferred.
    by_item: Callable[[np.ndarray, Clusters], ItemCurves]
    # Ablation: share lost by layer; otherwise: progress before each layer and after the last, one
    # column more. nan where a resample has no share.
    rows: Float[np.ndarray, "draws columns"]
    # Ablation: whether skipping each layer does significant harm; otherwise None.
    critical: Bool[np.ndarray, "draws layers"] | None = None
    # Lenses: mean layer from which right answers stay on top; otherwise None. nan where a resample
    # has no right answer.
    settled: Float[np.ndarray, " draws"] | None = None
    n_right: int = 0  # lenses: number of right answers
    settled_curves: ItemCurves | None = None  # lenses: the same item by item; otherwise None
    tested: CriticalLayerTest | None = (
        None  # ablation: how ``critical`` is found of draws; otherwise None
    )
    # Lenses: of each item the layer from which its answer stays on top if it is right, otherwise 0,
    # and whether it is right; otherwise None.
    settling: Float[np.ndarray, "items 2"] | None = None

    @property
    def has_losses(self) -> bool:
        """True if rows are losses by layer, rather than progress at the edges between layers."""
        return self.critical is not None

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def item_curves(self) -> ItemCurves:
        """Its curves item by item."""
        return self.by_item(self.values, self.clusters)

    def select_items(self, items: Sequence[str], sampling: Sampling) -> MethodCurve:
        """The curve of some of the items alone; which layers are critical stays."""
        if tuple(items) == self.items:
            return self
        values = self.values[[self.items.index(item) for item in items]]
        clusters = Clusters.from_labels(
            [self.clusters.labels[self.items.index(item)] for item in items]
        )
        rows = self.curve(sampling.means(self.task, values, clusters))
        return self._replace(
            items=tuple(items), values=values, rows=rows, settled=None, settling=None,
            clusters=clusters,
        )  # fmt: skip


def resample_jointly(group: Sequence[MethodCurve], sampling: Sampling) -> list[MethodCurve]:
    """Resample one method's curves of several tasks, shared clusters drawn together."""
    # Of tasks that share nothing it is what it was.
    every = [e.clusters for e in group]
    if not share_clusters(every):
        return list(group)
    counts = sampling.counts([e.task for e in group], every)
    evidence = [
        e._replace(rows=e.curve(e.clusters.means_of_counts(e.values, drawn)))
        for e, drawn in zip(group, counts, strict=True)
    ]
    tests = [e.tested for e in group if e.tested is not None]
    if len(tests) == len(group):
        counts = sampling.counts([e.task for e in group], [test.clusters for test in tests])
        evidence = [
            e._replace(critical=test.critical(drawn))
            for e, test, drawn in zip(evidence, tests, counts, strict=True)
        ]
    read = [(e.task, e.settling, e.settled_curves.item_clusters) for e in group
            if e.settling is not None and e.settled_curves is not None]  # fmt: skip
    counts = sampling.counts([task for task, *_ in read], [clusters for *_, clusters in read])
    settled = {
        task: mean_of_right(clusters.means_of_counts(values, drawn))
        for (task, values, clusters), drawn in zip(read, counts, strict=True)
    }
    return [e._replace(settled=settled.get(e.task, e.settled)) for e in evidence]


def mean_of_right(means: Float[np.ndarray, "draws 2"]) -> Float[np.ndarray, " draws"]:
    """The mean layer of right answers, of the means of ``MethodCurve.settling``; nan of none."""
    return means[:, 0] / np.where(means[:, 1] > 0, means[:, 1], np.nan)


def restrict_to_stack(evidence: MethodCurve, layers: range) -> MethodCurve | None:
    """A method's curve within one stack; None if its curve does not run through it."""
    # Which layers are critical is not tested anew: all layers of both stacks were tested together.
    # A prediction depth is none of a stack's, for answers may be settled before it begins.
    critical, tested = evidence.critical, evidence.tested
    # progress is known before each layer and behind the last, so at one place more
    chosen = slice(layers.start, layers.stop + (critical is None))
    rows = evidence.rows[:, chosen]
    if critical is None and not np.allclose(rows[0, [0, -1]], [0.0, 1.0], atol=1e-3):
        return None
    return evidence._replace(
        rows=rows,
        curve=lambda means: evidence.curve(means)[:, chosen],
        by_item=lambda *items: evidence.by_item(*items).restrict_to_layers(layers),
        critical=None if critical is None else critical[:, chosen],
        settled=None,
        settling=None,
        tested=tested and tested._replace(critical=lambda drawn: tested.critical(drawn)[:, chosen]),
    )


class ExcludedTask(NamedTuple):
    """A task, or capability (``task`` is None), without a claim, and why."""

    capability: str
    protocol: str
    method: str
    task: str | None
    reason: str
    axis: str = COMPUTATION


class Sampling(NamedTuple):
    """The resampling that all methods share, and the model's number of layers."""

    seed: int
    n_resamples: int
    n_layers: int

    def indices(self, task: str, n: int) -> np.ndarray:
        """The sample itself, then resamples: the same for a task wherever it is asked."""
        return sample_and_resamples(n, self.n_resamples, generator(self.seed, task))

    def counts(self, tasks: Sequence[str], several: Sequence[Clusters]) -> list[Counts]:
        """Number of times that each task's clusters are drawn; those that tasks share, together."""
        return draws_of_tasks(tasks, several, self.n_resamples, self.seed)

    def means(self, task: str, values: np.ndarray, clusters: Clusters) -> np.ndarray:
        """Means over items in the sample and in resamples of its clusters."""
        return clusters.resampled_means(values, self.indices(task, clusters.n))


def gap_reason(done: str, measured: int, expected: int) -> str:
    """Reason to leave out a curve that was not measured at all layers."""
    return (
        f"{done} at {measured} of {count_noun(expected, 'place')}: the curve over layers has gaps"
    )


def progress(
    method: str,
    group: pd.DataFrame,
    wide: pd.DataFrame,
    edges: np.ndarray,
    signal: Signal,
    sampling: Sampling,
    why: str,
    *,
    from_first: bool = True,
) -> MethodCurve | ExcludedTask:
    """Means over items by edge, as shares of the way to the last edge."""
    key = task_key(method, group)
    capability, protocol, _, task = key
    values = wide.to_numpy(dtype=float)
    if not signal.get((task, protocol), True):
        return ExcludedTask(*key, "no signal: the intact model is not better than blind")
    if not np.array_equal(wide.columns.to_numpy(dtype=int), edges):
        return ExcludedTask(*key, gap_reason("read", wide.shape[1], len(edges)))
    if not np.isfinite(values).all():
        return ExcludedTask(*key, "some values are missing or infinite")
    clusters = clusters_from_table(group, wide.index)
    means = sampling.means(task, values, clusters)
    whole = means[:, -1:] - (means[:, :1] if from_first else 0)
    if len(values) < 2 or not percentile_bounds(whole[1:], 0.95).low[0] > 0:
        return ExcludedTask(*key, why if len(values) > 1 else "a single item")
    items = tuple(map(str, wide.index))

    def way(edges: np.ndarray) -> np.ndarray:
        return edges - edges[:, :1] if from_first else edges

    def curve(means: np.ndarray) -> np.ndarray:
        last = way(means)[:, -1:]
        return way(means) / np.where(last > 0, last, np.nan)

    def by_item(values: np.ndarray, clusters: Clusters) -> ItemCurves:
        return progress_by_item(way(values), clusters)

    return MethodCurve(
        method, capability, protocol, task, items, clusters, values, curve, by_item, curve(means)
    )  # fmt: skip


def task_key(method: str, group: pd.DataFrame) -> tuple[str, str, str, str]:
    """Capability, protocol, method and task of rows that share them."""
    task, capability, protocol = (str(group[column].iloc[0]) for column in TASK)
    return capability, protocol, method, task


def with_own_signal(signal: Signal, key: tuple[str, str, str, str], has_signal: bool) -> Signal:
    """The signal of tasks, where that of one is also asked of what a method measured itself."""
    _, protocol, _, task = key
    place = task, protocol
    return {**signal, place: signal.get(place, True) and has_signal}


def while_the_encoder_runs(wide: pd.DataFrame, n_encoder: int) -> pd.DataFrame:
    """Items by layer with 0 at the encoder's, where there is no position to read yet."""
    zeros = pd.DataFrame(0.0, index=wide.index, columns=range(n_encoder))
    wide = wide.set_axis([int(column) for column in wide.columns], axis=1)
    return pd.concat([zeros, wide], axis=1).sort_index(axis=1)
