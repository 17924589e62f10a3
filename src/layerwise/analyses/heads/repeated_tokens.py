"""Random tokens that are given twice, and what stands around them in a model's input.

Whether they can be scored is told here; what is done with them is in ``heads``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerwise import stats
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.kinds import Model, decoder_prefix, is_seq2seq
from layerwise.models.seq2seq.load import around
from layerwise.models.untrusted_tokenizer import try_texts
from layerwise.sweep.requests import Tokens

SHORTEST = 2


@dataclass(frozen=True)
class Drawn:
    """The tokens of one sequence, all different.

    Attributes:
        once: what is repeated.
        others: as many others, which an encoder reads while the decoder is given what is
            repeated; none for a decoder-only model.
    """

    once: Tokens
    others: Tokens = ()


@dataclass(frozen=True)
class RepeatedTokens:
    """What a model can be given.

    Attributes:
        before: what the tokenizer puts before every text.
        after: what it puts after the input of an encoder.
        begins: the tokens that a decoder of its own begins with.
        known: the tokens that are drawn: all but special ones.
        seq2seq: whether the model is an encoder-decoder.
        n_ctx: the longest input, in tokens.
    """

    before: Tokens
    after: Tokens
    begins: Tokens
    known: Tokens
    seq2seq: bool
    n_ctx: int

    @classmethod
    def of(cls, model: Model) -> RepeatedTokens:
        """Those of a model."""
        tokenizer, two = original_tokenizer(model), is_seq2seq(model)
        size = min(len(tokenizer), model.cfg.d_vocab)
        known = tuple(sorted(set(range(size)) - set(tokenizer.all_special_ids)))
        before, after = tuple(tokenizer("").input_ids), ()
        if two:
            before, after = _around(tokenizer, known)
        return cls(before, after, decoder_prefix(model), known, two, model.cfg.n_ctx)

    @property
    def longest(self) -> int:
        """The longest sequence that can be repeated within the context, of different tokens."""
        room = self.n_ctx - self._around
        return min(room // 2, len(self.known) // self._kinds)

    @property
    def _around(self) -> int:
        """How many tokens stand beside those that are repeated."""
        return max(len(self.before) + len(self.after), len(self.begins))

    @property
    def _kinds(self) -> int:
        """How many times as many different tokens as are repeated."""
        return 2 if self.seq2seq else 1

    def refuse(self, length: int) -> None:
        """Accept only lengths that the model can be given."""
        if length < SHORTEST:
            raise UserError(
                f"Sequences of length {length} were asked for; expected at least {SHORTEST} "
                "tokens to repeat, so ask for more."
            )
        needed = self._around + 2 * length
        if needed > self.n_ctx:
            raise UserError(
                f"Sequences of {length} tokens need {needed} when they are repeated, but the "
                f"model takes {self.n_ctx}; choose a length of {self.longest} at most."
            )
        if len(self.known) < self._kinds * length:
            others = ", and as many others for the encoder," if self.seq2seq else ""
            raise UserError(
                f"Sequences of {length} different tokens{others} were asked for, but the "
                f"vocabulary has {len(self.known)}; choose a length of {self.longest} at most."
            )

    def drawn(self, count: int, length: int, seed: int) -> list[Drawn]:
        """So many sequences."""
        rng, found = stats.generator(seed, "head scores"), []
        for _ in range(count):
            tokens = rng.choice(self.known, self._kinds * length, replace=False).tolist()
            found.append(Drawn(tuple(tokens[:length]), tuple(tokens[length:])))
        return found

    def read(self, *texts: Tokens) -> Tokens:
        """Some tokens as a prompt, in an encoder-decoder as the encoder's."""
        return (*self.before, *(token for text in texts for token in text), *self.after)


def _around(tokenizer: Any, known: Tokens) -> tuple[Tokens, Tokens]:
    """What a tokenizer puts before and after the input of an encoder."""
    for token in known:
        text = tokenizer.decode([token])
        try_texts(tokenizer, text)
        plain, whole = (
            tuple(tokenizer(text, add_special_tokens=special).input_ids)
            for special in (False, True)
        )
        found = around(plain, whole)
        if found is not None:
            return found
    raise UserError(
        "The tokenizer adds no special tokens in a fixed place around a text: expected one that "
        "keeps the text's own tokens together; use another tokenizer."
    )
