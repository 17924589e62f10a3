"""Two prompts token by token: which positions of the one stand for which of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model
from layerwise.sweep.requests import Tokens
from layerwise.tasks.pairs import changed_spans

from .lens import MOST_COLUMNS
from .reading import positions_of
from .texts import closed, readable

Pair = tuple[int | None, int | None]
"""A position of the clean prompt and one of the corrupted; None where there is no counterpart."""


@dataclass(frozen=True)
class Aligned:
    """A clean and a corrupted prompt, with their positions in pairs, from the first on."""

    clean: Tokens
    corrupted: Tokens
    pairs: tuple[Pair, ...]

    @classmethod
    def of(cls, model: Model, clean: Tokens, corrupted: Tokens) -> Aligned:
        """Pair what both prompts begin and end with, and the first and last tokens between.

        Raises:
            UserError: for equal prompts, or such of unequal length that end differently.
        """
        if clean == corrupted:
            raise UserError("Both prompts are the same: expected other words in one; change some.")
        if len(clean) == len(corrupted):
            return cls(clean, corrupted, tuple((pos, pos) for pos in range(len(clean))))
        spans = changed_spans(clean, corrupted)
        after = len(clean) - spans[0].stop
        if not after:
            texts = [f"{len(one)} ({'|'.join(readable(model, one))})" for one in (clean, corrupted)]
            raise UserError(
                f"The clean prompt has {texts[0]} tokens and the corrupted one {texts[1]}: "
                "expected as many, or the same words at their ends; change words before the end."
            )
        both = min(map(len, spans))
        first, last = int(both > 1), int(both > 0)
        alone = [span[first : len(span) - last] for span in spans]
        pairs: list[Pair] = [(pos, pos) for pos in range(spans[0].start + first)]
        pairs += [*((pos, None) for pos in alone[0]), *((None, pos) for pos in alone[1])]
        ends = range(after + last, 0, -1)
        pairs += [(len(clean) - left, len(corrupted) - left) for left in ends]
        return cls(clean, corrupted, tuple(pairs))

    def shown(self, positions: Sequence[int] | str | None) -> list[Pair]:
        """The pairs at some positions of the corrupted prompt; of too many the most telling."""
        every = range(len(self.pairs))
        differ = [number for number in every if len(set(self._tokens(self.pairs[number]))) > 1]
        kept = set(differ[: MOST_COLUMNS // 2])
        for number in reversed(every):
            if len(kept) < MOST_COLUMNS:
                kept.add(number)
        of_corrupted = [number for number in every if self.pairs[number][1] is not None]
        known = every if positions == "all" else of_corrupted
        return [self.pairs[number] for number in positions_of(known, positions, sorted(kept))]

    def names(self, model: Model, pairs: Sequence[Pair]) -> list[str]:
        """The tokens of both prompts, once where they are the same."""
        return [
            "/".join(
                "–" if token is None else closed(readable(model, [token])[0])
                for token in dict.fromkeys(self._tokens(pair))
            )
            for pair in pairs
        ]

    def without_counterpart(self, model: Model) -> list[str]:
        """The tokens that are in no pair."""
        alone = [token for pair in self.pairs if None in pair for token in self._tokens(pair)]
        return readable(model, [token for token in alone if token is not None])

    def _tokens(self, pair: Pair) -> tuple[int | None, ...]:
        sides = zip(pair, (self.clean, self.corrupted), strict=True)
        return tuple(None if pos is None else tokens[pos] for pos, tokens in sides)
