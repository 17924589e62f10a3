"""Residual streams of both stacks of an encoder-decoder, from one walk over each text.

Of the encoder all positions are kept, since the decoder may look at any; of the decoder those that
are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens

from .intact_layers import intact_layers
from .intact_run import Residuals


class BothStreams(NamedTuple):
    """Residual streams of texts in both stacks; depth k of a stack is the input of its layer k."""

    # By text, at all positions of its input, ``[depth, pos, d_model]``; the last depth is what
    # leaves the last layer, before the final norm.
    encoder: tuple[torch.Tensor, ...]
    decoder: Float[torch.Tensor, "depth read d_model"]  # a row for each text and position


@torch.inference_mode()
def both_streams(
    model: Seq2SeqModel,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    n_prompt: Sequence[int],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> BothStreams:
    """Residual streams of both stacks of the intact model; each distinct input is encoded once."""
    n_encoder, n_layers, d_model = model.cfg.n_encoder_layers, model.cfg.n_layers, model.cfg.d_model
    places = [("resid_post", layer) for layer in range(n_encoder - 1, n_layers)]
    decoder = Residuals(model, positions, places, n_prompt)
    encoder = tuple(model.W_E.new_empty(n_encoder + 1, n, d_model) for n in n_prompt)
    for intact_layer in intact_layers(model, texts, memory_budget, n_prompt):
        decoder.take(intact_layer)
        if intact_layer.layer < n_encoder:
            for text, path in zip(intact_layer.texts, intact_layer.paths, strict=True):
                at = list(path)
                encoder[text][intact_layer.layer] = intact_layer.seen["resid_pre"][0, at]
                encoder[text][intact_layer.layer + 1] = intact_layer.seen["resid_post"][0, at]
    return BothStreams(encoder, decoder.out)
