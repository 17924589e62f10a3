"""Texts of several lengths as one padded batch, and where in it something is predicted.

Padding stands behind, where no token of a decoder attends to it; an encoder gets a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from layerwise.sweep.requests import Tokens

from .lessons import Lesson


@dataclass(frozen=True)
class Batch:
    """Padded texts.

    Attributes:
        tokens: what a decoder reads, or the encoder of an encoder-decoder.
        mask: which of them are no padding.
        decoder_tokens: what the decoder behind an encoder reads; None without one.
        decoder_mask: which of these are no padding.
        rows: of each prediction, its text.
        columns: its position, in the stack that answers.
        targets: the token that comes there.
    """

    tokens: Int[torch.Tensor, "texts pos"]
    mask: Bool[torch.Tensor, "texts pos"]
    decoder_tokens: Int[torch.Tensor, "texts decoder_pos"] | None
    decoder_mask: Bool[torch.Tensor, "texts decoder_pos"] | None
    rows: Int[torch.Tensor, " predictions"]
    columns: Int[torch.Tensor, " predictions"]
    targets: Int[torch.Tensor, " predictions"]

    @classmethod
    def of(cls, lessons: Sequence[Lesson], prefix: Tokens | None, device: torch.device) -> Batch:
        """A batch of texts."""
        rows, columns, targets = [], [], []
        for row, lesson in enumerate(lessons):
            first = lesson.n_read - 1 if prefix is None else len(prefix) - 1
            rows += [row] * len(lesson.said)
            columns += range(first, first + len(lesson.said))
            targets += lesson.said
        if prefix is None:
            tokens, mask = padded([one.tokens[:-1] for one in lessons], device)
            decoder_tokens = decoder_mask = None
        else:
            tokens, mask = padded([one.read for one in lessons], device)
            said = [(*prefix, *one.said[:-1]) for one in lessons]
            decoder_tokens, decoder_mask = padded(said, device)
        at = (torch.tensor(one, device=device) for one in (rows, columns, targets))
        return cls(tokens, mask, decoder_tokens, decoder_mask, *at)


def padded(
    texts: Sequence[Tokens], device: torch.device
) -> tuple[Int[torch.Tensor, "texts pos"], Bool[torch.Tensor, "texts pos"]]:
    """Texts filled up with zeros behind them, and which of the tokens are their own."""
    longest = max(map(len, texts))
    rows = [[*text, *[0] * (longest - len(text))] for text in texts]
    mask = [[pos < len(text) for pos in range(longest)] for text in texts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def fitting(
    lessons: Sequence[Lesson], d_vocab: int, memory_budget: int
) -> Iterator[Sequence[Lesson]]:
    """Texts in runs of which so many fit into memory together, one at least."""
    # Both models' logits, their log-probabilities and gradients, in float32.
    copies, size = 8, 4
    longest = max((len(one.tokens) for one in lessons), default=1)
    n = max(1, memory_budget // (copies * size * d_vocab * longest))
    for start in range(0, len(lessons), n):
        yield lessons[start : start + n]
