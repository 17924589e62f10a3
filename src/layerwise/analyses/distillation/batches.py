"""Texts of several lengths as one padded batch, and where in it something is predicted.

Padding stands behind, where no token of a decoder attends to it; an encoder gets a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int

from layerwise.sweep.requests import Tokens

from .examples import Example


@dataclass(frozen=True)
class Batch:
    """A padded batch of training examples.

    Attributes:
        tokens: what a decoder reads, or the encoder of an encoder-decoder.
        mask: which of them are no padding.
        decoder_tokens: inputs of the decoder behind an encoder; None without one.
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
    def of(cls, examples: Sequence[Example], prefix: Tokens | None, device: torch.device) -> Batch:
        """Pad some examples."""
        rows, columns, targets = [], [], []
        for row, example in enumerate(examples):
            first = example.n_prompt - 1 if prefix is None else len(prefix) - 1
            rows += [row] * len(example.targets)
            columns += range(first, first + len(example.targets))
            targets += example.targets
        if prefix is None:
            tokens, mask = padded([example.tokens[:-1] for example in examples], device)
            decoder_tokens = decoder_mask = None
        else:
            tokens, mask = padded([example.prompt for example in examples], device)
            decoded = [(*prefix, *example.targets[:-1]) for example in examples]
            decoder_tokens, decoder_mask = padded(decoded, device)
        at = (torch.tensor(places, device=device) for places in (rows, columns, targets))
        return cls(tokens, mask, decoder_tokens, decoder_mask, *at)


def padded(
    texts: Sequence[Tokens], device: torch.device
) -> tuple[Int[torch.Tensor, "texts pos"], Bool[torch.Tensor, "texts pos"]]:
    """Texts padded with zeros at their ends, and a mask of the tokens that are no padding."""
    longest = max(map(len, texts))
    rows = [[*text, *[0] * (longest - len(text))] for text in texts]
    mask = [[pos < len(text) for pos in range(longest)] for text in texts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def fitting(
    examples: Sequence[Example], d_vocab: int, memory_budget: int
) -> Iterator[Sequence[Example]]:
    """Cut examples into batches that fit into memory, of one example at least."""
    # Both models' logits, their log-probabilities and gradients, in float32.
    copies, size = 8, 4
    longest = max((len(example.tokens) for example in examples), default=1)
    n = max(1, memory_budget // (copies * size * d_vocab * longest))
    for start in range(0, len(examples), n):
        yield examples[start : start + n]
