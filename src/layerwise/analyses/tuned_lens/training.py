"""Training of a tuned lens: translators of all depths together, on batches of streams.

Belrose et al. 2023 (arXiv:2303.08112): affine maps, the identity at first, that make the lens's
distribution like the final layer's. Where texts come from is the business of ``texts``, what
a depth says, that of ``streams``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.logit_lens.names import lens_of
from layerwise.analyses.logit_lens.reading import divergence
from layerwise.errors import UserError
from layerwise.models.kinds import Model, n_encoder_layers

from .streams import Streams
from .texts import Text
from .translators import TunedLens

# Texts of a step, texts that the scale of activations is taken from, and texts that decide whether
# a translator is better than none.
TEXTS, SCALED_BY, JUDGED_BY = 8, 32, 128
# The least spread of a coordinate, as a share of the mean; in a decoder behind an encoder.
LEAST, LEAST_BEHIND = 1e-3, 0.3


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

    model: Model
    texts: Sequence[Text]
    full: bool
    steps: int
    rate: float
    seed: int
    memory_budget: int
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        rng = stats.generator(self.seed, "scale of the lens")
        streams = Streams.of(self.model, self._drawn(rng, SCALED_BY), rng, self.memory_budget)
        by_depth = [streams.at(depth) for depth in range(self.model.cfg.n_layers)]
        self.mean = torch.stack([one.mean(dim=0) for one in by_depth])
        spread = torch.stack([one.std(dim=0) for one in by_depth])
        self.spread = torch.cat(
            [
                stack.clamp(min=share * float(stack.mean()) + 1e-8)
                for stack, share in self._stacks(spread)
            ]
        )
        n_depths, width = self.mean.shape
        zeros = spread.new_zeros
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

    def _stacks(
        self, by_depth: Float[torch.Tensor, "depth d_model"]
    ) -> Iterator[tuple[Float[torch.Tensor, "some d_model"], float]]:
        """What belongs to each stack, and the least share of its mean that a spread counts as.

        What a decoder begins with is the same everywhere until it reads the encoder; a translator
        there must still be able to move.
        """
        n_encoder = n_encoder_layers(self.model)
        if n_encoder:
            yield by_depth[:n_encoder], LEAST
        yield by_depth[n_encoder:], LEAST_BEHIND if n_encoder else LEAST

    def _drawn(self, rng: np.random.Generator, n: int) -> list[Text]:
        chosen = rng.permutation(len(self.texts))[:n]
        return [self.texts[i] for i in chosen]

    def step(self) -> None:
        """One batch through the model, and one step of every translator."""
        rng = stats.generator(self.seed, f"step {self.done} of the lens")
        texts = self._drawn(rng, TEXTS)
        streams = Streams.of(self.model, texts, rng, self.memory_budget)
        n_reads = sum(streams.n_reads)
        for depth in range(len(self.biases)):
            trained = [self.biases[depth], *self.weights[depth : depth + 1]]
            total = [torch.zeros_like(parameter) for parameter in trained]
            for part in streams.parts(depth, self.memory_budget):
                said = part.read_out(depth, self._translated(depth, part.at(depth)))
                loss = divergence(part.final, said).sum() / n_reads
                # Asked for these alone, so that the model's own weights get no gradients.
                gradients = torch.autograd.grad(loss, trained)
                total = [one + more for one, more in zip(total, gradients, strict=True)]
            for parameter, gradient in zip(trained, total, strict=True):
                parameter.grad = gradient
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * group["scale"] * (1 - self.done / self.steps)
        self.optimiser.step()
        self.done += 1
        self._refuse_divergence()

    def _refuse_divergence(self) -> None:
        """Stop a training that leads nowhere; its translators would say nothing."""
        if not all(bool(values.isfinite().all()) for values in (*self.biases, *self.weights)):
            raise UserError(
                f"The training of the tuned lens diverged at step {self.done} of {self.steps}: "
                f"expected finite translators; choose a rate below {self.rate:g}."
            )

    def _translated(
        self, depth: int, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        added = self.biases[depth]
        if self.full:
            standard = (resid - self.mean[depth]) / self.spread[depth]
            added = added + standard @ self.weights[depth].T
        return resid + self.spread[depth] * added

    def trained(self, facts: dict) -> TunedLens:
        """The translators as plain affine maps of the residual stream.

        One of the encoder that is no nearer to the final distribution than none, on texts that it
        was trained on, stays the identity: the decoder that reads it may be so far from linear
        that a step loses what no gradient leads back to.
        """
        lens, n_encoder = self._affine(facts), n_encoder_layers(self.model)
        if not n_encoder:
            return lens
        rng = stats.generator(self.seed, "choice of translators")
        texts = self._drawn(rng, JUDGED_BY)
        kl = np.zeros((n_encoder, 2))
        for row in compare(self.model, lens, texts, self.seed, self.memory_budget):
            if row["layer"] + 1 < n_encoder:
                kl[row["layer"] + 1] += row["n_tokens"] * np.array(
                    [row["kl_logit"], row["kl_tuned"]]
                )
        for depth in np.flatnonzero(kl[:, 1] >= kl[:, 0]).tolist():
            for values in (lens.bias, lens.weight):
                if values is not None:
                    values[depth] = 0
        return lens

    @torch.no_grad()
    def _affine(self, facts: dict) -> TunedLens:
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
    model: Model,
    lens: TunedLens,
    texts: Sequence[Text],
    seed: int,
    memory_budget: int,
) -> list[dict[str, Any]]:
    """Mean KL from the final distribution of both lenses, by text and layer.

    Returns:
        ``lens``, ``text``, ``layer``, ``n_tokens``, ``kl_logit``, ``kl_tuned`` (nats).
    """
    rows = []
    rng = stats.generator(seed, "test of the lens")
    n_encoder = n_encoder_layers(model)
    for start in range(0, len(texts), TEXTS):
        streams = Streams.of(model, texts[start : start + TEXTS], rng, memory_budget)
        for depth in range(model.cfg.n_layers):
            named = {"lens": lens_of(depth, n_encoder), "layer": depth - 1}
            for text, kl in enumerate(_divergences(streams, depth, lens, memory_budget), start):
                plain, tuned = kl.mean(dim=1).tolist()
                rows.append(
                    {**named, "text": text, "n_tokens": kl.shape[1]}
                    | {"kl_logit": plain, "kl_tuned": tuned}
                )
    return rows


def _divergences(
    streams: Streams, depth: int, lens: TunedLens, memory_budget: int
) -> Iterator[Float[torch.Tensor, "lens read"]]:
    """By text, of a depth as it is and of the translated one."""
    for part in streams.parts(depth, memory_budget):
        plain = part.at(depth)
        both = (plain, lens.translate(("resid_post", depth - 1), plain))
        kl = torch.stack([divergence(part.final, part.read_out(depth, x)) for x in both])
        yield from kl.split(part.n_reads, dim=1)
