"""How often the clusters of several tasks are drawn: what tasks share is drawn together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from layerwise.stats.resampling import generator, resample_counts

from .clusters import Clusters, sample_and_resamples

Counts = Int[np.ndarray, "draws clusters"]


def share_clusters(several: Sequence[Clusters]) -> bool:
    """Whether any of the tasks ask for the same thing as another."""
    return Clusters.joined(several).n < sum(clusters.n for clusters in several)


def draws_of_tasks(
    tasks: Sequence[str], several: Sequence[Clusters], n_resamples: int, seed: int
) -> list[Counts]:
    """How often each task's clusters are drawn, in the sample (row 0) and in resamples."""
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
    """How often each task's clusters are drawn, all of them as one sample."""
    # Tasks that ask for the same thing are no independent samples: drawn apart, the variance of a
    # mean over them lacks their covariance. So the clusters of all tasks are one sample (Davison
    # and Hinkley 1997, Bootstrap Methods and their Application, section 3.8).
    together = Clusters.joined(several)
    counts = resample_counts(sample_and_resamples(together.n, n_resamples, seed))
    by_task, start = [], 0
    for clusters in several:
        codes = together.codes[start : start + len(clusters.codes)]
        start += len(clusters.codes)
        _, first = np.unique(clusters.codes, return_index=True)
        by_task.append(counts[:, codes[first]])
    return by_task
