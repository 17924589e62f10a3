"""Activations of the intact model, read out of the trunk alone: means and last residuals.

Nothing is changed here, and no logits are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from ..errors import UserError
from .blocks import block_runners
from .engine import Walk, Work
from .interventions import Site, intact
from .plan import DEFAULT_MEMORY_BUDGET, plan_sweep, walk_of
from .requests import LogLikelihood, Tokens
from .run import model_shape


@torch.inference_mode()
def mean_activations(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, " d_model"]]:
    """Mean activation of each site and layer, pooled over contexts and positions.

    The first position is left out: in most models it is an attention sink whose norm is some
    hundred times that of the others and would be most of the mean (Sun et al. 2024,
    arXiv:2402.17762). Each distinct prefix counts once.

    Args:
        model: the model.
        contexts: token ids; each needs at least two.
        sites: which sites.
        memory_budget: bytes for activations.

    Returns:
        The mean by (site, layer).

    Raises:
        UserError: if no context has a second token.
    """
    if not any(len(context) > 1 for context in contexts):
        raise UserError("A mean needs at least one context of two or more tokens.")
    sums: dict[tuple[Site, int], torch.Tensor] = {}
    count = 0
    for walk in _trunk_walks(model, contexts, memory_budget):
        pooled = torch.tensor([p > 0 for p in walk.plan.trie.positions], device=walk.device)
        count += int(pooled.sum())
        for layer, seen in observe_layers(walk):
            for site in sites:
                total = seen[site][0, pooled].double().sum(dim=0)
                sums[site, layer] = sums.get((site, layer), 0) + total
    return {key: (total / count).to(model.W_E.dtype) for key, total in sums.items()}


@torch.inference_mode()
def last_residuals(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Float[torch.Tensor, "n_layers_plus_one context d_model"]:
    """The intact residual stream at each context's last position, at every depth.

    Args:
        model: the model.
        contexts: token ids, at least one each.
        memory_budget: bytes for activations.

    Returns:
        Row 0 is what enters the first block, row k + 1 the ``resid_post`` of layer k.
    """
    shape = (model.cfg.n_layers + 1, len(contexts), model.cfg.d_model)
    out = model.W_E.new_empty(shape)
    at = 0
    for walk in _trunk_walks(model, contexts, memory_budget):
        last = torch.tensor([path[-1] for path in walk.plan.paths], device=walk.device)
        here = slice(at, at + len(last))
        out[0, here] = walk.trunk[0, last]
        for layer, seen in observe_layers(walk):
            out[layer + 1, here] = seen["resid_post"][0, last]
        at += len(last)
    return out


def observe_layers(walk: Walk) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Push a walk's trunk through, yielding each layer's sites (``[1, token, d_model]``)."""
    for layer, runner in enumerate(walk.runners):
        seen = {"resid_pre": walk.trunk}
        walk.trunk, _ = runner.packed(walk.trunk, walk.trunk_layout, observe=seen.__setitem__)
        seen["resid_post"] = walk.trunk
        yield layer, seen


def _trunk_walks(
    model: HookedTransformer, contexts: Sequence[Tokens], memory_budget: int
) -> Iterator[Walk]:
    """Walks of the intact model over contexts, in order."""
    # What is asked does not matter; a request is how a context comes into a walk.
    requests = [LogLikelihood(context, (0,)) for context in contexts]
    shape, runners = model_shape(model), block_runners(model)
    for batch in plan_sweep([intact()], requests, shape, memory_budget).batches:
        plan = walk_of(batch, [intact()], requests, shape.n_layers)
        yield Walk(model, runners, plan, [requests[i] for i in batch.requests], Work())
