"""Tries an encoder-decoder organism by plain ``generate`` of Hugging Face, with or without a layer.

Slow and obvious on purpose: what the engine says of these models is checked against this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerBase, T5ForConditionalGeneration

from layerwise.models.libraries.quiet import quiet
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.sweep.requests import Generated
from layerwise.tasks import Task, build_requests, score
from layerwise.tasks.suites.toy import toy_suites

from ..record import ITEMS_SEED, N_ITEMS, accuracy_row
from .plan import N_ENCODER


def read_organism(folder: Path) -> T5ForConditionalGeneration:
    """The model in a folder, in float32."""
    with quiet():
        return (
            AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
            )
            .requires_grad_(False)
            .eval()
        )


def accuracies(
    model: T5ForConditionalGeneration,
    language: Language = ORGANISM,
    *,
    n_items: int = N_ITEMS,
    batch_size: int = 100,
) -> list[dict[str, Any]]:
    """Accuracy under ``generate`` on items that are kept from training, with 95 % intervals."""
    tasks = [make(ITEMS_SEED, n_items=n_items) for _, _, make in toy_suites(language)]
    tokenizer = toy_tokenizer(language, first=None)
    return [
        accuracy_row(task, "generate", sum(answers_generated(model, tokenizer, task, batch_size)))
        for task in tasks
    ]


@torch.inference_mode()
def answers_generated(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    batch_size: int = 100,
) -> list[bool]:
    """True for each item whose answer is generated, greedily."""
    requests = [build_requests(task, item, "generate", tokenizer) for item in task.items]
    untyped: Any = model  # transformers types this method so that no model fits
    texts: list[str] = []
    for start in range(0, len(requests), batch_size):
        prompts = [request.context for (request,) in requests[start : start + batch_size]]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        made = untyped.generate(**inputs, max_new_tokens=task.generate.max_tokens, do_sample=False)
        texts += tokenizer.batch_decode(made, skip_special_tokens=True)
    (stop,) = task.generate.stop
    return [
        score(task, item, "generate", request, [Generated((), text.split(stop)[0])]).correct
        for item, request, text in zip(task.items, requests, texts, strict=True)
    ]


@contextmanager
def without_layer(model: T5ForConditionalGeneration, layer: int) -> Iterator[None]:
    """Skip a layer within the context; numbered as in ``plan``."""
    in_encoder = layer < N_ENCODER
    blocks = model.encoder.block if in_encoder else model.decoder.block
    index = layer if in_encoder else layer - N_ENCODER
    left_out = blocks[index]
    blocks[index] = _BiasOnlyBlock(left_out)
    try:
        yield
    finally:
        blocks[index] = left_out


class _BiasOnlyBlock(torch.nn.Module):
    """A block without effect, but for the position bias that others take from it."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, states: torch.Tensor, *others: Any, **named: Any) -> tuple[Any, ...]:
        return (states, *self.block(states, *others, **named)[1:])
