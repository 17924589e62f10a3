"""The residual stream of an intact run in one pass: its ends, and how much each layer turns it.

One vector a prompt and depth is kept; what all other positions hold is summed up and let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from .intact_run import observe_layers, trunk_walks
from .plan import DEFAULT_MEMORY_BUDGET
from .requests import Tokens


class Streams(NamedTuple):
    """What is read of some prompts, on the CPU in float64.

    Attributes:
        last: the stream at each prompt's last position; depth k is what enters layer k, and the
            last depth what leaves the last layer.
        influence: 1 minus the cosine of what enters and what leaves a layer, mean over all
            positions of the prompt.
    """

    last: Float[torch.Tensor, "depth prompt d_model"]
    influence: Float[torch.Tensor, "layer prompt"]


@torch.inference_mode()
def read_streams(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Streams:
    """Read the intact residual stream of prompts; prefixes that they share are run once.

    Args:
        model: the model.
        contexts: token ids, at least one each.
        memory_budget: bytes for activations, beside the vectors that are returned.
    """
    n_layers, n = model.cfg.n_layers, len(contexts)
    last = torch.empty(n_layers + 1, n, model.cfg.d_model, dtype=torch.float64)
    influence = torch.empty(n_layers, n, dtype=torch.float64)
    at = 0
    for walk in trunk_walks(model, contexts, memory_budget):
        paths = walk.plan.paths
        ends = torch.tensor([path[-1] for path in paths], device=walk.device)
        here = slice(at, at + len(paths))
        last[0, here] = walk.trunk[0, ends].cpu().double()
        for layer, seen in observe_layers(walk):
            turned = 1 - _cosines(seen["resid_pre"][0], seen["resid_post"][0])
            influence[layer, here] = torch.stack([turned[list(path)].mean() for path in paths])
            last[layer + 1, here] = seen["resid_post"][0, ends].cpu().double()
        at += len(paths)
    return Streams(last, influence)


def _cosines(
    before: Float[torch.Tensor, "token d_model"], after: Float[torch.Tensor, "token d_model"]
) -> Float[torch.Tensor, " token"]:
    found = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
    return found.cpu().double()
