"""Activations of the intact model, read out of the trunk alone: means, noise, residual streams.

Nothing is changed here, and no logits are made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float

from layerwise.errors import UserError
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import (
    DecoderOnly,
    Model,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
)
from layerwise.sweep.changes.edits import Site
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens

from .intact_layers import IntactLayer, intact_layers

# A site of the residual stream, and the layer.
Place = tuple[str, int]
SitePlace = tuple[Site, int]  # any site, and the layer
# The widest site whose covariance is made, and rows that stand for it where it is wider.
MOST_EXACT = 1024
# Draws of noise by position before they begin again.
NOISE_DRAWS = 256


@exclusive
@torch.inference_mode()
def mean_activations(
    model: Model,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, ...]]:
    """Mean activation of each site and layer, pooled over contexts and positions.

    The first position is left out: in most models it is an attention sink whose norm is some
    hundred times that of the others and would be most of the mean (Sun et al. 2024,
    arXiv:2402.17762). Each distinct prefix counts once.

    Of an encoder-decoder all positions count; contexts are its inputs, and in the decoder the
    mean is over the tokens that it begins with.

    Args:
        model: the model.
        contexts: token ids; each needs at least two.
        sites: which sites; those of cross-attention are found in decoder layers alone.
        memory_budget: bytes for activations.

    Returns:
        The mean by (site, layer): ``[d_model]``, of ``z`` ``[n_heads, d_head]``.

    Raises:
        UserError: if no context has a second token.
    """
    if not any(len(context) > 1 for context in contexts):
        raise UserError("A mean needs at least one context of two or more tokens.")
    sums, counts = _totals(), _totals()
    for _, seen in _by_site(model, contexts, sites, memory_budget):
        for place, activations in seen.items():
            sums[place] += activations.double().sum(dim=0)
            counts[place] += len(activations)
    return {place: (total / counts[place]).to(model.W_E.dtype) for place, total in sums.items()}


def _by_site(
    model: Model, contexts: Sequence[Tokens], sites: Sequence[Site], memory_budget: int
) -> Iterator[tuple[IntactLayer, dict[SitePlace, torch.Tensor]]]:
    """The activations of sites, at the tokens that count in means, layer by layer."""
    for walked in intact_layers(model, contexts, memory_budget):
        here, layer = set(sites) & set(walked.seen), walked.layer
        yield walked, {(site, layer): walked.seen[site][0, walked.counted] for site in here}


def _totals() -> dict[SitePlace, Any]:
    return defaultdict(int)


@exclusive
@torch.inference_mode()
def residuals_at(
    model: Model,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    places: Sequence[Place],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    n_prompt: Sequence[int] | None = None,
) -> Float[torch.Tensor, "place read d_model"]:
    """The intact residual stream at some positions of some texts.

    Args:
        model: the model.
        texts: token ids, at least one each.
        positions: for each text, which of its tokens are read, from 0.
        places: site (``resid_pre``, ``resid_mid`` or ``resid_post``) and layer; ``resid_post``
            of layer -1 is what enters the first block.
        memory_budget: bytes for activations, beside what is returned.
        n_prompt: of an encoder-decoder, how many tokens of each text are its input. The others
            are said by the decoder; it is the decoder that is read, where ``resid_post`` of the
            encoder's last layer stands for what enters the decoder. Positions are counted as if
            what the decoder begins with were the last of the prompt.

    Returns:
        A row for each text and position, in the order given.
    """
    residuals = Residuals(model, positions, places, n_prompt)
    for layer in intact_layers(model, texts, memory_budget, n_prompt):
        residuals.take(layer)
    return residuals.out


class Residuals:
    """Collects the residual stream at some positions of some texts from walks."""

    def __init__(
        self,
        model: Model,
        positions: Sequence[Sequence[int]],
        places: Sequence[Place],
        n_prompt: Sequence[int] | None,
    ) -> None:
        """Take the positions to read, as ``residuals_at`` does."""
        # ``[place, read, d_model]``, a row for each text and position.
        self.out = model.W_E.new_empty(len(places), sum(map(len, positions)), model.cfg.d_model)
        self._rows: dict[Place, list[int]] = {}
        for row, place in enumerate(places):
            self._rows.setdefault(place, []).append(row)
        self._n_encoder = n_encoder_layers(model)
        self._wanted = positions  # in the stack that is read
        if is_seq2seq(model):
            assert n_prompt is not None, "it must be known what the decoder says"
            begin = len(decoder_prefix(model))
            pairs = zip(positions, n_prompt, strict=True)
            self._wanted = [[pos - n + begin for pos in of_text] for of_text, n in pairs]
        self._starts = list(accumulate(map(len, positions), initial=0))
        self._read = self._here = torch.empty(0, dtype=torch.long)

    def take(self, layer: IntactLayer) -> None:
        """Store the residual stream that enters one layer at the wanted positions."""
        if layer.layer < self._n_encoder:
            return
        if layer.first:
            self._begin(layer)
            for row in self._rows.get(("resid_post", self._n_encoder - 1), ()):
                self.out[row, self._here] = layer.seen["resid_pre"][0, self._read]
        for site in ("resid_pre", "resid_mid", "resid_post"):
            for row in self._rows.get((site, layer.layer), ()):
                self.out[row, self._here] = _residual(site, layer.seen)[0, self._read]

    def _begin(self, layer: IntactLayer) -> None:
        """Tokens of a walk to read, and their rows in the result."""
        of = list(zip(layer.texts, layer.paths, strict=True))
        nodes = [path[pos] for text, path in of for pos in self._wanted[text]]
        starts = self._starts
        into = [row for text, _ in of for row in range(starts[text], starts[text + 1])]
        device = self.out.device
        self._read, self._here = torch.tensor([nodes, into], device=device, dtype=torch.long)


def _residual(site: str, seen: dict[str, torch.Tensor]) -> Float[torch.Tensor, "1 token d_model"]:
    if site == "resid_mid" and site not in seen:
        return seen["resid_pre"] + seen["attn_out"]
    return seen[site]


@exclusive
@torch.inference_mode()
def position_means(
    model: Model,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, "position ..."]]:
    """Mean activation per site, layer and shared position; the last row pools all positions.

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
    sums, counts = _totals(), _totals()
    n_common, common = 0, torch.empty(0, dtype=torch.long)
    for intact_layer in intact_layers(model, contexts, memory_budget):
        if intact_layer.first:  # the same tokens in all layers of a stack
            n_common = _n_common(model, contexts, intact_layer.layer)
            common = (intact_layer.positions < n_common).nonzero()[:, 0]
        at = intact_layer.positions[common]
        for site in set(sites) & set(intact_layer.seen):
            key = site, intact_layer.layer
            here = intact_layer.seen[site][0, common].double()
            sums[key] += here.new_zeros(n_common, *here.shape[1:]).index_add_(0, at, here)
            counts[key] += at.new_zeros(n_common).index_add_(0, at, torch.ones_like(at))
    by_position = {}
    for key, total in sums.items():
        means = (total.flatten(1) / counts[key][:, None]).reshape(total.shape)
        by_position[key] = torch.cat([means.to(model.W_E.dtype), pooled[key][None]])
    return by_position


def _n_common(model: Model, contexts: Sequence[Tokens], layer: int) -> int:
    """Positions that all contexts have in a layer's stack."""
    if is_seq2seq(model) and layer >= n_encoder_layers(model):
        return len(decoder_prefix(model))
    return min(len(context) for context in contexts)


@exclusive
@torch.inference_mode()
def site_noise(
    model: Model,
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
    sums, counts = _totals(), _totals()
    draws = torch.empty(0)
    for walked, seen in _by_site(model, contexts, sites, memory_budget):
        n_counted = len(walked.counted)
        if walked.first:
            drawn = torch.randn(n_draws, n_counted, generator=generator, dtype=torch.float32)
            draws = drawn.to(model.W_E)
        for place, activations in seen.items():
            apart = (activations - means[place]).flatten(1)
            sums[place] += (draws @ apart).unflatten(1, activations.shape[1:])
            counts[place] += n_counted
    return {place: total / counts[place] ** 0.5 for place, total in sums.items()}


@exclusive
@torch.inference_mode()
def noise_basis(
    model: Model,
    contexts: Sequence[Tokens],
    sites: Sequence[Site],
    *,
    seed: int,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> dict[tuple[Site, int], Float[torch.Tensor, "row ..."]]:
    """Vectors whose Gaussian mixtures have each site's covariance over contexts and positions.

    The sum of a table's n rows, each times a standard normal number, over sqrt(n), has the
    covariance of the site: rows are its principal axes, each times sqrt(n) standard deviations.
    Of wider sites than ``MOST_EXACT`` no covariance matrix is made; rows are draws of
    ``site_noise``, so many, and the covariance is that of these.

    Args:
        model: the model.
        contexts: token ids; at least one needs two or more.
        sites: which sites.
        seed: of the draws, where there are any.
        memory_budget: bytes for activations.

    Returns:
        By (site, layer) a table.

    Raises:
        UserError: if no context has a second token.
    """
    given = {"memory_budget": memory_budget}
    if max(model.cfg.d_model, model.cfg.n_heads * model.cfg.d_head) > MOST_EXACT:
        return site_noise(model, contexts, sites, seed=seed, n_draws=MOST_EXACT, **given)
    means = mean_activations(model, contexts, sites, **given)
    products, counts = _totals(), _totals()
    for _, seen in _by_site(model, contexts, sites, memory_budget):
        for place, activations in seen.items():
            apart = (activations - means[place]).flatten(1).double()
            products[place] += apart.T @ apart
            counts[place] += len(apart)
    basis = {}
    for key, product in products.items():
        variances, axes = torch.linalg.eigh(product.cpu() / counts[key])
        rows = (len(axes) * variances.clamp(min=0)).sqrt()[:, None] * axes.T
        basis[key] = rows.to(model.W_E).unflatten(1, means[key].shape)
    return basis


@exclusive
@torch.inference_mode()
def last_residuals(
    model: DecoderOnly,
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
