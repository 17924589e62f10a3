"""Pieces of running text: the tokens that are scored, and the bytes that they stand for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layerwise import stats
from layerwise.analyses.shared.texts import pieces_of_file, start_tokens
from layerwise.errors import UserError, count_noun
from layerwise.runs.setup import Setup
from layerwise.sweep.requests import Generate, LogLikelihood, Tokens, refuse_unknown_tokens

PROSE = Path(__file__).with_name("prose.txt")
BUILT_IN = "built-in prose"
# A shorter piece, such as the end of a long text, says next to nothing.
FEWEST_TOKENS = 16
# A larger share of tokens that stand for unknown words is no text in the tokenizer's language.
MOST_UNKNOWN = 0.1


class Piece(NamedTuple):
    """A piece of a text whose tokens are scored.

    Attributes:
        number: from 0, in the order of the file.
        cluster: the text that it is of, where there are several; else None.
        context: tokens before the first that is scored, which has no prediction otherwise.
        scored: tokens whose log-probability is read.
        n_bytes: UTF-8 bytes of the scored tokens as text.
    """

    number: int
    cluster: str | None
    context: Tokens
    scored: Tokens
    n_bytes: int

    @property
    def name(self) -> str:
        """Unique within a run."""
        return f"piece {self.number}"

    def likelihood(self) -> LogLikelihood:
        """The request for the log-probability of the piece."""
        return LogLikelihood(self.context, self.scored)

    def prefixes(self) -> list[Tokens]:
        """The tokens before each scored token."""
        return [self.context + self.scored[:n] for n in range(len(self.scored))]

    def next_tokens(self) -> list[Generate]:
        """Requests for the most likely token at each scored position."""
        return [Generate(prefix, 1) for prefix in self.prefixes()]


def read_pieces(setup: Setup, text: Path | None, most: int) -> tuple[Piece, ...]:
    """Pieces of a file, or of the built-in prose; some of them, by the seed, if there are more."""
    source = BUILT_IN if text is None else str(text)
    groups = [[piece.tokens for piece in group] for group in pieces_of_file(text or PROSE, setup)]
    n_start = max(1, len(start_tokens(setup.tokenizer)))
    several = sum(any(len(tokens) - n_start >= FEWEST_TOKENS for tokens in of) for of in groups) > 1
    every = [
        (str(number) if several else None, tokens)
        for number, group in enumerate(groups)
        for tokens in group
        if len(tokens) - n_start >= FEWEST_TOKENS
    ]
    order = stats.generator(setup.seed, "pieces of text").permutation(len(every))
    cut = [
        Piece(at, cluster, tokens[:n_start], tokens[n_start:], _n_bytes(setup, tokens[n_start:]))
        for at in sorted(order[:most].tolist())
        for cluster, tokens in every[at : at + 1]
    ]
    pieces = tuple(piece for piece in cut if piece.n_bytes)
    if len(pieces) < 2:
        raise UserError(
            f"Only {count_noun(len(pieces), 'piece')} of text came from {source}; expected 2 at "
            f"least, of {FEWEST_TOKENS} tokens of this model or more: give a longer text."
        )
    _refuse_unknown_words(setup.tokenizer, pieces, source)
    requests = [piece.likelihood() for piece in pieces]
    refuse_unknown_tokens(requests, setup.model.cfg.d_vocab, setup.model.cfg.d_vocab_out)
    return pieces


def pieces_hash(pieces: Sequence[Piece]) -> str:
    """SHA-256 (hex) over the tokens of all pieces."""
    return hashlib.sha256(json.dumps([piece[2:4] for piece in pieces]).encode()).hexdigest()


def _n_bytes(setup: Setup, tokens: Tokens) -> int:
    tokenizer: Any = setup.tokenizer
    text = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return len(text.encode("utf-8", "replace"))


def _refuse_unknown_words(tokenizer: Any, pieces: Sequence[Piece], source: str) -> None:
    unknown: Any = getattr(tokenizer, "unk_token_id", None)
    scored = [token for piece in pieces for token in piece.scored]
    share = scored.count(unknown) / len(scored)
    if share > MOST_UNKNOWN:
        raise UserError(
            f"The tokenizer does not know {share:.0%} of the words of {source}: expected a text in "
            "the language of the model; give a file with one."
        )
