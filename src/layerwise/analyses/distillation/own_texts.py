"""What a student writes itself: samples at temperature 1, several texts at a time.

The prompts of a batch are read from the same first position, so that nothing is padded: where one
is longer than another, it is read on while the other is answered already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from layerwise.models.huggingface.quiet import quiet
from layerwise.sweep.requests import Tokens

from .batches import fitting, padded
from .lessons import Lesson


def written_together(
    lessons: Sequence[Lesson], prefix: Tokens | None, d_vocab: int, memory_budget: int
) -> Iterator[list[int]]:
    """Which texts are written in one batch, by place; the shortest prompt of each comes first.

    A prompt joins those before it if no more tokens of it are left to read, when the shortest is
    read, than it is answered with.
    """
    order = sorted(range(len(lessons)), key=lambda place: lessons[place].n_given)
    groups: list[list[int]] = []
    for place in order:
        longer = lessons[place].n_given - lessons[groups[-1][0]].n_given if groups else 0
        if groups and (prefix is not None or longer <= lessons[place].most):
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        at = 0
        for some in fitting([lessons[place] for place in group], d_vocab, memory_budget):
            yield group[at : at + len(some)]
            at += len(some)


class _Written:
    """The texts of one batch while they are written.

    Attributes:
        tokens: of each text, what is given to the decoder, and what was drawn behind it.
        n_first: how many of these are given.
        ended: which of the texts are at their end.
    """

    def __init__(
        self, lessons: Sequence[Lesson], tokenizer: Any, seeds: Sequence[int],
        prefix: Tokens | None, device: torch.device,
    ) -> None:  # fmt: skip
        self.lessons, self.tokenizer = lessons, tokenizer
        given = [one.tokens[: one.n_given] if prefix is None else prefix for one in lessons]
        self.n_first = [len(one) for one in given]
        self.tokens = [list(one) for one in given]
        self.ended = [False] * len(lessons)
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
        lesson, said = self.lessons[row], self.tokens[row][self.n_first[row] :]
        if len(said) >= lesson.most or said[-1] == self.tokenizer.eos_token_id:
            return True
        text = self.tokenizer.decode(said) if lesson.stop else ""
        return any(stop in text for stop in lesson.stop)

    def which_ended(self, read: Int[torch.Tensor, "texts pos"], *_: Any) -> torch.Tensor:
        """By text, whether it is at its end."""
        return torch.tensor(self.ended, device=read.device)

    def texts(self) -> list[Lesson]:
        """The texts, of which what was written is trained on."""
        return [
            one._replace(
                tokens=(*one.tokens[: one.n_given], *tokens[first:]), n_read=one.n_given
            )
            for one, tokens, first in zip(self.lessons, self.tokens, self.n_first, strict=True)
        ]  # fmt: skip


@torch.no_grad()
def write_together(
    original: Any,
    lessons: Sequence[Lesson],
    tokenizer: Any,
    seeds: Sequence[int],
    prefix: Tokens | None,
) -> list[Lesson]:
    """Texts with what a model says itself in place of what was said, sampled at temperature 1.

    Each text is drawn by its own seed, so that it is the same in any batch, up to rounding.
    """
    texts = _Written(lessons, tokenizer, seeds, prefix, original.device)
    shortest = min(texts.n_first)
    started = [tokens[:shortest] for tokens in texts.tokens]
    begun = torch.tensor(started, device=original.device)
    inputs: dict[str, Any] = {"input_ids": begun, "attention_mask": torch.ones_like(begun)}
    if prefix is not None:
        read, mask = padded([one.tokens[: one.n_given] for one in lessons], original.device)
        inputs = {"input_ids": read, "attention_mask": mask.long(), "decoder_input_ids": begun}
    most = max(n + one.most for n, one in zip(texts.n_first, lessons, strict=True))
    how = GenerationConfig(
        do_sample=False, max_new_tokens=most - shortest, pad_token_id=0,
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
