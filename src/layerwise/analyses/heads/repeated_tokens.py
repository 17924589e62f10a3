"""Random tokens that are given twice, and what stands around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from layerwise import stats
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.huggingface.untrusted_tokenizer import try_texts
from layerwise.models.instance.kinds import Model, decoder_prefix, is_seq2seq
from layerwise.models.seq2seq.load import around
from layerwise.sweep.requests import Tokens

SHORTEST = 2


class RepeatedSequence(NamedTuple):
    """Different tokens: those that are repeated, and others that an encoder reads meanwhile."""

    once: Tokens
    others: Tokens = ()


@dataclass(frozen=True)
class RepeatedTokens:
    """What stands around a text (before, after, what a decoder begins with), and what is drawn."""

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

    def drawn(self, count: int, length: int, seed: int) -> list[RepeatedSequence]:
        """So many sequences."""
        rng, sequences = stats.generator(seed, "head scores"), []
        for _ in range(count):
            tokens = rng.choice(self.known, self._kinds * length, replace=False).tolist()
            sequences.append(RepeatedSequence(tuple(tokens[:length]), tuple(tokens[length:])))
        return sequences

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
        specials = around(plain, whole)
        if specials is not None:
            return specials
    raise UserError(
        "The tokenizer adds no special tokens in a fixed place around a text: expected one that "
        "keeps the text's own tokens together; use another tokenizer."
    )
