"""Layers that each protocol needs in the organisms that also choose by letter, as planted.

Plain data, for training and for comparison with what an analysis finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

LETTER, TEXT_PROTOCOLS = "letter", ("continuation", "generate")


@dataclass(frozen=True)
class LetterPlan:
    """Layers of a model by their job, by number, in the order of computation."""

    n_layers: int  # how many there are
    n_encoder: int  # how many of them are the encoder's; 0 in a decoder
    # By capability, the layers that fetch the answer, whatever is to be said.
    fetches: Mapping[str, tuple[int, ...]] = field(hash=False)
    # The layers that bind options to their letters and find the option that was fetched.
    binds: tuple[int, ...]
    says_text: int  # the layer that writes the answer's own word
    says_letter: int  # the layer that writes its letter

    def needed_layers(self, capability: str, protocol: str) -> tuple[int, ...]:
        """The layers without which a capability fails under a protocol; all others can go."""
        fetched = self.fetches[capability]
        if protocol != LETTER:
            return tuple(sorted({*fetched, self.says_text}))
        return tuple(sorted({*fetched, *self.binds, self.says_letter}))

    def specific_layers(self, protocol: str, capability: str) -> tuple[int, ...]:
        """The layers that one way of answering needs and the other does not."""
        other = LETTER if protocol != LETTER else TEXT_PROTOCOLS[0]
        spared = self.needed_layers(capability, other)
        return tuple(
            layer for layer in self.needed_layers(capability, protocol) if layer not in spared
        )

    @property
    def truth(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The layers needed, by protocol and capability."""
        return {
            protocol: {fetch: self.needed_layers(fetch, protocol) for fetch in self.fetches}
            for protocol in (LETTER, *TEXT_PROTOCOLS)
        }


_DECODER = LetterPlan(
    n_layers=8,
    n_encoder=0,
    fetches={"knowledge": (0,), "retrieval": (2, 3)},
    binds=(4, 5),
    says_text=6,
    says_letter=6,
)
_SEQ2SEQ = replace(_DECODER, n_encoder=6)
PLANS = {
    "organism-letters": _DECODER,
    "organism-letters-other": replace(_DECODER, says_letter=5),
    "organism-letters-seq2seq": _SEQ2SEQ,
    "organism-letters-other-seq2seq": replace(_SEQ2SEQ, says_letter=7),
}
"""By the name of the models that have it: in the first, one layer says letters and text alike, so
that the layers for text are among those for letters; in the others, text has a layer of its own."""
