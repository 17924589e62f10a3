"""What is removed as one: a layer, its attention or MLP, or one head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Player(NamedTuple):
    """What is removed as one; a player of the cooperative game whose values are costs.

    Attributes:
        layer: the layer.
        head: the head, or the key/value group; None for what has none.
    """

    layer: int
    head: int | None = None


Players = tuple[Player, ...]


def players(layers: Iterable[int], heads: Iterable[int] | None) -> Players:
    """The players of a row of ``interactions.parquet``, in order."""
    if heads is None:
        return tuple(Player(int(layer)) for layer in layers)
    return tuple(Player(int(a), int(b)) for a, b in zip(layers, heads, strict=True))
