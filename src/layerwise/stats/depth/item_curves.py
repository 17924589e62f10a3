"""Curves over the layers item by item, from which depths are inferred without resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import Clusters, paired_p_values

from ..share_tests.equivalence import SMALLEST_LOSS, gains_beside_loss

_ALPHA = 0.05
# The standard normal value of a one-sided test at that level.
_ONE_SIDED = 1.645
# That of the tests that a layer costs the other capability little, over all layers.
_LEVEL_OF_LITTLE = 0.035
# A layer is one capability's own if the other loses no more than this part of what it loses.
_LITTLE = 1 / 8


class ItemCurves(NamedTuple):
    """Cumulative curves over layers of each item of a task."""

    # What an item has before each layer, and in the last column after all; any unit.
    values: Float[np.ndarray, "items edges"]
    # Of each item; the mean is what counts as 1 of this task, in the same unit.
    scale: Float[np.ndarray, " items"]
    # Spread that the sample may not show, as ``unseen_spread`` gives it; 0 if none.
    unseen: Float[np.ndarray, "2 edges"]
    # Which items ask for the same thing; None if each stands by itself.
    clusters: Clusters | None = None

    @property
    def item_clusters(self) -> Clusters:
        """The clusters of its items."""
        return self.clusters or Clusters.singletons(len(self.values))

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.values.shape[1] - 1

    def restrict_to_layers(self, layers: range) -> ItemCurves:
        """The curves of some layers alone, from 0 before the first of these."""
        chosen = slice(layers.start, layers.stop + 1)
        values, unseen = (part[:, chosen] - part[:, [layers.start]]
                          for part in (self.values, self.unseen))  # fmt: skip
        return self._replace(values=values, unseen=unseen)


def progress_by_item(
    values: Float[np.ndarray, "items edges"], clusters: Clusters | None = None
) -> ItemCurves:
    """Curves of a method that reads a value at every edge; 1 is the mean of the last one."""
    return ItemCurves(values, values[:, -1], np.zeros((2, values.shape[1])), clusters)


def item_settling_curves(
    layers: Float[np.ndarray, " items"],
    right: Bool[np.ndarray, " items"],
    n_layers: int,
    clusters: Clusters | None = None,
) -> ItemCurves:
    """Curves that jump where an answer settles, of right ones; the mean layer is their centre."""
    values = (right[:, None] & (layers[:, None] < np.arange(n_layers + 1))).astype(float)
    return ItemCurves(values, right.astype(float), np.zeros((2, n_layers + 1)), clusters)


def losses_by_item(
    intact: Float[np.ndarray, " items"],
    correct: Float[np.ndarray, "items layers"],
    floor: Float[np.ndarray, " items"] | float,
    clusters: Clusters | None = None,
) -> ItemCurves:
    """Losses accumulated over layers, where each layer was changed by itself; gains take off."""
    lost = intact[:, None] - correct
    down, up = (lost > 0).sum(axis=0), (lost < 0).sum(axis=0)
    net = np.rint(lost).astype(int)
    sure = correct_family(paired_p_values(net, clusters or Clusters.singletons(len(net)))) < _ALPHA
    n = len(intact)
    unseen = unseen_spread(
        np.where(sure & (down > up), 0.0, down / n),
        np.where(sure & (up > down), 0.0, up / n),
        n_wrong=int((intact == 0).sum()),
        n=n,
    )
    return ItemCurves(_cumulative(lost), intact - floor, unseen, clusters)


def subtract_background(losses: Float[np.ndarray, "items layers"]) -> np.ndarray:
    """Losses minus each item's mean over the middle half of the layers: what any layer costs."""
    return losses - losses[:, _middle_half(losses)].mean(axis=1, keepdims=True)


def _middle_half(losses: Float[np.ndarray, "items layers"]) -> np.ndarray:
    order = np.argsort(losses.mean(axis=0), kind="stable")
    quarter = len(order) // 4
    return order[quarter : len(order) - quarter]


def curves_above_background(curves: ItemCurves, without: Sequence[int]) -> ItemCurves:
    """Curves of what the other layers cost beyond what any of them costs."""
    kept = np.setdiff1d(np.arange(curves.n_layers), without)
    if not len(kept):
        return curves._replace(values=0 * curves.values, unseen=0 * curves.unseen)
    middle = kept[_middle_half(np.diff(curves.values, axis=1)[:, kept])]

    def subtract_middle(values: np.ndarray) -> np.ndarray:
        added, left = np.diff(values, axis=1), np.zeros((len(values), curves.n_layers))
        left[:, kept] = added[:, kept] - added[:, middle].mean(axis=1, keepdims=True)
        return _cumulative(left)

    return curves._replace(
        values=subtract_middle(curves.values), unseen=subtract_middle(curves.unseen)
    )


def costly_layers(group: Sequence[ItemCurves]) -> set[int]:
    """Layers whose mean loss is above the median layer's (one-sided test), and of interest."""
    lost, squared = _excess_over_median(group)
    least = np.maximum(_ONE_SIDED * np.sqrt(squared), SMALLEST_LOSS)
    return set(np.flatnonzero(lost > least - 1e-9).tolist())


def shared_layers(one: Sequence[ItemCurves], other: Sequence[ItemCurves]) -> set[int]:
    """Layers whose loss is above the median layer's and of interest, in both."""
    return costly_layers(one) & costly_layers(other)


def layers_in_doubt(one: Sequence[ItemCurves], other: Sequence[ItemCurves]) -> set[int]:
    """Layers that cost one of both and are not shown to cost the other little."""
    # Where one of both needs a layer a little, too few items show it, and the other would seem to
    # have it alone.
    return _not_cheap(one, other) | _not_cheap(other, one)


def _not_cheap(group: Sequence[ItemCurves], other: Sequence[ItemCurves]) -> set[int]:
    """Layers of the other not shown to cost less than is of interest, or an eighth of its loss."""
    from scipy.special import ndtri  # not on top: a page loads no scipy

    (lost, squared), (others, unsure) = _excess_over_median(group), _excess_over_median(other)
    units = [np.mean([task.scale.mean() for task in tasks]) for tasks in (group, other)]
    part = _LITTLE * units[0] / units[1]
    most = np.clip(part * others, SMALLEST_LOSS, 0.5)
    # a loss of that size has no less spread, whatever the sample shows (a score test): one that
    # has few losses by luck would seem to be sure of them
    least = sum(_squared_error_of_loss(task, most) for task in group) / len(group) ** 2
    error = np.sqrt(np.maximum(squared, least) + part**2 * unsure)
    # those that surely cost more are no tests, over which Bonferroni's correction is
    tested = [layer for layer in sorted(costly_layers(other))
              if lost[layer] - _ONE_SIDED * error[layer] <= most[layer]]  # fmt: skip

    # of so few lost items a normal tail is somewhat too thin
    quantile = -ndtri(_LEVEL_OF_LITTLE / max(len(tested), 1))
    return {layer for layer in tested if lost[layer] + quantile * error[layer] >= most[layer]}


def _squared_error_of_loss(task: ItemCurves, loss: Float[np.ndarray, " layers"]) -> np.ndarray:
    """Squared error of a layer's mean loss, if that is what is given and flips are as seen."""
    answers = np.diff(task.values, axis=1)
    lost, gained = (answers > 0).sum(axis=0), (answers < 0).sum(axis=0)
    gains = gains_beside_loss(lost, gained, np.full(len(lost), len(answers)), loss)
    return (loss * (1 - loss) + 2 * gains) / task.item_clusters.n


def _excess_over_median(group: Sequence[ItemCurves]) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss by layer above that of the median layer, and its squared error."""
    losses = [np.diff(task.values, axis=1) for task in group]
    mean = np.mean([loss.mean(axis=0) for loss in losses], axis=0)
    squared = np.zeros(len(mean))
    for task, loss in zip(group, losses, strict=True):
        # a sample in which all agree has no spread to see: one item more is taken to differ
        items = len(group) * len(loss)
        away = task.item_clusters.sums(loss - loss.mean(axis=0)) / items
        squared += np.maximum((away**2).sum(axis=0), items**-2.0)
    return mean - np.median(mean), squared


def unseen_spread(
    lost: Float[np.ndarray, " layers"],
    gained: Float[np.ndarray, " layers"],
    *,
    n_wrong: int,
    n: int,
) -> Float[np.ndarray, "2 edges"]:
    """Least spread of accumulated losses, where losses and gains come from different items."""
    # A layer that is not needed changes answers both ways. Its gains can only be seen in items that
    # the intact model gets wrong, its losses in the others. Where one of the two are few, the
    # sample may hold none of those that balance the rest, and the sample's variance is too small.
    # So losses are taken to be balanced by gains in a share (wrong + 1) / (n + 2) of the items, and
    # gains by losses in the others; the variance over items of such a balance is a lower bound.
    share = (n_wrong + 1) / (n + 2)
    return _cumulative(np.stack([lost / np.sqrt(share), gained / np.sqrt(1 - share)]))


def _cumulative(added: Float[np.ndarray, "rows layers"]) -> Float[np.ndarray, "rows edges"]:
    return np.concatenate([np.zeros((len(added), 1)), np.cumsum(added, axis=1)], axis=1)
