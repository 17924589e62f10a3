"""A tokenizer of letters: just what the stop rule asks of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Letters:
    """Token 0 is "a", token 1 is "b" and so on."""

    eos_token_id: int | None = None

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        kept = [t for t in tokens if not (skip_special_tokens and t == self.eos_token_id)]
        return "".join(chr(ord("a") + token) for token in kept)
