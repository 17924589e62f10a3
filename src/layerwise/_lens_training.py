"""Training of a tuned lens: translators of all depths together, on batches of streams.

Belrose et al. 2023 (arXiv:2303.08112): affine maps, the identity at first, that make the lens's
distribution like the final layer's. Where texts come from is the business of ``_lens_texts``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from layerwise import stats
from layerwise._lens_reading import divergence
from layerwise._translators import TunedLens
from layerwise.sweep import residuals_at
from layerwise.sweep.readout import logits_of
from layerwise.sweep.requests import Tokens

# Texts of a step, tokens read of each, and texts that the scale of activations is taken from.
TEXTS, READS, SCALED_BY = 8, 16, 32

Streams = Float[torch.Tensor, "depth read d_model"]


def positions_read(text: Tokens, rng: np.random.Generator) -> list[int]:
    """The last token and some others; not the first, whose activations are like no other's."""
    others = rng.permutation(np.arange(1, len(text) - 1))[: READS - 1]
    return sorted([*others.tolist(), len(text) - 1])


def streams_of(
    model: HookedTransformer, texts: Sequence[Tokens], rng: np.random.Generator, budget: int
) -> tuple[Streams, list[int]]:
    """Residual streams of some tokens of some texts, at all depths, and how many of each text."""
    read = [positions_read(text, rng) for text in texts]
    places = [("resid_post", layer) for layer in range(-1, model.cfg.n_layers)]
    found = residuals_at(model, texts, read, places, memory_budget=budget)
    # What is made in inference mode cannot be differentiated through; a copy can.
    return found.clone().float(), [len(positions) for positions in read]


def final_logprobs(
    model: HookedTransformer, streams: Streams
) -> Float[torch.Tensor, "read d_vocab"]:
    """The whole model's log-probabilities where the streams were read."""
    return read_out(model, streams[-1]).detach()


def read_out(
    model: HookedTransformer, resid: Float[torch.Tensor, "read d_model"]
) -> Float[torch.Tensor, "read d_vocab"]:
    """Log-probabilities of the lens for (translated) residual streams."""
    return torch.log_softmax(logits_of(model, resid.to(model.W_E.dtype)), dim=-1)


@dataclass
class Trainer:
    """Translators as they are trained.

    They act on standardised coordinates (mean and spread of each, by depth, over a first batch),
    so that one step size fits all depths; as affine maps they are the same family.

    Attributes:
        model: the model; its weights stay as they are.
        texts: to train on.
        full: whether there is a matrix beside the bias.
        steps: number of steps.
        rate: step size at first, in spreads; falls to 0 linearly.
        seed: draws the batches.
        memory_budget: bytes for activations.
    """

    model: HookedTransformer
    texts: Sequence[Tokens]
    full: bool
    steps: int
    rate: float
    seed: int
    memory_budget: int
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        rng = stats.generator(self.seed, "scale of the lens")
        streams, _ = streams_of(self.model, self._drawn(rng, SCALED_BY), rng, self.memory_budget)
        self.mean = streams[:-1].mean(dim=1)
        spread = streams[:-1].std(dim=1)
        self.spread = spread.clamp(min=1e-3 * float(spread.mean()) + 1e-8)
        n_depths, width = self.mean.shape
        zeros = streams.new_zeros
        self.biases = [zeros(width, requires_grad=True) for _ in range(n_depths)]
        n_full = n_depths if self.full else 0
        self.weights = [zeros(width, width, requires_grad=True) for _ in range(n_full)]
        # A matrix moves an output by as many terms as there are inputs.
        self.optimiser = torch.optim.Adam(
            [
                {"params": self.biases, "scale": 1.0},
                {"params": self.weights, "scale": width**-0.5},
            ],
            lr=self.rate,
        )

    def _drawn(self, rng: np.random.Generator, n: int) -> list[Tokens]:
        chosen = rng.permutation(len(self.texts))[:n]
        return [self.texts[i] for i in chosen]

    def step(self) -> None:
        """One batch through the model, and one step of every translator."""
        rng = stats.generator(self.seed, f"step {self.done} of the lens")
        texts = self._drawn(rng, TEXTS)
        streams, _ = streams_of(self.model, texts, rng, self.memory_budget)
        final = final_logprobs(self.model, streams)
        for depth in range(len(self.biases)):
            trained = [self.biases[depth], *self.weights[depth : depth + 1]]
            loss = divergence(final, read_out(self.model, self._translated(depth, streams[depth])))
            # Asked for these alone, so that the model's own weights get no gradients.
            gradients = torch.autograd.grad(loss.mean(), trained)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * group["scale"] * (1 - self.done / self.steps)
        self.optimiser.step()
        self.done += 1

    def _translated(
        self, depth: int, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        added = self.biases[depth]
        if self.full:
            standard = (resid - self.mean[depth]) / self.spread[depth]
            added = added + standard @ self.weights[depth].T
        return resid + self.spread[depth] * added

    @torch.no_grad()
    def trained(self, facts: dict) -> TunedLens:
        """The translators as plain affine maps of the residual stream."""
        bias = self.spread * torch.stack(self.biases)
        if not self.full:
            return TunedLens(None, bias.cpu(), facts)
        weights = torch.stack(self.weights)
        weight = self.spread[:, :, None] * weights / self.spread[:, None, :]
        bias = bias - (weight @ self.mean[:, :, None])[:, :, 0]
        return TunedLens(weight.cpu(), bias.cpu(), facts)

    def state(self) -> bytes:
        """What is needed to go on: translators, the optimiser's memory, and the steps done."""
        buffer = io.BytesIO()
        kept = [p.detach() for p in (*self.biases, *self.weights)]
        torch.save((self.done, kept, self.optimiser.state_dict()), buffer)
        return buffer.getvalue()

    def resume(self, state: bytes) -> None:
        """Go on from a state."""
        self.done, kept, optimiser = torch.load(io.BytesIO(state), weights_only=True)
        with torch.no_grad():
            for parameter, value in zip((*self.biases, *self.weights), kept, strict=True):
                parameter.copy_(value)
        self.optimiser.load_state_dict(optimiser)


@torch.inference_mode()
def compare(
    model: HookedTransformer,
    lens: TunedLens,
    texts: Sequence[Tokens],
    seed: int,
    memory_budget: int,
) -> list[dict[str, Any]]:
    """Mean KL from the final distribution of both lenses, by text and layer.

    Returns:
        ``text``, ``layer``, ``n_tokens``, ``kl_logit``, ``kl_tuned`` (nats).
    """
    rows = []
    rng = stats.generator(seed, "test of the lens")
    for start in range(0, len(texts), TEXTS):
        chunk = texts[start : start + TEXTS]
        streams, n_reads = streams_of(model, chunk, rng, memory_budget)
        final = final_logprobs(model, streams)
        for depth in range(len(streams) - 1):
            layer = depth - 1
            moved = lens.translate(("resid_post", layer), streams[depth])
            both = [divergence(final, read_out(model, x)) for x in (streams[depth], moved)]
            parts = zip(*(kl.split(n_reads) for kl in both), strict=True)
            for i, (plain, tuned) in enumerate(parts):
                kl = {"kl_logit": float(plain.mean()), "kl_tuned": float(tuned.mean())}
                rows.append({"text": start + i, "layer": layer, "n_tokens": len(plain), **kl})
    return rows
