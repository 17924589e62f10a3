"""Guesses of the next tokens, to be verified in one step instead of found in several.

A guess never changes a text: what is taken over is what the model itself finds greedily
(speculative decoding, Leviathan et al. 2023, arXiv:2211.17192, with a draft that costs nothing).
Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from layerwise.sweep.requests import Generate, Tokens

# A branch whose drafts are confirmed more rarely than this, after so many guesses, gets no more.
LEAST_CONFIRMED, TRIAL = 0.2, 12


@dataclass
class Drafter:
    """Drafts of the next tokens from earlier texts, and how often they were confirmed."""

    # The guess goes on as another finished text of the same prompt did that begins like this one (a
    # neighbouring branch's, often the intact model's); else as the prompt or the text itself went
    # on after its last two tokens (prompt look-up).

    longest: int = 7  # tokens of a draft, at most
    # By branch, how many tokens were guessed and how many confirmed.
    measures: dict[int | None, tuple[int, int]] = field(default_factory=dict)
    finished: dict[int, list[Tokens]] = field(default_factory=dict)

    def draft(
        self, branch: int | None, request: int, tokens: Sequence[int], generate: Generate, room: int
    ) -> Tokens:
        """The guessed next tokens of a text; none if there is no room or no good guess."""
        room = min(room, self.longest, generate.max_tokens - len(tokens) - 1)
        offered, confirmed = self.measures.get(branch, (0, 0))
        if room < 1 or (offered >= TRIAL and confirmed < LEAST_CONFIRMED * offered):
            return ()
        text = tuple(tokens)
        for other in self.finished.get(request, ()):
            if len(other) > len(text) and other[: len(text)] == text:
                return other[len(text) : len(text) + room]
        return _looked_up(generate.context + text, room)

    def learn(self, request: int, tokens: Sequence[int]) -> None:
        """Remember a finished text."""
        texts = self.finished.setdefault(request, [])
        if tuple(tokens) not in texts:
            texts.append(tuple(tokens))

    def measured(self, branch: int | None, offered: int, confirmed: int) -> None:
        """Count the confirmed tokens of a draft."""
        before = self.measures.get(branch, (0, 0))
        self.measures[branch] = (before[0] + offered, before[1] + confirmed)


def _looked_up(sequence: Tokens, room: int) -> Tokens:
    """The continuation of the latest earlier occurrence of the last two tokens."""
    last = sequence[-2:]
    for end in range(len(sequence) - 1, 1, -1):
        if sequence[end - 2 : end] == last:
            return sequence[end : end + room]
    return ()
