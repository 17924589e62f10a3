"""Training of a tuned lens: translators of all depths together, on batches of streams.

Belrose et al. 2023 (arXiv:2303.08112): affine maps, the identity at first, that make the lens's
distribution like the final layer's. Where texts come from is the business of ``texts``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.utils.rnn import pad_sequence

from layerwise import stats
from layerwise.analyses.shared.lens_names import tuned_lens_name
from layerwise.analyses.shared.texts import Text
from layerwise.analyses.shared.training_state import packed_state, unpack_state
from layerwise.analyses.shared.translators import TunedLens
from layerwise.errors import UserError
from layerwise.models.instance.kinds import (
    Model,
    as_seq2seq,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
)
from layerwise.sweep import residuals_at
from layerwise.sweep.activations.streams import both_streams
from layerwise.sweep.walk.readout import divergence, final_logits

# Tokens read of a text.
READS = 16
# Texts of a step, texts that the scale of activations is taken from, and texts that decide whether
# a translator is better than none.
TEXTS, SCALED_BY, JUDGED_BY = 8, 32, 128
# The least spread of a coordinate, as a share of the mean; in a decoder behind an encoder.
LEAST, LEAST_BEHIND = 1e-3, 0.3


def draw_positions(text: Text, rng: np.random.Generator) -> list[int]:
    """Tokens of a text that are read, at most ``READS``.

    The last and some others, but not the first, whose activations are like no other's; behind an
    encoder where what is said is predicted, its first token always.
    """
    first, last = text.n_prompt, len(text.tokens) - 1
    always, others = (first - 1, range(first, last)) if first else (last, range(1, last))
    return sorted([*rng.permutation(np.array(others, dtype=int))[: READS - 1].tolist(), always])


@dataclass(frozen=True, eq=False)
class TextStreams:
    """The residual streams of some texts; depth k is what enters layer k, the encoder's first."""

    model: Model
    texts: tuple[Text, ...]
    positions: tuple[tuple[int, ...], ...]
    decoded: Float[torch.Tensor, "depth read d_model"]
    encoded: tuple[torch.Tensor, ...]

    @classmethod
    def from_texts(
        cls, model: Model, texts: Sequence[Text], rng: np.random.Generator, budget: int
    ) -> TextStreams:
        """Push texts through the model once, and read some tokens of each."""
        read = [draw_positions(text, rng) for text in texts]
        encoded: tuple[torch.Tensor, ...] = ()
        if is_seq2seq(model):
            # the last token is predicted only
            tokens = [text.tokens[:-1] for text in texts]
            n_prompt = [text.n_prompt for text in texts]
            encoded, decoded = both_streams(
                as_seq2seq(model), tokens, read, n_prompt, memory_budget=budget
            )
        else:
            places = [("resid_post", layer) for layer in range(-1, model.cfg.n_layers)]
            tokens = [text.tokens for text in texts]
            decoded = residuals_at(model, tokens, read, places, memory_budget=budget)
        # What is made in inference mode cannot be differentiated through; a copy can.
        return cls(
            model,
            tuple(texts),
            tuple(map(tuple, read)),
            decoded.clone().float(),
            tuple(stream.clone().float() for stream in encoded),
        )

    @property
    def n_reads(self) -> list[int]:
        """Number of tokens that are read of each text."""
        return [len(positions) for positions in self.positions]

    @cached_property
    def final(self) -> Float[torch.Tensor, "read d_vocab"]:
        """The whole model's log-probabilities where the tokens are read."""
        return self._unembed(self.decoded[-1]).detach()

    def stream_at(self, depth: int) -> Float[torch.Tensor, "token d_model"]:
        """The streams of a depth: where tokens are read, or at all positions of the encoder."""
        n_encoder = n_encoder_layers(self.model)
        if depth < n_encoder:
            return torch.cat([stream[depth] for stream in self.encoded])
        return self.decoded[depth - n_encoder]

    def lens_logprobs(
        self, depth: int, resid: Float[torch.Tensor, "token d_model"]
    ) -> Float[torch.Tensor, "read d_vocab"]:
        """Log-probabilities of the lens where tokens are read."""
        encodes = depth < n_encoder_layers(self.model)
        return self._unembed(self._through_decoder(resid) if encodes else resid)

    def parts(self, depth: int, budget: int) -> Iterator[TextStreams]:
        """Texts whose depth can be read out, and differentiated, at once: all in a decoder."""
        if depth >= n_encoder_layers(self.model):
            yield self
            return
        start, most = 0, 0
        for end, text in enumerate(self.texts):
            most = max(most, bytes_of_gradient(self.model, text))
            if end > start and most * (end + 1 - start) > budget:
                yield self._some(start, end)
                start, most = end, bytes_of_gradient(self.model, text)
        yield self if start == 0 else self._some(start, len(self.texts))

    def _some(self, start: int, end: int) -> TextStreams:
        reads = slice(sum(self.n_reads[:start]), sum(self.n_reads[:end]))
        some = slice(start, end)
        return TextStreams(
            self.model, self.texts[some], self.positions[some], self.decoded[:, reads],
            self.encoded[some],
        )  # fmt: skip

    def _unembed(
        self, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_vocab"]:
        logits = final_logits(self.model, resid.to(self.model.W_E.dtype))
        return torch.log_softmax(logits, dim=-1)

    def _through_decoder(
        self, resid: Float[torch.Tensor, "token d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        """The decoder's last stream if these were what the encoder ends with."""
        model = as_seq2seq(self.model)
        device, begin = resid.device, len(model.prefix)
        lengths = [text.n_prompt for text in self.texts]
        inputs = pad_sequence(list(resid.to(model.W_E.dtype).split(lengths)), batch_first=True)
        memory = model.parts.encoder.final_norm(inputs)
        there = torch.arange(memory.shape[1]) < torch.tensor(lengths)[:, None]
        decoded = [
            torch.tensor((*model.prefix, *text.tokens[text.n_prompt : -1])) for text in self.texts
        ]
        # What is padded comes last, so that no token that counts looks at it.
        tokens = pad_sequence(decoded, batch_first=True).to(device)
        out = model.decoder.last_stream(tokens, None, memory, there.to(device))
        return torch.cat(
            [
                out[i, [pos - text.n_prompt + begin for pos in positions]]
                for i, (text, positions) in enumerate(zip(self.texts, self.positions, strict=True))
            ]
        )


def bytes_of_gradient(model: Model, text: Text) -> int:
    """About what a decoder keeps of a text until the gradient has gone through it."""
    cfg = as_seq2seq(model).cfg
    n_read, n_said = text.n_prompt, len(decoder_prefix(model)) + len(text.tokens) - text.n_prompt
    # norms, queries, sums and the MLP of each decoder token; keys and values of each input token
    a_layer = n_said * (12 * cfg.d_model + 3 * cfg.d_mlp) + 2 * n_read * cfg.d_model
    a_layer += 3 * cfg.n_heads * n_said * (n_said + n_read)
    logits = 4 * min(n_said, READS) * cfg.d_vocab
    return 4 * (cfg.n_decoder_layers * a_layer + 4 * n_read * cfg.d_model + logits)


@dataclass
class LensTrainer:
    """Translators as they are trained.

    On coordinates standardised by depth, so that one step size fits all; it falls to 0 linearly.
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
        streams = TextStreams.from_texts(
            self.model, self._draw_texts(rng, SCALED_BY), rng, self.memory_budget
        )
        by_depth = [streams.stream_at(depth) for depth in range(self.model.cfg.n_layers)]
        self.mean = torch.stack([stream.mean(dim=0) for stream in by_depth])
        spread = torch.stack([stream.std(dim=0) for stream in by_depth])
        # What a decoder behind an encoder begins with is the same everywhere, and must still move.
        n_encoder = n_encoder_layers(self.model)
        stacks = [(spread[n_encoder:], LEAST_BEHIND if n_encoder else LEAST)]
        if n_encoder:
            stacks.insert(0, (spread[:n_encoder], LEAST))
        least = (share * float(stack.mean()) + 1e-8 for stack, share in stacks)
        self.spread = torch.cat(
            [stack.clamp(min=low) for (stack, _), low in zip(stacks, least, strict=True)]
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

    def _draw_texts(self, rng: np.random.Generator, n: int) -> list[Text]:
        chosen = rng.permutation(len(self.texts))[:n]
        return [self.texts[i] for i in chosen]

    def step(self) -> None:
        """One batch through the model, and one step of every translator."""
        rng = stats.generator(self.seed, f"step {self.done} of the lens")
        texts = self._draw_texts(rng, TEXTS)
        streams = TextStreams.from_texts(self.model, texts, rng, self.memory_budget)
        n_reads = sum(streams.n_reads)
        for depth in range(len(self.biases)):
            trained = [self.biases[depth], *self.weights[depth : depth + 1]]
            total = [torch.zeros_like(parameter) for parameter in trained]
            for part in streams.parts(depth, self.memory_budget):
                predicted = part.lens_logprobs(depth, self._translate(depth, part.stream_at(depth)))
                loss = divergence(part.final, predicted).sum() / n_reads
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

    def _translate(
        self, depth: int, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        added = self.biases[depth]
        if self.full:
            standard = (resid - self.mean[depth]) / self.spread[depth]
            added = added + standard @ self.weights[depth].T
        return resid + self.spread[depth] * added

    def make_lens(self, facts: dict) -> TunedLens:
        """The translators as plain affine maps of the residual stream.

        One of the encoder that does harm on texts that it was trained on stays the identity.
        """
        lens, n_encoder = self._affine(facts), n_encoder_layers(self.model)
        if not n_encoder:
            return lens
        rng = stats.generator(self.seed, "choice of translators")
        texts = self._draw_texts(rng, JUDGED_BY)
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
        """State needed to go on."""
        return packed_state(self.done, [*self.biases, *self.weights], self.optimiser)

    def resume(self, state: bytes) -> None:
        """Go on from a state."""
        self.done = unpack_state(state, [*self.biases, *self.weights], self.optimiser)


@torch.inference_mode()
def compare(
    model: Model,
    lens: TunedLens,
    texts: Sequence[Text],
    seed: int,
    memory_budget: int,
) -> list[dict[str, Any]]:
    """Mean KL from the final distribution of both lenses (nats), by text and layer."""
    rows = []
    rng = stats.generator(seed, "test of the lens")
    n_encoder = n_encoder_layers(model)
    for start in range(0, len(texts), TEXTS):
        streams = TextStreams.from_texts(model, texts[start : start + TEXTS], rng, memory_budget)
        for depth in range(model.cfg.n_layers):
            named = {"lens": tuned_lens_name(depth, n_encoder), "layer": depth - 1}
            for text, kl in enumerate(_divergences(streams, depth, lens, memory_budget), start):
                plain, tuned = kl.mean(dim=1).tolist()
                rows.append(
                    {**named, "text": text, "n_tokens": kl.shape[1]}
                    | {"kl_logit": plain, "kl_tuned": tuned}
                )
    return rows


def _divergences(
    streams: TextStreams, depth: int, lens: TunedLens, memory_budget: int
) -> Iterator[Float[torch.Tensor, "lens read"]]:
    """By text, of a depth as it is and of the translated one."""
    for part in streams.parts(depth, memory_budget):
        plain = part.stream_at(depth)
        both = (plain, lens.translate(("resid_post", depth - 1), plain))
        kl = torch.stack([divergence(part.final, part.lens_logprobs(depth, x)) for x in both])
        yield from kl.split(part.n_reads, dim=1)
