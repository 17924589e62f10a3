"""Residual streams that a tuned lens is trained and tested on, and what each depth of them says.

In the decoder (or the only stack) the final norm and the unembedding read a stream; the encoder's
is read by the whole decoder. What is trained is in ``training``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.utils.rnn import pad_sequence

from layerwise.models.kinds import Model, as_seq2seq, decoder_prefix, is_seq2seq, n_encoder_layers
from layerwise.sweep import residuals_at
from layerwise.sweep.both_streams import both_streams
from layerwise.sweep.readout import logits_of

from .texts import Text

# Tokens read of a text.
READS = 16


def positions_read(text: Text, rng: np.random.Generator) -> list[int]:
    """Which tokens of a text are read, at most ``READS``.

    The last and some others, but not the first, whose activations are like no other's. In an
    encoder-decoder where the first token of what is said is predicted, and some of the others; what
    the decoder begins with counts as the last of the prompt.
    """
    first, last = text.n_prompt, len(text.tokens) - 1
    always, others = (first - 1, range(first, last)) if first else (last, range(1, last))
    return sorted([*rng.permutation(np.array(others, dtype=int))[: READS - 1].tolist(), always])


@dataclass(frozen=True, eq=False)
class Streams:
    """The residual streams of some texts.

    Depth k is what enters layer k, in the order of computation: of an encoder-decoder the encoder's
    depths come first, then the decoder's.

    Attributes:
        model: the model.
        texts: the texts.
        positions: which of each text's tokens are read.
        decoded: of the decoder, or the only stack, at these; what leaves the last layer stands
            last.
        encoded: of the encoder, by text, at all its positions, ``[depth, pos, d_model]``.
    """

    model: Model
    texts: tuple[Text, ...]
    positions: tuple[tuple[int, ...], ...]
    decoded: Float[torch.Tensor, "depth read d_model"]
    encoded: tuple[torch.Tensor, ...]

    @classmethod
    def of(
        cls, model: Model, texts: Sequence[Text], rng: np.random.Generator, budget: int
    ) -> Streams:
        """Push texts through the model once, and read some tokens of each."""
        read = [positions_read(text, rng) for text in texts]
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
            tuple(one.clone().float() for one in encoded),
        )

    @property
    def n_reads(self) -> list[int]:
        """How many tokens are read of each text."""
        return [len(positions) for positions in self.positions]

    @cached_property
    def final(self) -> Float[torch.Tensor, "read d_vocab"]:
        """The whole model's log-probabilities where the tokens are read."""
        return self._unembedded(self.decoded[-1]).detach()

    def at(self, depth: int) -> Float[torch.Tensor, "token d_model"]:
        """The streams of a depth: where tokens are read, or at all positions of the encoder."""
        n_encoder = n_encoder_layers(self.model)
        if depth < n_encoder:
            return torch.cat([one[depth] for one in self.encoded])
        return self.decoded[depth - n_encoder]

    def read_out(
        self, depth: int, resid: Float[torch.Tensor, "token d_model"]
    ) -> Float[torch.Tensor, "read d_vocab"]:
        """Log-probabilities of the lens where tokens are read."""
        encodes = depth < n_encoder_layers(self.model)
        return self._unembedded(self._through_decoder(resid) if encodes else resid)

    def parts(self, depth: int, budget: int) -> Iterator[Streams]:
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

    def _some(self, start: int, end: int) -> Streams:
        reads = slice(sum(self.n_reads[:start]), sum(self.n_reads[:end]))
        some = slice(start, end)
        return Streams(
            self.model, self.texts[some], self.positions[some], self.decoded[:, reads],
            self.encoded[some],
        )  # fmt: skip

    def _unembedded(
        self, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_vocab"]:
        logits = logits_of(self.model, resid.to(self.model.W_E.dtype))
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
        said = [
            torch.tensor((*model.prefix, *text.tokens[text.n_prompt : -1])) for text in self.texts
        ]
        # What is padded comes last, so that no token that counts looks at it.
        tokens = pad_sequence(said, batch_first=True).to(device)
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
