"""A task's options as arrays: which are offered, which is right, which items go together."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from layerwise.errors import UserError
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task


@dataclass(frozen=True)
class TaskOptions:
    """The options of a task, without its questions."""

    items: tuple[str, ...]  # item ids
    texts: tuple[tuple[str, ...], ...]  # each item's options
    contexts: tuple[str | None, ...]  # each item's passage, if any
    gold: Int[np.ndarray, " items"]  # where the right option stands
    # Which places hold an option; the others only fill up the array.
    offered: Bool[np.ndarray, "items options"]
    # A number from 0 to 1 for each option, fixed by its text and its item's id; the highest one
    # wins where a guesser cannot tell options apart.
    jitter: Float[np.ndarray, "items options"]
    # 0 to 3, which quarter of the task an item belongs to. Items of one cluster, and items that
    # turn one set of options over, are in one quarter.
    quarter: Int[np.ndarray, " items"]

    @property
    def counts(self) -> Int[np.ndarray, " items"]:
        """The number of options of each item."""
        return self.offered.sum(axis=1)

    def pick(self, scores: Float[np.ndarray, "items options"]) -> Bool[np.ndarray, " items"]:
        """True where the option with the highest score is the right one; nan counts as 0."""
        known = np.where(self.offered, np.round(np.nan_to_num(scores), 9), -np.inf)
        highest = known == known.max(axis=1, keepdims=True)
        return np.where(highest & self.offered, self.jitter, -1.0).argmax(axis=1) == self.gold


def task_options(task: Task) -> TaskOptions:
    """The options of a task's items."""
    items = task.items
    if not items:
        raise UserError(f"Task {task.name!r} has no items; expected at least one; add some.")
    for item in items:
        if len(item.choices) < 2 or item.answer not in item.choices:
            raise UserError(
                f"Item {item.id!r} of task {task.name!r} has no choices with the answer among "
                "them, which blind guessers choose from; add choices."
            )
    most = max(len(item.choices) for item in items)
    offered = np.array([[place < len(item.choices) for place in range(most)] for item in items])
    gold = np.array([item.choices.index(item.answer) for item in items])
    jitter = np.zeros(offered.shape)
    jitter[offered] = [_hash(item.id, choice) for item in items for choice in item.choices]
    return TaskOptions(
        items=tuple(item.id for item in items),
        texts=tuple(item.choices for item in items),
        contexts=tuple(item.context for item in items),
        gold=gold,
        offered=offered,
        jitter=jitter,
        quarter=_quarters(items, gold),
    )


def _hash(*texts: str) -> float:
    return zlib.crc32("\0".join(texts).encode("utf-8", "surrogatepass")) / 2**32


def _quarters(items: Sequence[Item], gold: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Quarters of like size, drawn by the items' ids; what belongs together stays together."""
    # Gold positions are as frequent in each: where they are balanced in all items, a position that
    # is frequent in one half would be rare in the other, and a guesser that is tuned on the first
    # worse than chance on the second.
    groups: dict[int, list[int]] = {}
    for index, root in enumerate(_group_numbers(items)):
        groups.setdefault(root, []).append(index)
    quarter = np.zeros(len(items), dtype=int)
    taken = np.zeros((4, int(gold.max()) + 1), dtype=int)
    for group in sorted(groups.values(), key=lambda group: _hash(items[group[0]].id)):
        alike = taken[:, gold[group]].sum(axis=1)
        smallest = int(np.lexsort((taken.sum(axis=1), alike))[0])
        quarter[group] = smallest
        np.add.at(taken[smallest], gold[group], 1)
    return quarter


def item_quarters(items: Sequence[Item]) -> Int[np.ndarray, " items"]:
    """Quarters as ``TaskOptions.quarter`` has them, of items with or without options."""
    return _quarters(items, np.zeros(len(items), dtype=int))


def _group_numbers(items: Sequence[Item]) -> list[int]:
    """For each item the number of its group; items that go together share it."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    groups = (*_groups([item.cluster for item in items]), *_same_options(items))
    edges = [pair for group in groups for pair in pairwise(group)]
    first, second = zip(*edges, strict=True) if edges else ((), ())
    n = len(items)
    graph = csr_array((np.ones(len(edges)), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1].tolist()


def _same_options(items: Sequence[Item]) -> list[list[int]]:
    """Of items that share all options, runs in which no answer comes twice."""
    # Whoever knows the answers to all but one of such a run knows the last one's, too.
    runs: list[list[int]] = []
    for group in _groups([frozenset(item.choices) or None for item in items]):
        answers: set[str] = set()
        for index in group:
            if not answers or items[index].answer in answers:
                answers = set()
                runs.append([])
            runs[-1].append(index)
            answers.add(items[index].answer)
    return runs


def _groups(keys: Sequence[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(index)
    return list(groups.values())
