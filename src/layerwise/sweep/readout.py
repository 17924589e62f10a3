"""From the residual stream to logits and log-probabilities, as the model itself does it.

Final norm, unembedding and soft-cap live here and nowhere else; which positions are read is
the caller's business.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

CHUNK = 256


def logits_of(
    model: HookedTransformer, resid: Float[torch.Tensor, "row d_model"]
) -> Float[torch.Tensor, "row d_vocab"]:
    """Logits in float32 from final (or, for a lens, any) residual streams.

    Applies the final norm with the scale of these very activations, the unembedding and the
    model's logit soft-cap.
    """
    x = resid[None]
    if model.cfg.normalization_type is not None:
        x = model.ln_final(x)
    logits = model.unembed(x)[0].float()
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


def first_argmax(logits: Float[torch.Tensor, "row d_vocab"]) -> Int[torch.Tensor, " row"]:
    """The most likely token; of exactly equal ones that with the smallest id."""
    best, chosen = logits.max(dim=-1)
    # Which of equal maxima ``max`` points at is not promised, so ties are settled here.
    tied = ((logits == best[:, None]).sum(dim=-1) > 1).nonzero()[:, 0]
    for row in tied.tolist():
        chosen[row] = (logits[row] == best[row]).nonzero()[0, 0]
    return chosen


def score_rows(
    model: HookedTransformer,
    resid: Float[torch.Tensor, "row d_model"],
    target_rows: Int[torch.Tensor, " target"],
    target_tokens: Int[torch.Tensor, " target"],
) -> tuple[Float[torch.Tensor, " target"], Int[torch.Tensor, " row"]]:
    """Log-probabilities of targets, and the greedy token of each row.

    Args:
        model: the model.
        resid: final residual streams of the positions that are read.
        target_rows: for each target the row that predicts it, in ascending order.
        target_tokens: its token id.

    Returns:
        Log-probability of each target in nats; the greedy token of each row.
    """
    logprobs, greedy = [], []
    for start in range(0, len(resid), CHUNK):
        logits = logits_of(model, resid[start : start + CHUNK])
        here = (target_rows >= start) & (target_rows < start + CHUNK)
        rows = target_rows[here] - start
        read, inverse = rows.unique(return_inverse=True)
        normaliser = torch.logsumexp(logits[read], dim=-1)
        logprobs.append(logits[rows, target_tokens[here]] - normaliser[inverse])
        greedy.append(first_argmax(logits))
    return torch.cat(logprobs), torch.cat(greedy)
