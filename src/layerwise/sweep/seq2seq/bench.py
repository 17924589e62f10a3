"""Stopwatches for blocks of two stacks: packed tokens, keys and values of inputs, steps of texts.

What the figures are for is in ``calibration``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import StackParts

from .._bench import FAIR_ROWS, FAIR_TOKENS, LONG, REPEATS, ROWS, SHORT, TOKENS, Stopwatch
from .._curves import Curve, share
from ..decode import Job
from ..engine import Work
from ..interventions import skip
from ..layer_edits import NO_EDITS
from ..layout import KeysValues
from ..readout import CHUNK
from ..requests import Generate
from ..stopping import make_stopper
from .attending import Attending, Run, attending
from .block import Block, keys_values
from .decode import TextDecoder
from .plan import plan_two_stacks
from .walk import TwoStackWalk

# Decoder tokens that look at one input: its options share their beginning and are short.
SAID = 8
# Tokens of one branch, as far as there are so many.
OF_BRANCH = 64


class TwoStackBench(Stopwatch):
    """Times the engine's parts on one encoder-decoder."""

    model: Seq2SeqModel

    def encoder(self, n_tokens: int, length: int = SHORT, repeats: int = REPEATS) -> float:
        """Seconds to push inputs of one length through an encoder block."""
        parts = self.model.parts.encoder
        length = min(length, n_tokens, self.cfg.n_ctx)
        layout = self._apart(parts, n_tokens, length)
        resid = self._resid(n_tokens - n_tokens % length)[None]

        def run() -> None:
            block = self._next(parts)
            block.run(resid, self._attend(block, layout), None, NO_EDITS)

        return self.median(run, repeats)

    def pair(self) -> float:
        """Seconds for one query that meets one key in an encoder block.

        Found from pushes of as many tokens in short and in long inputs.
        """
        n_tokens = min(LONG, 4 * self.cfg.n_ctx)
        short, long = min(SHORT, self.cfg.n_ctx), min(LONG, self.cfg.n_ctx)
        spent, of_long = self.encoder(n_tokens, short), self.encoder(n_tokens, long)
        return share(of_long - spent, n_tokens * (long - short))

    def encoder_curve(self, pair: float) -> Curve:
        """Seconds of an encoder block for growing numbers of tokens, attention taken off."""

        def run(n_tokens: int) -> float:
            spent = self.encoder(n_tokens)
            length = min(SHORT, n_tokens, self.cfg.n_ctx)
            return max(spent - pair * n_tokens * length, spent / 2)

        return self.curve(TOKENS, run, FAIR_TOKENS)

    def decoder_curve(self, pair: float) -> Curve:
        """The same of a decoder block, with its cross-attention; its keys and values are there."""
        parts = self.model.parts.decoder
        length = min(SHORT, self.cfg.n_ctx)

        def run(n_tokens: int) -> float:
            of_branch = min(OF_BRANCH, n_tokens)
            n_inputs = max(1, of_branch // SAID)
            own = self._apart(parts, of_branch, SAID, causal=True)
            cross = _look_apart(n_inputs, length, self.like)
            resid = self._resid(of_branch)[None].repeat(n_tokens // of_branch, 1, 1)
            memory = self._resid(n_inputs * length)[None]
            attention = parts.blocks[0].cross_attn
            assert attention is not None
            read = keys_values(attention, memory)

            def push() -> None:
                block = self._next(parts)
                scale = attention.scale

                def look(queries: torch.Tensor) -> torch.Tensor:
                    return cross.read(queries, read.keys, read.values, scale)

                block.run(resid, self._attend(block, own), look, NO_EDITS)

            spent = self.median(push)
            return max(spent - pair * n_tokens * (SAID + length), spent / 2)

        return self.curve(TOKENS, run, FAIR_TOKENS)

    def memory(self) -> Curve:
        """Seconds for the keys and values that a decoder block makes of so many input tokens."""

        def run(n_tokens: int) -> float:
            memory = self._resid(n_tokens)[None]

            def make() -> None:
                attention = self._next(self.model.parts.decoder).parts.cross_attn
                assert attention is not None
                keys_values(attention, memory)

            return self.median(make)

        return self.curve(TOKENS, run, FAIR_TOKENS)

    def step(self) -> Curve:
        """Seconds of one more token in each of so many texts, in a decoder layer."""

        def run(n_rows: int) -> float:
            decoder, rows = self._texts(n_rows)
            parts = self.model.parts.decoder
            resid = self._resid(n_rows)[:, None]

            def step() -> None:
                number = next(self.turn) % len(parts.blocks)
                block = Block(parts.blocks[number], parts.post_norm)
                decoder.layer(rows, number, block, resid)

            return self.median(step)

        return self.curve(ROWS, run, FAIR_ROWS)

    def _texts(self, n_rows: int) -> tuple[TextDecoder, list[Job]]:
        """Texts that are being written without one of the layers each."""
        model, n_layers = self.model, self.cfg.n_layers
        changes = [skip(layer) for layer in range(n_layers)][:n_rows]
        n_inputs = -(-n_rows // len(changes))
        n_words, length = model.parts.embedding.num_embeddings, min(SHORT, self.cfg.n_ctx)
        inputs = [(n // n_words % n_words, n % n_words) for n in range(n_inputs)]
        asked = [Generate((*((0,) * (length - 2)), *ends), SAID) for ends in inputs]
        plan = plan_two_stacks(changes, asked, model.prefix, n_layers)
        walk = TwoStackWalk(model, plan, asked, Work())
        # What texts read of memories instead is counted as input tokens.
        walk.from_memory = False
        walk.run()
        rows = [
            Job(branch, request, asked[request], [0])
            for request in range(n_inputs)
            for branch in range(len(changes))
        ][:n_rows]
        decoder = TextDecoder(walk, make_stopper(None), CHUNK)
        decoder.begin(rows)
        return decoder, rows

    def _apart(
        self, stack: StackParts, n_tokens: int, length: int, causal: bool = False
    ) -> Attending:
        """Tokens in sequences that share nothing."""
        n_tokens -= n_tokens % length
        spans = [tuple(range(s, s + length)) for s in range(0, n_tokens, length)]
        runs = [Run(span, span, causal=causal) for span in spans]
        return attending(runs, n_tokens, stack.relative, self.like)

    def _attend(
        self, block: Block, layout: Attending
    ) -> Callable[[torch.Tensor, KeysValues], torch.Tensor]:
        scale = block.parts.attn.scale
        return lambda queries, mine: layout.read(queries, mine.keys, mine.values, scale)

    def _next(self, stack: StackParts) -> Block:
        return Block(stack.blocks[next(self.turn) % len(stack.blocks)], stack.post_norm)


def _look_apart(n_inputs: int, length: int, like: torch.Tensor) -> Attending:
    """A few decoder tokens look at each input."""
    runs = [
        Run(
            tuple(range(n * SAID, (n + 1) * SAID)),
            tuple(range(n * length, (n + 1) * length)),
            causal=False,
        )
        for n in range(n_inputs)
    ]
    return attending(runs, n_inputs * SAID, None, like)
