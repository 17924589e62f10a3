"""Requests to a model, and their outcomes: token ids in, numbers and token ids out.

Also when a text ends, which the engine and the reference share. Nothing here knows about tasks,
items or protocols; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import compress, count
from operator import ne
from typing import Any

from ..errors import UserError

Tokens = tuple[int, ...]


def n_common_tokens(one: Tokens, other: Tokens) -> int:
    """Number of tokens that two sequences share at their beginning."""
    least = min(len(one), len(other))
    if one[:least] == other[:least]:
        return least
    return next(compress(count(), map(ne, one, other)))


@dataclass(frozen=True)
class LogLikelihood:
    """Ask for the log-probability of ``continuation`` after ``context``.

    Attributes:
        context: token ids, at least one (the first token has no prediction of its own).
        continuation: token ids that are scored, at least one.
        source: for patches and resampling only: token ids of the run that activations are taken
            from; for a patch of the same length as ``context``.
    """

    context: Tokens
    continuation: Tokens
    source: Tokens | None = None


@dataclass(frozen=True)
class Generate:
    """Ask for greedy text after ``context``, until a stop string, an end token or ``max_tokens``.

    Attributes:
        context: token ids, at least one.
        max_tokens: at most so many new tokens.
        stop: strings; generation ends when the decoded new text contains one of them.
        source: as in ``LogLikelihood``.
    """

    context: Tokens
    max_tokens: int
    stop: tuple[str, ...] = ()
    source: Tokens | None = None


Request = LogLikelihood | Generate


def refuse_unknown_tokens(requests: Iterable[Request], n_read: int, n_said: int) -> None:
    """Accept only token ids that a model has."""
    for request in requests:
        continuation = request.continuation if isinstance(request, LogLikelihood) else ()
        read = request.context if request.source is None else request.context + request.source
        for tokens, size in ((read, n_read), (continuation, n_said)):
            if tokens and not (min(tokens) >= 0 and max(tokens) < size):
                wrong = next(token for token in tokens if not 0 <= token < size)
                raise UserError(
                    f"There is no token {wrong}: the model's vocabulary has {size} tokens, from 0 "
                    "on: expected the tokenizer that the model was made for; set it with "
                    "model.set_tokenizer(...), or give the model a larger vocabulary."
                )


@dataclass(frozen=True)
class Scored:
    """The outcome of a ``LogLikelihood``.

    Attributes:
        token_logprobs: log-probability in nats of each continuation token.
        token_greedy: of each continuation token, whether it was the most likely one after those
            before it (teacher forcing).
    """

    token_logprobs: tuple[float, ...]
    token_greedy: tuple[bool, ...]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole continuation, in nats."""
        return sum(self.token_logprobs)

    @property
    def greedy(self) -> bool:
        """True if every continuation token was the most likely one."""
        return all(self.token_greedy)


@dataclass(frozen=True)
class Generated:
    """The outcome of a ``Generate``.

    Attributes:
        tokens: the new token ids, up to and with the one that completed a stop string;
            the end token itself is left out.
        text: the decoded new text, cut before the first stop string.
    """

    tokens: Tokens
    text: str


Outcome = Scored | Generated


@dataclass(frozen=True)
class Stopper:
    """The stop rule of a model's texts."""

    tokenizer: Any  # as Hugging Face loaded it; None for a model without one
    end_tokens: frozenset[int]  # ids that end a text

    def text(self, tokens: list[int]) -> str:
        """The decoded tokens without special ones; empty without a tokenizer."""
        if self.tokenizer is None:
            return ""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def stops(self, tokens: list[int], request: Generate) -> bool:
        """True if generation is over after these new tokens."""
        if tokens[-1] in self.end_tokens or len(tokens) >= request.max_tokens:
            return True
        return bool(request.stop) and any(stop in self.text(tokens) for stop in request.stop)

    def outcome(self, tokens: list[int], request: Generate) -> Generated:
        """The outcome of an ended generation."""
        if tokens and tokens[-1] in self.end_tokens:
            tokens = tokens[:-1]
        text = self.text(tokens)
        for stop in request.stop:
            text = text.split(stop)[0]
        return Generated(tuple(tokens), text)


def make_stopper(tokenizer: Any, end_tokens: Collection[int] | None = None) -> Stopper:
    """The stop rule of a tokenizer and the tokens that end a text."""
    if end_tokens is not None:
        return Stopper(tokenizer, frozenset(end_tokens))
    end = getattr(tokenizer, "eos_token_id", None)
    return Stopper(tokenizer, frozenset() if end is None else frozenset({end}))
