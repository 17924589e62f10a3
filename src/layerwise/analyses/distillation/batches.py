"""Texts of several lengths as one padded batch, and where in it something is predicted.

Padding stands behind, where no token of a decoder attends to it; an encoder gets a mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from layerwise.models.huggingface.quiet import quiet
from layerwise.sweep.requests import Tokens

from .examples import Example


@dataclass(frozen=True)
class Batch:
    """A padded batch of training examples."""

    # What a decoder reads, or the encoder of an encoder-decoder.
    tokens: Int[torch.Tensor, "texts pos"]
    mask: Bool[torch.Tensor, "texts pos"]  # which of them are no padding
    # Inputs of the decoder behind an encoder; None without one.
    decoder_tokens: Int[torch.Tensor, "texts decoder_pos"] | None
    decoder_mask: Bool[torch.Tensor, "texts decoder_pos"] | None  # which of these are no padding
    rows: Int[torch.Tensor, " predictions"]  # of each prediction, its text
    columns: Int[torch.Tensor, " predictions"]  # its position, in the stack that answers
    targets: Int[torch.Tensor, " predictions"]  # the token that comes there

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


def sampling_batches(
    examples: Sequence[Example], prefix: Tokens | None, d_vocab: int, memory_budget: int
) -> Iterator[list[int]]:
    """Which texts are written in one batch, by place; the shortest prompt of each comes first.

    A prompt joins those before it if no more tokens of it are left to read, when the shortest is
    read, than it is answered with.
    """
    order = sorted(range(len(examples)), key=lambda place: examples[place].n_given)
    groups: list[list[int]] = []
    for place in order:
        longer = examples[place].n_given - examples[groups[-1][0]].n_given if groups else 0
        if groups and (prefix is not None or longer <= examples[place].most):
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        at = 0
        for batch in fitting([examples[place] for place in group], d_vocab, memory_budget):
            yield group[at : at + len(batch)]
            at += len(batch)


class _Written:
    """The texts of one batch while they are written.

    Attributes:
        tokens: of each text, what is given to the decoder, and what was drawn behind it.
        n_first: how many of these are given.
        ended: which of the texts are at their end.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: Any, seeds: Sequence[int],
        prefix: Tokens | None, device: torch.device,
    ) -> None:  # fmt: skip
        self.examples, self.tokenizer = examples, tokenizer
        given = [
            example.tokens[: example.n_given] if prefix is None else prefix for example in examples
        ]
        self.n_first = [len(tokens) for tokens in given]
        self.tokens = [list(tokens) for tokens in given]
        self.ended = [False] * len(examples)
        self.draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def next_tokens(
        self, read: Int[torch.Tensor, "texts pos"], logits: Float[torch.Tensor, "texts d_vocab"]
    ) -> Float[torch.Tensor, "texts d_vocab"]:
        """1 for the token that comes next in each text, read on or drawn; 0 for all others."""
        chances, n_read = logits.float().softmax(-1), read.shape[1]
        for row, tokens in enumerate(self.tokens):
            if len(tokens) == n_read and not self.ended[row]:
                drawn = torch.multinomial(chances[row : row + 1], 1, generator=self.draws[row])
                tokens.append(int(drawn))
                self.ended[row] = self._ends(row)
        # What follows the end of a text while others go on is read by nobody.
        following = [tokens[min(n_read, len(tokens) - 1)] for tokens in self.tokens]
        chosen = torch.tensor(following, device=logits.device)[:, None]
        return torch.zeros_like(logits).scatter(1, chosen, 1.0)

    def _ends(self, row: int) -> bool:
        example, written = self.examples[row], self.tokens[row][self.n_first[row] :]
        if len(written) >= example.most or written[-1] == self.tokenizer.eos_token_id:
            return True
        text = self.tokenizer.decode(written) if example.stop else ""
        return any(stop in text for stop in example.stop)

    def which_ended(self, read: Int[torch.Tensor, "texts pos"], *_: Any) -> torch.Tensor:
        """By text, whether it is at its end."""
        return torch.tensor(self.ended, device=read.device)

    def texts(self) -> list[Example]:
        """The texts, of which what was written is trained on."""
        return [
            example._replace(tokens=(*example.given, *tokens[first:]), n_prompt=example.n_given)
            for example, tokens, first in zip(self.examples, self.tokens, self.n_first, strict=True)
        ]  # fmt: skip


@torch.no_grad()
def sample_texts(
    original: Any,
    examples: Sequence[Example],
    tokenizer: Any,
    seeds: Sequence[int],
    prefix: Tokens | None,
) -> list[Example]:
    """Texts with what a model says itself in place of what was said, sampled at temperature 1.

    Each text is drawn by its own seed, so that it is the same in any batch, up to rounding.
    """
    texts = _Written(examples, tokenizer, seeds, prefix, original.device)
    shortest = min(texts.n_first)
    started = [tokens[:shortest] for tokens in texts.tokens]
    begun = torch.tensor(started, device=original.device)
    inputs: dict[str, Any] = {"input_ids": begun, "attention_mask": torch.ones_like(begun)}
    if prefix is not None:
        read, mask = padded(
            [example.tokens[: example.n_given] for example in examples], original.device
        )
        inputs = {"input_ids": read, "attention_mask": mask.long(), "decoder_input_ids": begun}
    longest = max(n + example.most for n, example in zip(texts.n_first, examples, strict=True))
    how = GenerationConfig(
        do_sample=False, max_new_tokens=longest - shortest, pad_token_id=0,
        decoder_start_token_id=None if prefix is None else prefix[0],
    )  # fmt: skip
    with quiet(), _without_settings(original):
        original.generate(
            **inputs, generation_config=how,
            logits_processor=LogitsProcessorList([texts.next_tokens]),
            stopping_criteria=StoppingCriteriaList([texts.which_ended]),
        )  # fmt: skip
    return texts.texts()


@contextlib.contextmanager
def _without_settings(original: Any) -> Iterator[None]:
    """Leave out how a model's files would have it write: penalties, and tokens that end a text."""
    own = original.generation_config
    original.generation_config = GenerationConfig()
    try:
        yield
    finally:
        original.generation_config = own
