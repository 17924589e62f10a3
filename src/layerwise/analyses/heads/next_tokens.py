"""What heads add directly to the logit of the right next token, on repeated random tokens.

Logits are taken apart in ``attribution.decompose``. Here is what is read of them, and
how the sums of a decoder that reads an encoder are taken from a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from layerwise.analyses.attribution.decompose import Reading, read_differences
from layerwise.analyses.attribution.decompose_seq2seq import taken_apart
from layerwise.ground.layer_names import DECODER
from layerwise.models.kinds import Model, hook_name
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.last_sites import StackSites
from layerwise.sweep.readout import uncapped_logits_of
from layerwise.sweep.seq2seq.sites import CrossSites

_ADDED = ("attn_out", "z", "cross_attn_out", "cross_z", "mlp_out")
_HEADS = {"z": "attn_out heads", "cross_z": "cross_attn_out heads"}


def next_tokens_read(
    model: Model,
    final: Float[torch.Tensor, "query d_model"],
    right: Int[torch.Tensor, " query"],
    among: Sequence[int],
) -> Reading:
    """The logit of the right next token at each position, less the mean over some tokens."""
    logits = uncapped_logits_of(model, final).double()
    weights = torch.zeros_like(logits)
    weights[:, list(among)] = 1 / len(among)
    return read_differences(model, logits, right, weights[:, None])


class DecoderSums:
    """What is added up in a decoder that reads an encoder, at some positions of one run.

    ``hooks`` take it from the run.
    """

    def __init__(self, model: Seq2SeqModel, queries: Int[torch.Tensor, " query"]) -> None:
        self._model, self._queries = model, queries
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def _layers(self) -> range:
        return range(self._model.cfg.n_encoder_layers, self._model.cfg.n_layers)

    @property
    def _ends(self) -> tuple[str, str]:
        """The hooks of what enters the first layer, and of what leaves the last."""
        return f"{DECODER}.hook_embed", hook_name(self._model, self._layers[-1], "resid_post")

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """The hooks that keep it."""

        def keep(tensor: torch.Tensor, hook: Any) -> None:
            self._kept[hook.name] = tensor[0, self._queries]

        added = [hook_name(self._model, layer, at) for layer in self._layers for at in _ADDED]
        return [(name, keep) for name in (*self._ends, *added)]

    def heads_add(
        self, site: str, right: Int[torch.Tensor, " query"], among: Sequence[int]
    ) -> Float[np.ndarray, "layer head"]:
        """What each head adds directly to ``next_tokens_read``, a mean over the positions, nats."""
        first, last = (self._kept[name] for name in self._ends)
        by_site = {
            at: torch.stack(
                [self._kept[hook_name(self._model, layer, at)] for layer in self._layers]
            )
            for at in _ADDED
        }
        own = StackSites(first, by_site["z"], by_site["attn_out"], by_site["mlp_out"], last)
        cross = CrossSites(by_site["cross_z"], by_site["cross_attn_out"])
        reading = next_tokens_read(self._model, last, right, among)
        _, found = taken_apart(self._model.parts.decoder, own, reading.direction, cross)
        return found[_HEADS[site]][:, 0].mean(0).cpu().numpy()
