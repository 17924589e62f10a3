"""Layers and heads of a wired encoder-decoder by what they do.

The weights that do it are written in ``_wiring``. Layers are numbered in the order of
computation, all of the encoder before the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.models.organisms.layout import Spot

IN_ENCODER = ("previous", "look_up", "facts", "second_hop")
IN_DECODER = ("begin", "copy", "say")


@dataclass(frozen=True)
class WiredSeq2SeqLayout:
    """Layer and head of each mechanism; all other layers and heads write exactly nothing.

    Attributes:
        n_encoder_layers: layers of the encoder.
        n_decoder_layers: layers of the decoder.
        encoder_heads: attention heads of an encoder layer.
        decoder_heads: heads of a decoder layer, in self-attention and in cross-attention.
        previous: attends to the token before and copies it.
        look_up: attends to the token that came after the asked key, and copies it.
        facts: attends to the relation and the entity; its MLP has a neuron for each fact.
        second_hop: looks up what the first look-up found.
        begin: in the decoder's self-attention, sees that nothing has been said yet.
        copy: in cross-attention, copies what was found at the end of the prompt.
        say: the layer whose MLP turns what was copied into the answer.
    """

    n_encoder_layers: int = 8
    n_decoder_layers: int = 6
    encoder_heads: int = 4
    decoder_heads: int = 3
    previous: Spot = Spot(1, 2)
    look_up: Spot = Spot(3, 0)
    facts: Spot = Spot(4, 3)
    second_hop: Spot = Spot(6, 1)
    begin: Spot = Spot(9, 1)
    copy: Spot = Spot(11, 2)
    say: int = 12

    def __post_init__(self) -> None:
        for names, first, n_layers, n_heads in (
            (IN_ENCODER, 0, self.n_encoder_layers, self.encoder_heads),
            (IN_DECODER, self.n_encoder_layers, self.n_decoder_layers, self.decoder_heads),
        ):
            for name in names:
                inside = first <= self.mechanism_layer(name) < first + n_layers
                if not (inside and 0 <= self._mechanism_head(name) < n_heads):
                    raise UserError(
                        f"The mechanism {name!r} is wired into layer "
                        f"{self.mechanism_layer(name)}, head "
                        f"{self._mechanism_head(name)}; expected layers {first} to "
                        f"{first + n_layers - 1} "
                        f"and heads 0 to {n_heads - 1}."
                    )
        layers = {name: self.mechanism_layer(name) for name in (*IN_ENCODER, *IN_DECODER)}
        chain = [layers[name] for name in ("previous", "look_up", "second_hop", *IN_DECODER)]
        if chain != sorted(set(chain)) or len(set(layers.values())) < len(layers):
            raise UserError(
                f"The mechanisms are wired into layers {layers}; expected seven different layers, "
                "with previous before look_up before second_hop, and begin before copy before say."
            )

    @property
    def n_layers(self) -> int:
        """Layers of both stacks."""
        return self.n_encoder_layers + self.n_decoder_layers

    def mechanism_layer(self, mechanism: str) -> int:
        """The layer that a mechanism is in."""
        return self.say if mechanism == "say" else getattr(self, mechanism).layer

    def name_of_layer(self, layer: int) -> str:
        """Name of a layer: ``encoder.3``, ``decoder.0``."""
        return layer_name(layer, self.n_encoder_layers)

    def _mechanism_head(self, mechanism: str) -> int:
        return 0 if mechanism == "say" else getattr(self, mechanism).head


NEEDED = {
    "retrieval": ("previous", "look_up", *IN_DECODER),
    "knowledge": ("facts", *IN_DECODER),
    "reasoning": ("previous", "look_up", "second_hop", *IN_DECODER),
}
"""The mechanisms that each capability needs."""
