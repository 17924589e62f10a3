"""Layers and heads of a wired model by what they do."""

from __future__ import annotations

from dataclasses import dataclass

from layerwise.errors import UserError

MECHANISMS = ("previous", "look_up", "facts", "second_hop", "gate")


@dataclass(frozen=True)
class Spot:
    """Layer and head in which a mechanism sits.

    Attributes:
        layer: the layer, from 0.
        head: the attention head in it, from 0.
    """

    layer: int
    head: int = 0


@dataclass(frozen=True)
class WiredLayout:
    """Layer and head of each mechanism; all other layers and heads write exactly nothing.

    Attributes:
        n_layers: number of layers.
        n_heads: attention heads a layer.
        previous: attends to the token before and copies it.
        look_up: attends to the token that came after the asked key, and copies it (an
            induction head, Olsson et al. 2022, arXiv:2209.11895).
        facts: attends to the relation and the entity; its MLP has a neuron for each fact.
        second_hop: looks up what the first look-up found.
        gate: attends to the word that says what is asked; its MLP lets the result of one or of
            two look-ups through.
        n_shared: so many query heads in a row share one key/value head (grouped-query attention).
        previous_copy: a second head that does what ``previous`` does: ``look_up`` finds its key by
            either, so that one stands in for the other. None for no copy.
        reads_facts: entities are looked up as keys are, for questions about facts too, and what
            is found is said in place of what ``facts`` knows, whose neurons it silences. With a
            passage that states the fact, ``facts`` is not needed and ``gate`` is; without one it
            is the other way round. ``look_up`` must come before ``facts`` then.
    """

    n_layers: int = 10
    n_heads: int = 4
    previous: Spot = Spot(1, 2)
    look_up: Spot = Spot(3, 0)
    facts: Spot = Spot(4, 3)
    second_hop: Spot = Spot(6, 1)
    gate: Spot = Spot(8, 2)
    n_shared: int = 1
    previous_copy: Spot | None = None
    reads_facts: bool = False

    def __post_init__(self) -> None:
        if self.n_shared < 1 or self.n_heads % self.n_shared:
            raise UserError(
                f"{self.n_shared} of {self.n_heads} heads were to share one key/value head; "
                "expected a divisor of the number of heads."
            )
        spots = {name: getattr(self, name) for name in MECHANISMS}
        copy = {} if self.previous_copy is None else {"previous_copy": self.previous_copy}
        for name, spot in (spots | copy).items():
            if not (0 <= spot.layer < self.n_layers and 0 <= spot.head < self.n_heads):
                raise UserError(
                    f"The mechanism {name!r} is wired into layer {spot.layer}, head "
                    f"{spot.head}; expected layers 0 to {self.n_layers - 1} and heads 0 to "
                    f"{self.n_heads - 1}."
                )
        layers = {name: spot.layer for name, spot in spots.items()}
        chain = [layers[name] for name in ("previous", "look_up", "second_hop", "gate")]
        if chain != sorted(set(chain)) or len(set(layers.values())) < len(layers):
            raise UserError(
                f"The mechanisms are wired into layers {layers}; expected five different layers, "
                "with previous before look_up before second_hop before gate."
            )
        if self.reads_facts and layers["facts"] < layers["look_up"]:
            raise UserError(
                f"Facts are wired into layer {layers['facts']} and are to be silenced by what "
                f"look_up finds in layer {layers['look_up']}; expected look_up before facts."
            )
        for spot in copy.values():
            if spot.layer in layers.values() or spot.layer > layers["look_up"]:
                raise UserError(
                    f"The copy of previous is wired into layer {spot.layer}; expected a layer "
                    f"before look_up (layer {layers['look_up']}) without another mechanism."
                )


NEEDED = {
    "retrieval": ("previous", "look_up", "gate"),
    "knowledge": ("facts",),
    "reasoning": ("previous", "look_up", "second_hop", "gate"),
}
"""The mechanisms that each capability needs."""
