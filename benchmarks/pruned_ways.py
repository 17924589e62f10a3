"""The same work by Hugging Face models with a layer removed, as people prune and evaluate today.

Removing a layer copies no weights and costs no time, which is the best that this way can do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from layerwise.models.libraries.quiet import quiet
from layerwise.models.names.sources import find_source
from layerwise.sweep import Generate, LogLikelihood, Scored


def load_original(name: str, dtype: str) -> Any:
    """The model as Hugging Face loads it, with its own choice of attention."""
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            find_source(name).folder, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()


@contextmanager
def without_layer(model: Any, layer: int) -> Iterator[Any]:
    """The model of a Llama-like kind without one of its layers, until the block is left."""
    config, layers = model.config, model.model.layers
    kept = [block for index, block in enumerate(layers) if index != layer]
    kinds = getattr(config, "layer_types", None)
    try:
        _set_layers(model, kept, kinds and [kind for i, kind in enumerate(kinds) if i != layer])
        yield model
    finally:
        _set_layers(model, layers, kinds)


def _set_layers(model: Any, layers: Any, kinds: Any) -> None:
    model.model.layers = nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    if kinds is not None:
        model.config.layer_types = kinds
    for index, block in enumerate(layers):
        # Which keys and values of the cache are its own.
        block.self_attn.layer_idx = index


class Harness:
    """lm-evaluation-harness's Hugging Face model, asked for log-likelihoods of token ids."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        from lm_eval.models import huggingface

        # It remarks that a model in memory was given to it, which is what we want.
        logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)
        make: Any = huggingface.HFLM
        self.model = model
        self.lm = make(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    def score(self, layers: Sequence[int], requests: Sequence[LogLikelihood]) -> list[list[Scored]]:
        """One evaluation per removed layer."""
        outcomes = []
        for layer in layers:
            with without_layer(self.model, layer):
                outcomes.append(self.evaluate(requests))
        return outcomes

    def evaluate(self, requests: Sequence[LogLikelihood]) -> list[Scored]:
        """One evaluation of the model as it is, which tells sums over a continuation only."""
        asked = [(("", ""), list(one.context), list(one.continuation)) for one in requests]
        answers = self.lm._loglikelihood_tokens(asked, disable_tqdm=True)
        return [Scored((total,), (bool(greedy),)) for total, greedy in answers]


def generate(
    model: Any, layer: int, requests: Sequence[Generate], tokenizer: Any
) -> list[tuple[int, ...]]:
    """Greedy texts of one pruned model."""
    with without_layer(model, layer):
        return greedy_texts(model, requests, tokenizer)


@torch.inference_mode()
def greedy_texts(model: Any, requests: Sequence[Generate], tokenizer: Any) -> list[tuple[int, ...]]:
    """Greedy texts of a model as it is, all prompts as one batch padded on the left."""
    longest = max(len(one.context) for one in requests)
    end = tokenizer.eos_token_id
    padding = 0 if end is None else end
    prompts = [[padding] * (longest - len(r.context)) + list(r.context) for r in requests]
    mask = [[0] * (longest - len(r.context)) + [1] * len(r.context) for r in requests]
    how = GenerationConfig(
        do_sample=False, use_cache=True, max_new_tokens=requests[0].max_tokens,
        eos_token_id=end, pad_token_id=padding,
    )  # fmt: skip
    out = model.generate(
        torch.tensor(prompts), attention_mask=torch.tensor(mask), generation_config=how
    )
    return [_until(end, row) for row in out[:, longest:].tolist()]


def _until(end: int | None, tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(end)] if end in tokens else tokens)
