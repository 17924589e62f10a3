"""The teacher: its logits and residual streams on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from layerwise.models.kinds import Model, is_seq2seq, n_encoder_layers

from .batches import Batch


@dataclass(frozen=True)
class Teacher:
    """A model that is listened to.

    Attributes:
        model: the model.
        layers: whose residual streams are wanted, by number; none if there are none.
    """

    model: Model
    layers: tuple[int, ...] = ()

    @torch.no_grad()
    def __call__(
        self, batch: Batch
    ) -> tuple[
        Float[torch.Tensor, "predictions d_vocab"],
        list[Float[torch.Tensor, "texts pos d_model"]],
    ]:
        """Logits where something is predicted, and the streams that leave the wanted layers."""
        kept: dict[str, torch.Tensor] = {}

        def keep(value: torch.Tensor, hook: Any) -> None:
            kept[hook.name] = value

        names = [self._hook(layer) for layer in self.layers]
        inputs: tuple[Any, ...] = (batch.tokens,)
        if is_seq2seq(self.model):
            inputs = (batch.tokens, batch.decoder_tokens, batch.mask, batch.decoder_mask)
        logits = self.model.run_with_hooks(*inputs, fwd_hooks=[(name, keep) for name in names])
        return logits[batch.rows, batch.columns], [kept[name] for name in names]

    def _hook(self, layer: int) -> str:
        n_encoder = n_encoder_layers(self.model)
        if not n_encoder:
            return f"blocks.{layer}.hook_resid_post"
        stack, own = ("encoder", layer) if layer < n_encoder else ("decoder", layer - n_encoder)
        return f"{stack}.blocks.{own}.hook_resid_post"


def matching_layers(n_student: Sequence[int], n_teacher: Sequence[int]) -> tuple[int, ...]:
    """For each layer of a student, the teacher's layer that ends at the same relative depth."""
    found, first = list[int](), 0
    for mine, theirs in zip(n_student, n_teacher, strict=True):
        found += [first + -(-(layer + 1) * theirs // mine) - 1 for layer in range(mine)]
        first += theirs
    return tuple(found)
