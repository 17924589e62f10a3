"""Activations of the intact model, read out of the trunk alone: means, noise, residual streams.

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

# A site of the residual stream, and the layer.
Place = tuple[str, int]
# Draws of noise by position before they begin again.
NOISE_DRAWS = 256


@torch.inference_mode()
def mean_activations(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, ...]]:
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
        The mean by (site, layer): ``[d_model]``, of ``z`` ``[n_heads, d_head]``.

    Raises:
        UserError: if no context has a second token.
    """
    if not any(len(context) > 1 for context in contexts):
        raise UserError("A mean needs at least one context of two or more tokens.")
    sums: dict[tuple[Site, int], torch.Tensor] = {}
    count = 0
    for walk in trunk_walks(model, contexts, memory_budget):
        pooled = torch.tensor([p > 0 for p in walk.plan.trie.positions], device=walk.device)
        count += int(pooled.sum())
        for layer, seen in observe_layers(walk):
            for site in sites:
                total = seen[site][0, pooled].double().sum(dim=0)
                sums[site, layer] = sums.get((site, layer), 0) + total
    return {key: (total / count).to(model.W_E.dtype) for key, total in sums.items()}


@torch.inference_mode()
def residuals_at(
    model: HookedTransformer,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    places: Sequence[Place],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Float[torch.Tensor, "place read d_model"]:
    """The intact residual stream at some positions of some texts.

    Args:
        model: the model.
        texts: token ids, at least one each.
        positions: for each text, which of its tokens are read, from 0.
        places: site (``resid_pre``, ``resid_mid`` or ``resid_post``) and layer; ``resid_post``
            of layer -1 is what enters the first block.
        memory_budget: bytes for activations, beside what is returned.

    Returns:
        A row for each text and position, in the order given.
    """
    n_reads = sum(map(len, positions))
    out = model.W_E.new_empty(len(places), n_reads, model.cfg.d_model)
    rows: dict[Place, list[int]] = {}
    for row, place in enumerate(places):
        rows.setdefault(place, []).append(row)
    at, wanted = 0, iter(positions)
    for walk in trunk_walks(model, texts, memory_budget):
        nodes = [path[pos] for path in walk.plan.paths for pos in next(wanted)]
        read = torch.tensor(nodes, dtype=torch.long, device=walk.device)
        here = slice(at, at + len(read))
        for row in rows.get(("resid_post", -1), ()):
            out[row, here] = walk.trunk[0, read]
        for layer, seen in observe_layers(walk):
            for site in ("resid_pre", "resid_mid", "resid_post"):
                for row in rows.get((site, layer), ()):
                    out[row, here] = _residual(site, seen)[0, read]
        at += len(read)
    return out


def _residual(site: str, seen: dict[str, torch.Tensor]) -> Float[torch.Tensor, "1 token d_model"]:
    return seen["resid_pre"] + seen["attn_out"] if site == "resid_mid" else seen[site]


@torch.inference_mode()
def position_means(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, "position ..."]]:
    """Mean activation of each site, layer and position that all contexts have, then the pooled.

    Args:
        model: the model.
        contexts: token ids; each needs at least two.
        sites: which sites.
        memory_budget: bytes for activations.

    Returns:
        By (site, layer) a table that ``mean`` takes: the means of positions 0, 1, ..., and last,
        for all further positions, the mean of ``mean_activations``. Each distinct prefix counts
        once.

    Raises:
        UserError: if no context has a second token.
    """
    pooled = mean_activations(model, contexts, sites, memory_budget=memory_budget)
    n_common = min(len(context) for context in contexts)
    sums: dict[tuple[Site, int], torch.Tensor] = {}
    counts = torch.zeros(n_common, dtype=torch.double, device=model.W_E.device)
    for walk in trunk_walks(model, contexts, memory_budget):
        positions = torch.tensor(walk.plan.trie.positions, device=walk.device)
        common = positions < n_common
        at = positions[common]
        counts += torch.bincount(at, minlength=n_common)
        for layer, seen in observe_layers(walk):
            for site in sites:
                here = seen[site][0, common].double()
                total = here.new_zeros(n_common, *here.shape[1:]).index_add_(0, at, here)
                sums[site, layer] = sums.get((site, layer), 0) + total
    found = {}
    for key, total in sums.items():
        means = (total.flatten(1) / counts[:, None]).reshape(total.shape).to(model.W_E.dtype)
        found[key] = torch.cat([means, pooled[key][None]])
    return found


@torch.inference_mode()
def site_noise(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    seed: int,
    n_draws: int = NOISE_DRAWS,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, "draw ..."]]:
    """Gaussian noise with the covariance that each site has over contexts and positions.

    A draw is the sum over activations x of g (x - mean), with a standard normal g for each, over
    the square root of their number: its covariance is that of the activations, and no covariance
    matrix is ever made. First positions are left out and each distinct prefix counts once, as in
    ``mean_activations``.

    Args:
        model: the model.
        contexts: token ids; at least one needs two or more.
        sites: which sites.
        seed: of the draws.
        n_draws: how many draws, one for each position before they begin again.
        memory_budget: bytes for activations.

    Returns:
        By (site, layer) a table that ``noise`` takes.

    Raises:
        UserError: if no context has a second token.
    """
    means = mean_activations(model, contexts, sites, memory_budget=memory_budget)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[tuple[Site, int], torch.Tensor] = {}
    count = 0
    for walk in trunk_walks(model, contexts, memory_budget):
        pooled = torch.tensor([p > 0 for p in walk.plan.trie.positions], device=walk.device)
        n_pooled = int(pooled.sum())
        count += n_pooled
        draws = torch.randn(n_draws, n_pooled, generator=generator).to(model.W_E)
        for layer, seen in observe_layers(walk):
            for site in sites:
                apart = (seen[site][0, pooled] - means[site, layer]).flatten(1)
                total = (draws @ apart).unflatten(1, seen[site].shape[2:])
                sums[site, layer] = sums.get((site, layer), 0) + total
    return {key: total / count**0.5 for key, total in sums.items()}


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
    places = [("resid_post", layer) for layer in range(-1, model.cfg.n_layers)]
    last = [[len(context) - 1] for context in contexts]
    return residuals_at(model, contexts, last, places, memory_budget=memory_budget)


def observe_layers(walk: Walk) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Push a walk's trunk through, yielding each layer's sites (``[1, token, d_model]``)."""
    for layer, runner in enumerate(walk.runners):
        seen = {"resid_pre": walk.trunk}
        walk.trunk, _ = runner.packed(walk.trunk, walk.trunk_layout, observe=seen.__setitem__)
        seen["resid_post"] = walk.trunk
        yield layer, seen


def trunk_walks(
    model: HookedTransformer, contexts: Sequence[Tokens], memory_budget: int
) -> Iterator[Walk]:
    """Walks of the intact model over contexts, in order."""
    # What is asked does not matter; a request is how a context comes into a walk.
    requests = [LogLikelihood(context, (0,)) for context in contexts]
    shape, runners = model_shape(model), block_runners(model)
    for batch in plan_sweep([intact()], requests, shape, memory_budget).batches:
        plan = walk_of(batch, [intact()], requests, shape.n_layers)
        yield Walk(model, runners, plan, [requests[i] for i in batch.requests], Work())
