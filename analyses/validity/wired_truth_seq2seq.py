"""Findings that each method must have in a wired encoder-decoder, from its layout alone.

Every capability is a chain of mechanisms that begins in the encoder and ends in the decoder. No
model is run here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from analyses.validity.wired_truth import middle
from analyses.validity.wired_truth import spare_layers as all_spared
from layerwise.ground.layer_names import stack_name
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import IN_ENCODER, NEEDED, WiredSeq2SeqLayout

HELD_BY = {
    "layer": (*IN_ENCODER, "begin", "copy", "say"),
    "attn_out": (*IN_ENCODER, "begin"),
    "cross_attn_out": ("copy",),
    "mlp_out": ("facts", "say"),
}
"""By site, the mechanisms that it is part of; ``z`` as ``attn_out``, ``cross_z`` likewise."""
STANDING = "begin"
"""The mechanism that does the same whatever is asked; the others move what depends on it."""

FROM_OTHERS = ("resample", "mean")
"""Kinds of ablation that put in what other prompts have at a site."""

Where = Literal["asked", "end", "begin"]
"""The position of the word that is asked about, that of the prompt's end, and in the decoder that
where the answer begins."""


@dataclass(frozen=True)
class PlantedSeq2Seq:
    """The known answer for one capability of a model with this layout."""

    layout: WiredSeq2SeqLayout
    capability: str

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The chain, in order."""
        return NEEDED[self.capability]

    @property
    def movers(self) -> list[Spot]:
        """Those of the chain that bring what is asked about to the end of the prompt."""
        return [getattr(self.layout, name) for name in self.mechanisms if name in IN_ENCODER]

    def critical(self, site: str, kind: str = "skip") -> set[int]:
        """The layers at which a site's contribution is needed.

        Nothing is left after the whole stream was overwritten, wherever that is done. What is
        taken from other prompts (``resample``, ``mean``) is as good where all have the same,
        which is so in the decoder until it reads the encoder.
        """
        if not site.startswith("resid"):
            return {self.layout.mechanism_layer(name) for name in self._chain(site, kind)}
        n_encoder = self.layout.n_encoder_layers
        layers = range(n_encoder if site == "resid_mid_cross" else 0, self.layout.n_layers)
        if kind not in FROM_OTHERS:
            return set(layers)
        return {layer for layer in layers if layer < n_encoder or self._has_arrived(site, layer)}

    def critical_heads(self, site: str = "z", kind: str = "zero") -> set[Spot]:
        """The heads of self-attention (``z``) or of cross-attention (``cross_z``) needed."""
        chain = self._chain({"z": "attn_out", "cross_z": "cross_attn_out"}[site], kind)
        return {getattr(self.layout, name) for name in chain}

    @property
    def readable_layer(self) -> int:
        """The layer after which a lens on the decoder shows the answer, and not before."""
        return self.layout.say

    @property
    def finding_layer(self) -> int:
        """The layer that finds the answer, in the encoder.

        A decoder that is given the stream behind this layer for the encoder's output says the
        answer; one that is given an earlier one does not.
        """
        return self.movers[-1].layer

    @property
    def moving_layer(self) -> int:
        """The layer whose head takes what is asked about to the end of the prompt."""
        return self.movers[0].layer

    @property
    def half_effect_depth(self) -> float:
        """By ablation, in layers of both stacks: all layers of the chain cost the same."""
        return middle(self.critical("layer"))

    def half_effect_depth_of_stack(self, stack: str) -> float:
        """The same of the chain's layers in ``encoder`` or ``decoder`` alone."""
        n_encoder = self.layout.n_encoder_layers
        return middle({k for k in self.critical("layer") if stack_name(k, n_encoder) == stack})

    def recovers(self, site: str, layer: int, where: Where) -> float:
        """The share recovered by one patch between prompts that ask about different words."""
        if site.startswith("resid"):
            return float(self._has_arrived(site, layer) == (where != "asked"))
        return float(where != "asked" and layer in self.critical(site, "resample"))

    def recovers_by_head(self, site: str, spot: Spot) -> float:
        """The same of one head's ``z`` or ``cross_z`` where the answer passes."""
        return float(spot in self.critical_heads(site, "resample"))

    def credited_by_gradient(self, site: str, spot: Spot) -> float:
        """Estimate of ``recovers_by_head`` by attribution patching.

        Hand-set attention is saturated: the softmax has no slope, so heads that act by way of a
        later query get 0. What is copied on as a value is seen: at ``copy``, and at the head that
        finds the answer. Each layer of gates behind them doubles it. Of the two neurons that
        change there, the one that is off has no slope; the other is credited with going far
        below 0, though it stops there.
        """
        at = {"z": self.finding_layer, "cross_z": self.layout.copy.layer}[site]
        if spot.layer != at or spot not in self.critical_heads(site):
            return 0.0
        return 4.0 if spot == self.layout.facts else 2.0

    def recovers_by_memory(self, what: Literal["k", "v"], layer: int) -> float:
        """The same of the keys or values of one layer's cross-attention, all of them.

        Prompts of one length end in the same place, so keys are the same in both.
        """
        return float(what == "v" and layer == self.layout.copy.layer)

    @property
    def links(self) -> dict[str, tuple[str, int, int | None] | None]:
        """The chain as direct paths, backwards from the logits, through both stacks.

        By receiver, as ``patch_paths`` names it, the site, layer and head of the one sender that
        brings there what depends on the word asked about; an embedding has layer -1. None where
        nothing does: the decoder looks at the end of the prompt whatever is asked. Attribution
        credits the sender to the logits with all of the answer, and nothing else with anything.
        """
        layout, copy = self.layout, self._address(self.layout.copy)
        first, last = self.movers[0], self.movers[-1]
        sender: tuple[str, int, int | None] = ("z", last.layer, last.head)
        facts = {}
        if last == layout.facts:  # what the head found is let out by neurons
            facts = {f"mlp:{layout.name_of_layer(last.layer)}": sender}
            sender = ("mlp_out", last.layer, None)
        queries = {
            f"q:{self._address(after)}": ("z", before.layer, before.head)
            for before, after in reversed(list(pairwise(self.movers)))
        }
        return {
            "logits": ("mlp_out", layout.say, None),
            f"mlp:{layout.name_of_layer(layout.say)}": (
                "cross_z",
                layout.copy.layer,
                layout.copy.head,
            ),
            f"cross_q:{copy}": None,
            f"cross_k:{copy}": None,
            f"cross_v:{copy}": sender,
            **facts,
            **queries,
            f"v:{self._address(first)}": ("embed", -1, None),
        }

    def _address(self, spot: Spot) -> str:
        return f"{self.layout.name_of_layer(spot.layer)}.{spot.head}"

    def _chain(self, site: str, kind: str) -> list[str]:
        needed = [name for name in self.mechanisms if name in HELD_BY[site]]
        return [name for name in needed if kind not in FROM_OTHERS or name != STANDING]

    def _has_arrived(self, site: str, layer: int) -> bool:
        """True if what is asked about has come to where it is read, in the layer's own stack."""
        in_encoder = layer < self.layout.n_encoder_layers
        mover = self.moving_layer if in_encoder else self.layout.copy.layer
        before = ("resid_pre",) if in_encoder else ("resid_pre", "resid_mid")
        return layer > mover if site in before else layer >= mover


spared = partial(all_spared, planted=PlantedSeq2Seq)
