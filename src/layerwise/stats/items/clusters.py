"""Items that ask for the same thing: resampled together, and tested together.

Where every item stands by itself, all of this is what it is of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from layerwise.stats.inference import Interval, exact_interval, mcnemar_p_values, t_p_values
from layerwise.stats.resampling import counted_sums, generator, resample_counts, resample_indices


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of items into clusters that ask for the same thing."""

    # The cluster of each item, numbered from 0 in the order of their first items.
    codes: Int[np.ndarray, " items"]
    n: int  # number of clusters
    # What each item asks for, the same in all tasks; null where it stands by itself.
    labels: tuple[str | None, ...]

    @classmethod
    def from_labels(cls, labels: Sequence[Any]) -> Clusters:
        """Items with the same label together; those whose label is null each by itself."""
        named = tuple(None if pd.isna(label) else str(label) for label in labels)
        number: dict[Any, int] = {}
        codes = [number.setdefault(i if name is None else name, len(number))
                 for i, name in enumerate(named)]  # fmt: skip
        return cls(np.array(codes, dtype=int), len(number), named)

    @classmethod
    def singletons(cls, n_items: int) -> Clusters:
        """Items that each stand by themselves."""
        return cls(np.arange(n_items), n_items, (None,) * n_items)

    @classmethod
    def concatenate(cls, several: Sequence[Clusters]) -> Clusters:
        """Of the items of several tasks, one after the other; what they share is one cluster."""
        return cls.from_labels([label for clusters in several for label in clusters.labels])

    def select_items(self, chosen: Bool[np.ndarray, " items"]) -> Clusters:
        """Of some of the items alone."""
        return Clusters.from_labels(
            [label for label, kept in zip(self.labels, chosen, strict=True) if kept]
        )

    @property
    def are_items(self) -> bool:
        """True if every item stands by itself."""
        return self.n == len(self.codes)

    @cached_property
    def row_of_label(self) -> dict[str, int]:
        """The number of each cluster that has a label, by which other tasks know it."""
        pairs = zip(self.labels, self.codes.tolist(), strict=True)
        return {label: code for label, code in pairs if label is not None}

    def shared_rows(self, other: Clusters) -> tuple[list[int], list[int]]:
        """Of the clusters that both ask for, the numbers here and there."""
        both = sorted(self.row_of_label.keys() & other.row_of_label.keys())
        return [self.row_of_label[b] for b in both], [other.row_of_label[b] for b in both]

    @cached_property
    def sizes(self) -> Int[np.ndarray, " clusters"]:
        """Number of items of each cluster."""
        return np.bincount(self.codes, minlength=self.n)

    def sums(self, values: Shaped[np.ndarray, "items ..."]) -> Shaped[np.ndarray, "clusters ..."]:
        """Sums over the items of each cluster; the values themselves where they are items."""
        if self.are_items:
            return values
        summed = np.zeros((self.n, *values.shape[1:]), dtype=np.result_type(values, int))
        np.add.at(summed, self.codes, values)
        return summed

    def means(self, values: Float[np.ndarray, "items ..."]) -> Float[np.ndarray, "clusters ..."]:
        """Means over the items of each cluster."""
        sizes = self.sizes.reshape(-1, *[1] * (values.ndim - 1))
        return values if self.are_items else self.sums(values) / sizes

    def resampled_means(
        self,
        values: Shaped[np.ndarray, "items columns"],
        indices: Int[np.ndarray, "resamples clusters"],
    ) -> Float[np.ndarray, "resamples columns"]:
        """Mean over the items of whole clusters that were drawn, of every column."""
        # Clusters may differ in size, so both the sum and the number of items vary over resamples
        # (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8).
        return self.means_of_counts(values, resample_counts(indices))

    def means_of_counts(
        self,
        values: Shaped[np.ndarray, "items columns"],
        counts: Int[np.ndarray, "resamples clusters"],
    ) -> Float[np.ndarray, "resamples columns"]:
        """The same, by how often each cluster is drawn."""
        items = counted_sums(counts, self.sizes[:, None])
        return counted_sums(counts, self.sums(values)) / np.maximum(items, 1)


def clusters_from_table(table: pd.DataFrame, items: Sequence[Any] | pd.Index) -> Clusters:
    """Clusters of items, by a table's column ``cluster``; each apart if it has none."""
    if "cluster" not in table:
        return Clusters.singletons(len(items))
    first = ~table["item"].duplicated().to_numpy()
    columns = (table[name].to_numpy(dtype=object)[first] for name in ("item", "cluster"))
    of_item = dict(zip(*columns, strict=True))
    return Clusters.from_labels([of_item.get(item) for item in items])


def sample_and_resamples(
    n: int, n_resamples: int, seed: int | np.random.Generator
) -> Int[np.ndarray, "draws n"]:
    """The sample itself (row 0), then resamples, so that all come from the same arithmetic."""
    resamples = resample_indices(n, n_resamples, seed)
    return np.concatenate([np.arange(n, dtype=resamples.dtype)[None], resamples])


def net_sizes(
    net: Int[np.ndarray, "clusters columns"],
) -> Int[np.ndarray, "clusters sizes columns"]:
    """True for each size, 1 to the largest, that a cluster's net change has, whatever its sign."""
    sizes = np.arange(1, max(int(np.abs(net).max(initial=1)), 1) + 1)
    return (np.abs(net)[:, None] == sizes[:, None]).astype(int)


def cluster_flip_p_values(
    total: Int[np.ndarray, "*shape"], sizes: Int[np.ndarray, "*shape sizes"]
) -> Float[np.ndarray, "*shape"]:
    """Two-sided exact McNemar test of clusters: each one's net change is turned or not."""
    # Under the null a whole cluster's two conditions are exchanged with probability 1/2, whatever
    # the dependence between its items (randomisation at the level of clusters: Fisher 1935, The
    # Design of Experiments, section 21; Gail et al. 1996, Stat. Med. 15, 1069-1092). So the sum of
    # net changes is a sum of independent +-k, k the size of each, whose distribution is exact.
    # Where no net change is above 1 it is the exact McNemar test of the clusters.
    ones = sizes[..., 0]
    plain = sizes[..., 1:].sum(axis=-1) == 0
    lost, gained = ((ones + total) // 2, (ones - total) // 2)
    p = mcnemar_p_values(np.where(plain, lost, 0), np.where(plain, gained, 0))
    p = np.array(p, dtype=float, ndmin=1).reshape(total.shape)
    if plain.all():
        return p
    known, which = np.unique(sizes[~plain], axis=0, return_inverse=True)
    reached = np.abs(total[~plain])
    tails = np.empty(len(reached))
    for number, counts in enumerate(known):
        rows = which.ravel() == number
        tails[rows] = _upper_tails(counts)[reached[rows]]
    p[~plain] = tails
    return p


def _upper_tails(counts: Int[np.ndarray, " sizes"]) -> Float[np.ndarray, " reached"]:
    """P(|sum| >= t) for t = 0, 1, ... of a sum of +-k, so many of each k = 1, 2, ..."""
    density = np.ones(1)
    for size, count in enumerate(counts, start=1):
        if count:
            steps = np.zeros(2 * size * count + 1)
            steps[:: 2 * size] = _fair_coin(int(count))
            density = np.convolve(density, steps)
    middle = len(density) // 2
    upper = np.cumsum(density[middle:][::-1])[::-1]
    return np.minimum(np.where(np.arange(len(upper)) > 0, 2 * upper, 1.0), 1.0)


# Tests of many pairs of layers ask for the same few counts.
@lru_cache(maxsize=4096)
def _fair_coin(count: int) -> Float[np.ndarray, " heads"]:
    """Probabilities of 0, 1, ... heads in so many throws."""
    from scipy.stats import binom

    return binom.pmf(np.arange(count + 1), count, 0.5)


def paired_p_values(
    net: Int[np.ndarray, "items columns"], clusters: Clusters
) -> Float[np.ndarray, " columns"]:
    """``cluster_flip_p_values`` of every column of changes: 1 lost, -1 gained, 0 the same."""
    summed = clusters.sums(net)
    return cluster_flip_p_values(summed.sum(axis=0), net_sizes(summed).sum(axis=0).T)


def resampled_tests(
    net: Int[np.ndarray, "items columns"],
    clusters: Clusters,
    counts: Int[np.ndarray, "resamples clusters"],
) -> tuple[Int[np.ndarray, "resamples columns"], Float[np.ndarray, "resamples columns"]]:
    """``paired_p_values`` made anew in every resample of clusters, and the sums that they test."""
    summed = clusters.sums(net)
    sizes = net_sizes(summed)
    n_sizes, n_columns = sizes.shape[1:]
    sums = counted_sums(counts, np.concatenate([summed, sizes.reshape(clusters.n, -1)], axis=1))
    total, drawn = np.split(np.rint(sums).astype(int), [n_columns], axis=1)
    drawn = drawn.reshape(-1, n_sizes, n_columns).transpose(0, 2, 1)
    return total, cluster_flip_p_values(total, drawn)


def design_effects(
    values: Float[np.ndarray, "items columns"], clusters: Clusters
) -> Float[np.ndarray, " columns"]:
    """Ratio of the variance of a mean to that of as many independent items."""
    # The ratio of the variance from sums over clusters to that from items (Kish 1965, Survey
    # Sampling, section 5.4), at least 1: items that ask for the same thing do not repel each other.
    # Where no item differs it cannot be seen, and is that of items that are all the same within
    # their clusters.
    if clusters.are_items or clusters.n < 2:
        return np.full(values.shape[1], float(len(values)) if clusters.n == 1 else 1.0)
    n, away = len(values), values - values.mean(axis=0)
    items = (away**2).sum(axis=0) * n / (n - 1)
    together = (clusters.sums(away) ** 2).sum(axis=0) * clusters.n / (clusters.n - 1)
    most = float((clusters.sizes.astype(float) ** 2).sum() / n)
    known = items > 1e-12
    return np.maximum(1.0, np.where(known, together / np.where(known, items, 1.0), most))


def independent_items(
    values: Shaped[np.ndarray, "items columns"], clusters: Clusters, tail: float = 0.025
) -> Float[np.ndarray, " columns"]:
    """Number of independent items that the clusters are worth, for exact intervals."""
    # Their number divided by the design effect, and by the squared ratio of the quantiles of
    # Student's t over clusters and over items (Korn and Graubard 1998, Survey Methodology 24).
    n = float(len(values))
    if clusters.are_items or clusters.n < 2:
        return np.full(values.shape[1], n if clusters.are_items else 1.0)
    from scipy.stats import t

    scale = t.isf(tail, n - 1) / t.isf(tail, clusters.n - 1)
    return n / design_effects(values.astype(float), clusters) * min(1.0, scale**2)


def with_design_effect(
    p: Float[np.ndarray, "*shape"], effects: Float[np.ndarray, "*shape"], clusters: Clusters
) -> Float[np.ndarray, "*shape"]:
    """One-sided p-values of tests over items, made valid where items of a cluster depend."""
    # The normal value of p is divided by the square root of the design effect (Rao and Scott 1981,
    # J. Am. Stat. Assoc. 76) and taken for one of Student's t over the clusters, which estimate it.
    from scipy.special import ndtri, stdtr

    if clusters.are_items:
        return p
    if clusters.n < 2:
        return np.ones_like(p)
    z = -ndtri(np.clip(p, 1e-300, 1.0)) / np.sqrt(effects)
    return np.maximum(p, stdtr(clusters.n - 1, -z))


def mean_errors(
    values: Float[np.ndarray, "items columns"], clusters: Clusters
) -> Float[np.ndarray, " columns"]:
    """Standard errors of the means over items, from the spread of the sums over clusters."""
    # Of single items the usual ones (Liang and Zeger 1986, Biometrika 73, for a mean).
    n = len(values)
    if clusters.n < 2:
        return np.full(values.shape[1], np.nan)
    if clusters.are_items:
        return values.std(axis=0, ddof=1) / np.sqrt(n)
    away = clusters.sums(values - values.mean(axis=0))
    return np.sqrt((away**2).sum(axis=0) * clusters.n / (clusters.n - 1)) / n


def mean_p_values(
    values: Float[np.ndarray, "items columns"], clusters: Clusters
) -> Float[np.ndarray, " columns"]:
    """``stats.mean_p_values`` over clusters: 1 for fewer than two."""
    return t_p_values(values.mean(axis=0), mean_errors(values, clusters), clusters.n)


def clustered_interval(
    right: Shaped[np.ndarray, " items"], clusters: Clusters, level: float = 0.95
) -> Interval:
    """Clopper and Pearson's interval of a proportion, with clusters counted by their worth."""
    n, k = len(right), int(np.asarray(right).sum())
    if clusters.are_items:
        return exact_interval(k, n, level)
    from scipy.stats import beta

    if clusters.n < 2:
        return Interval(k / n, 0.0, 1.0, level)
    tail = (1 - level) / 2
    worth = float(independent_items(np.asarray(right)[:, None], clusters, tail)[0])
    hits = worth * k / n
    low = beta.ppf(tail, hits, worth - hits + 1) if k else 0.0
    high = beta.isf(tail, hits + 1, worth - hits) if k < n else 1.0
    return Interval(k / n, float(low), float(high), level)


Counts = Int[np.ndarray, "draws clusters"]


def share_clusters(several: Sequence[Clusters]) -> bool:
    """True if any of the tasks ask for the same thing as another."""
    return Clusters.concatenate(several).n < sum(clusters.n for clusters in several)


def draws_of_tasks(
    tasks: Sequence[str], several: Sequence[Clusters], n_resamples: int, seed: int
) -> list[Counts]:
    """Number of draws of each task's clusters, in the sample (row 0) and in resamples."""
    # A task that shares nothing with the others has the draws that it has by itself, so that adding
    # tasks changes nothing of it.
    if share_clusters(several):
        return sample_and_joint_resamples(several, n_resamples, generator(seed, *tasks))
    return [
        resample_counts(sample_and_resamples(clusters.n, n_resamples, generator(seed, task)))
        for task, clusters in zip(tasks, several, strict=True)
    ]


def sample_and_joint_resamples(
    several: Sequence[Clusters], n_resamples: int, seed: int | np.random.Generator
) -> list[Counts]:
    """Number of times that each task's clusters are drawn, all of them as one sample."""
    # Tasks that ask for the same thing are no independent samples: drawn apart, the variance of a
    # mean over them lacks their covariance. So the clusters of all tasks are one sample (Davison
    # and Hinkley 1997, Bootstrap Methods and their Application, section 3.8).
    together = Clusters.concatenate(several)
    counts = resample_counts(sample_and_resamples(together.n, n_resamples, seed))
    by_task, start = [], 0
    for clusters in several:
        codes = together.codes[start : start + len(clusters.codes)]
        start += len(clusters.codes)
        _, first = np.unique(clusters.codes, return_index=True)
        by_task.append(counts[:, codes[first]])
    return by_task
