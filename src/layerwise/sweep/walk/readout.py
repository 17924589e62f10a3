"""From tokens to the residual stream, and from it to logits, as the model itself does it.

Final norm, unembedding and soft-cap live here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int

from layerwise.models.decoder.model import DecoderModel
from layerwise.models.instance.kinds import Model, logit_cap
from layerwise.models.seq2seq import Seq2SeqModel

# Rows whose logits exist at once, where the budget allows it.
CHUNK = 256


def embed_tokens(
    model: Model,
    tokens: Int[torch.Tensor, " token"],
    positions: Int[torch.Tensor, " token"],
    encodes: bool = False,
) -> Float[torch.Tensor, "token d_model"]:
    """Token and, where the model adds them, position embeddings; of the decoder or encoder."""
    if isinstance(model, Seq2SeqModel):
        stack = model.parts.encoder if encodes else model.parts.decoder
        return stack.embed(tokens[None], positions)[0]
    if isinstance(model, DecoderModel):
        return model.embed_at(tokens, positions)
    resid = model.embed(tokens[None])[0]
    if model.cfg.positional_embedding_type == "standard":
        learned: Any = model.pos_embed
        resid = resid + learned.W_pos[positions]
    return resid


def final_logits(
    model: Model, resid: Float[torch.Tensor, "row d_model"]
) -> Float[torch.Tensor, "row d_vocab"]:
    """Logits in float32 from final (or, for a lens, any) residual streams."""
    # Applies the final norm with the scale of these very activations, the unembedding and the
    # model's logit soft-cap.
    logits, cap = uncapped_logits(model, resid), logit_cap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def uncapped_logits(
    model: Model, resid: Float[torch.Tensor, "row d_model"]
) -> Float[torch.Tensor, "row d_vocab"]:
    """As ``final_logits``, before the soft-cap."""
    x = resid[None]
    if isinstance(model, Seq2SeqModel) or model.cfg.normalization_type is not None:
        x = model.ln_final(x)
    return model.unembed(x)[0].float()


def first_argmax(logits: Float[torch.Tensor, "row d_vocab"]) -> Int[torch.Tensor, " row"]:
    """The most likely token; of exactly equal ones that with the smallest id."""
    # torch promises the first of several maxima.
    return logits.argmax(dim=-1)


def score_rows(
    model: Model,
    resid: Float[torch.Tensor, "row d_model"],
    target_rows: Int[torch.Tensor, " target"],
    target_tokens: Int[torch.Tensor, " target"],
    chunk: int = CHUNK,
) -> tuple[Float[torch.Tensor, " target"], Int[torch.Tensor, " row"]]:
    """Log-probabilities of targets, and the greedy token of each row."""
    logprobs, greedy = [], []
    bounds = torch.arange(0, len(resid) + chunk, chunk)
    starts = torch.searchsorted(target_rows, bounds).tolist()
    for number, start in enumerate(range(0, len(resid), chunk)):
        logits = final_logits(model, resid[start : start + chunk])
        greedy.append(first_argmax(logits))
        here = slice(starts[number], starts[number + 1])
        rows = (target_rows[here] - start).to(resid.device)
        chosen = logits[rows, target_tokens[here]]
        if len(rows):
            logprobs.append(chosen - log_normaliser(logits)[rows])
    nothing = resid.new_empty(0, dtype=torch.float32)
    return torch.cat(logprobs) if logprobs else nothing, torch.cat(greedy)


def log_normaliser(logits: Float[torch.Tensor, "row d_vocab"]) -> Float[torch.Tensor, " row"]:
    """The log of the sum of each row's exponentiated logits, which are overwritten."""
    highest = logits.amax(dim=-1, keepdim=True)
    return logits.sub_(highest).exp_().sum(dim=-1).log_().add_(highest[:, 0])


def divergence(
    final: Float[torch.Tensor, "read d_vocab"], logprobs: Float[torch.Tensor, "read d_vocab"]
) -> Float[torch.Tensor, " read"]:
    """KL divergence from the final distribution to another, in nats, of log-probabilities."""
    # Rounding may leave a divergence of -1e-8 where the two are the same.
    return (final.exp() * (final - logprobs)).sum(dim=-1).clamp(min=0)
