"""Findings that each method must have in a wired model, worked out from its layout alone.

Every capability of a wired model is a chain of mechanisms; what a method must say follows from
which of them are in the chain, and where each one's result is kept. No model is run here.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from layerwise.models.organisms.layout import NEEDED, Spot, WiredLayout

WITH_MLP = ("facts", "gate")
"""Mechanisms whose result an MLP lets out; the others are heads alone."""
MOVING = ("previous", "look_up", "facts", "second_hop")
"""Mechanisms whose head brings to the last position what depends on the word asked about."""


@dataclass(frozen=True)
class PlantedTruth:
    """The known answer for one capability of a model with this layout."""

    layout: WiredLayout
    capability: str

    @property
    def mechanisms(self) -> dict[str, Spot]:
        """The chain, in order: where each mechanism is."""
        return {name: getattr(self.layout, name) for name in NEEDED[self.capability]}

    @property
    def movers(self) -> list[Spot]:
        """Those of the chain that bring what is asked about nearer to the last position."""
        return [spot for name, spot in self.mechanisms.items() if name in MOVING]

    @property
    def irreplaceable(self) -> dict[str, Spot]:
        """The mechanisms that nothing stands in for, where they are."""
        backed_up = () if self.layout.previous_copy is None else ("previous",)
        return {name: spot for name, spot in self.mechanisms.items() if name not in backed_up}

    @property
    def redundant(self) -> set[tuple[Spot, Spot]]:
        """Pairs of heads of which either is enough, the first layer first."""
        copy = self.layout.previous_copy
        if copy is None or "previous" not in self.mechanisms:
            return set()
        first, second = sorted((self.layout.previous, copy), key=lambda spot: spot.layer)
        return {(first, second)}

    @property
    def overlapping_pairs(self) -> set[tuple[Spot, Spot]]:
        """Pairs of heads either of which takes all of the answer with it: two links of a chain."""
        return set(combinations(self.irreplaceable.values(), 2))

    def critical(self, site: str, kind: str = "skip") -> set[int]:
        """The layers at which a site's contribution is needed.

        Nothing is left after the whole stream was overwritten, wherever that is done. Attention of
        the ``gate`` can be taken from another prompt (``resample``) that asks in the same way.
        """
        if site.startswith("resid"):
            return set(range(self.layout.n_layers))
        if site == "mlp_out":
            return {spot.layer for name, spot in self.irreplaceable.items() if name in WITH_MLP}
        return {spot.layer for spot in self._heads(kind)}

    def critical_heads(self, site: str = "z", kind: str = "zero") -> set[Spot]:
        """The heads (``z``) or key/value groups (``kv_group``) that are needed."""
        n_shared = self.layout.n_shared if site == "kv_group" else 1
        return {Spot(spot.layer, spot.head // n_shared) for spot in self._heads(kind)}

    def _heads(self, kind: str) -> list[Spot]:
        # The head of ``gate`` sees how one asks, which is the same in all prompts of a suite: what
        # is taken from another one is as good.
        spots = self.irreplaceable.items()
        return [spot for name, spot in spots if kind != "resample" or name in MOVING]

    @property
    def readable_layer(self) -> int:
        """The layer that writes the answer: a lens shows it after this layer, not before."""
        return list(self.mechanisms.values())[-1].layer

    @property
    def bringing_layer(self) -> int:
        """The layer whose head brings the answer to the last position: nothing reads it before."""
        return self.movers[-1].layer

    @property
    def moving_layer(self) -> int:
        """The layer whose head takes what is asked about to the last position."""
        return self.movers[0].layer

    def recovers(self, site: str, layer: int, at_last: bool) -> float:
        """The share recovered by one patch between prompts that ask about different words."""
        if site.startswith("resid"):
            moved = layer > self.moving_layer if site == "resid_pre" else layer >= self.moving_layer
            return float(moved == at_last)
        carrying = {"mlp_out": WITH_MLP, "attn_out": MOVING}.get(site, ())
        carries = {spot.layer for name, spot in self.mechanisms.items() if name in carrying}
        return float(at_last and layer in carries)

    def recovers_by_head(self, site: str, spot: Spot) -> float:
        """The same of one head at the last position, by ``z`` or ``pattern``.

        Heads that attend by position attend to the same places in both prompts.
        """
        moving = ("look_up", "second_hop") if site == "pattern" else MOVING
        return float(any(self.mechanisms.get(name) == spot for name in moving))

    @property
    def links(self) -> dict[str, tuple[int, int | None]]:
        """The chain as direct paths, backwards from the logits.

        By receiver, as ``patch_paths`` names it, the layer and head of the one sender that brings
        there what depends on the word asked about; head None is the MLP, layer -1 the embedding.
        """
        first, last, writes = self.movers[0], self.movers[-1], self.readable_layer
        queries = {
            f"q:{after.layer}.{after.head}": (before.layer, before.head)
            for before, after in reversed(list(pairwise(self.movers)))
        }
        return {
            "logits": (writes, None),
            f"mlp:{writes}": (last.layer, last.head),
            **queries,
            f"v:{first.layer}.{first.head // self.layout.n_shared}": (-1, None),
        }

    @property
    def seen_by_gradient(self) -> Spot:
        """The one head that a gradient credits at the last position.

        Whatever acts by way of a query meets a saturated softmax, whose slope is 0.
        """
        return self.movers[-1]

    @property
    def half_effect_depth(self) -> float:
        """By ablation, in layers: all layers of the chain cost the same."""
        return middle(self.critical("layer"))


def middle(layers: Collection[int]) -> float:
    """Depth at which half of some layers, all alike, is reached."""
    # Of an even number, half is reached at the end of the lower middle one.
    return statistics.median_low(layers) + (0.0 if len(layers) % 2 else 0.5)


def spare_layers(layout: Any, *capabilities: str, planted: Any = PlantedTruth) -> list[int]:
    """The layers that none of the capabilities needs, in the order in which they can go."""
    needed = {layer for c in capabilities for layer in planted(layout, c).critical("layer")}
    return [layer for layer in reversed(range(layout.n_layers)) if layer not in needed]
