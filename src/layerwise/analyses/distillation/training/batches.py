"""Padded batches of texts of several lengths, with the positions whose tokens are predicted.

Padding is on the right, where no token of a decoder attends to it; an encoder gets a mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from layerwise.models.libraries.quiet import quiet
from layerwise.sweep.requests import Tokens

from .examples import Example


@dataclass(frozen=True)
class PaddedBatch:
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
    def from_examples(
        cls, examples: Sequence[Example], prefix: Tokens | None, device: torch.device
    ) -> PaddedBatch:
        """Pad some examples."""
        rows, columns, targets = [], [], []
        for row, example in enumerate(examples):
            first = example.n_prompt - 1 if prefix is None else len(prefix) - 1
            rows += [row] * len(example.targets)
            columns += range(first, first + len(example.targets))
            targets += example.targets
        if prefix is None:
            tokens, mask = pad_texts([example.tokens[:-1] for example in examples], device)
            decoder_tokens = decoder_mask = None
        else:
            tokens, mask = pad_texts([example.prompt for example in examples], device)
            decoded = [(*prefix, *example.targets[:-1]) for example in examples]
            decoder_tokens, decoder_mask = pad_texts(decoded, device)
        at = (torch.tensor(places, device=device) for places in (rows, columns, targets))
        return cls(tokens, mask, decoder_tokens, decoder_mask, *at)


def pad_texts(
    texts: Sequence[Tokens], device: torch.device
) -> tuple[Int[torch.Tensor, "texts pos"], Bool[torch.Tensor, "texts pos"]]:
    """Pad texts with zeros on the right, and mark the tokens that are not padding."""
    tokens = pad_sequence([torch.tensor(text, device=device) for text in texts], batch_first=True)
    lengths = torch.tensor([[len(text)] for text in texts], device=device)
    return tokens, torch.arange(tokens.shape[1], device=device) < lengths


def batches_that_fit(
    examples: Sequence[Example], d_vocab: int, memory_budget: int
) -> Iterator[Sequence[Example]]:
    """Cut examples into batches that fit into memory, of one example at least."""
    # Both models' logits, their log-probabilities and gradients, in float32.
    copies, size = 8, 4
    longest = max((len(example.tokens) for example in examples), default=1)
    n = max(1, memory_budget // (copies * size * d_vocab * longest))
    for start in range(0, len(examples), n):
        yield examples[start : start + n]


@torch.no_grad()
def sample_texts(
    original: Any,
    examples: Sequence[Example],
    tokenizer: Any,
    seeds: Sequence[int],
    prefix: Tokens | None,
) -> list[Example]:
    """Texts that a model goes on with itself, sampled at temperature 1, each by its own seed."""
    given = [example.given_tokens for example in examples]
    if prefix is None:
        # A decoder's prompts are padded in front, where the mask hides it from all tokens.
        reversed_tokens, mask = pad_texts([tokens[::-1] for tokens in given], original.device)
        inputs = {"input_ids": reversed_tokens.flip(1), "attention_mask": mask.flip(1).long()}
    else:
        tokens, mask = pad_texts(given, original.device)
        begun = torch.tensor([prefix] * len(examples), device=original.device)
        inputs = {"input_ids": tokens, "attention_mask": mask.long(), "decoder_input_ids": begun}
    draws = [torch.Generator(original.device).manual_seed(seed) for seed in seeds]
    written: list[list[int]] = [[] for _ in examples]
    ended = [False] * len(examples)

    def draw_next(
        read: Int[torch.Tensor, "texts pos"], logits: Float[torch.Tensor, "texts d_vocab"]
    ) -> Float[torch.Tensor, "texts d_vocab"]:
        """1 for the token that is drawn of each text; any of those that ended."""
        chances = logits.float().softmax(-1)
        for row in (row for row, end in enumerate(ended) if not end):
            token = torch.multinomial(chances[row : row + 1], 1, generator=draws[row])
            written[row].append(int(token))
            ended[row] = _ends(examples[row], written[row], tokenizer)
        chosen = torch.tensor([tokens[-1] for tokens in written], device=logits.device)
        return torch.zeros_like(logits).scatter(1, chosen[:, None], 1.0)

    def end_mask(read: Int[torch.Tensor, "texts pos"], *_: Any) -> torch.Tensor:
        return torch.tensor(ended, device=read.device)

    how = GenerationConfig(
        do_sample=False, max_new_tokens=max(example.most for example in examples), pad_token_id=0,
        decoder_start_token_id=None if prefix is None else prefix[0],
    )  # fmt: skip
    with quiet(), _without_settings(original):
        original.generate(
            **inputs, generation_config=how, logits_processor=LogitsProcessorList([draw_next]),
            stopping_criteria=StoppingCriteriaList([end_mask]),
        )  # fmt: skip
    return [
        example._replace(tokens=(*example.given_tokens, *tokens), n_prompt=example.n_given)
        for example, tokens in zip(examples, written, strict=True)
    ]


def _ends(example: Example, written: Sequence[int], tokenizer: Any) -> bool:
    if len(written) >= example.most or written[-1] == tokenizer.eos_token_id:
        return True
    text = tokenizer.decode(written) if example.stop else ""
    return any(stop in text for stop in example.stop)


@contextlib.contextmanager
def _without_settings(original: Any) -> Iterator[None]:
    """Leave out the generation settings of a model: penalties, and tokens that end a text."""
    own = original.generation_config
    original.generation_config = GenerationConfig()
    try:
        yield
    finally:
        original.generation_config = own
