"""When greedy generation ends, and what text it leaves; the engine and the reference share it.

Knows the tokenizer, not the model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from layerwise.sweep.requests import Generate, Generated


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

    def ended(self, tokens: list[int], request: Generate) -> bool:
        """Whether generation is over after these new tokens."""
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
