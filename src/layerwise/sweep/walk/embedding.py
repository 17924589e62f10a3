"""The residual stream that enters the first block of a decoder-only model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int

from layerwise.models.decoder.model import DecoderModel
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep.plans.walk_plan import WalkPlan


def embed(
    model: DecoderOnly, plan: WalkPlan, device: Any
) -> Float[torch.Tensor, "1 token d_model"]:
    """The residual stream that enters the first block."""
    return embed_tokens(
        model,
        torch.tensor(plan.trie.tokens, dtype=torch.long, device=device),
        torch.tensor(plan.trie.positions, dtype=torch.long, device=device),
    )[None]


def embed_tokens(
    model: DecoderOnly,
    tokens: Int[torch.Tensor, " token"],
    positions: Int[torch.Tensor, " token"],
) -> Float[torch.Tensor, "token d_model"]:
    """Token and, where the model adds them, position embeddings."""
    if isinstance(model, DecoderModel):
        return model.embed_at(tokens, positions)
    resid = model.embed(tokens[None])[0]
    if model.cfg.positional_embedding_type == "standard":
        learned: Any = model.pos_embed
        resid = resid + learned.W_pos[positions]
    return resid
