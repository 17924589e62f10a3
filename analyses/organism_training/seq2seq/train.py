"""Trains an encoder-decoder: ``python -m analyses.organism_training.seq2seq.train --out DIR``.

What is planted where is told in ``plan``, the start in ``initialization``, what is common to all
organisms in ``training_loop``; what is measured at the end, in ``evaluation``, what is written, in
``record`` of the package above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from layerwise.models.organisms.language import ARROW, CUE, ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer

from ..texts import Stage, Text, Texts
from ..training_forms import Form
from ..training_loop import (
    DECAY,
    STEPS,
    draw_layers_run,
    round_to_bfloat16,
    run_training_loop,
)
from .initialization import HEAD_WIDTH, new_seq2seq
from .plan import FORMS, N_ENCODER, N_LAYERS, PLANTED

_BIAS_SPEED = 10.0  # of the relative position bias


class Batch(NamedTuple):
    """The batch of one training step."""

    prompts: Int[torch.Tensor, "rows pos"]  # to the encoder
    answers: Int[torch.Tensor, "rows words"]  # of the decoder, with their end
    # What the first of two hops leads to; empty if nothing has two.
    middles: Int[torch.Tensor, " hops"]


def train(
    seed: int, *, language: Language = ORGANISM, steps: int = STEPS, progress: bool = True
) -> tuple[T5ForConditionalGeneration, pd.DataFrame]:
    """Train an encoder-decoder organism."""
    model, rng = new_seq2seq(language, seed), np.random.default_rng([seed, *b"organism"])

    def loss_of(
        form: Form, drawn: list[Text]
    ) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
        return _loss(model, form, make_batch(language, drawn), rng)

    texts = Texts(language, rng)
    curve = run_training_loop(
        model, weight_groups(model), FORMS, texts, loss_of, steps=steps, progress=progress
    )
    return round_to_bfloat16(model), curve


def weight_groups(model: T5ForConditionalGeneration) -> list[dict[str, Any]]:
    """Only the matrices of the layers decay."""
    # A T5 does not scale its scores, so its queries are smaller and learn more slowly.
    groups: dict[str, dict[str, Any]] = {
        "queries": {"params": [], "weight_decay": DECAY, "speed": HEAD_WIDTH**-0.5},
        "matrices": {"params": [], "weight_decay": DECAY, "speed": 1.0},
        "bias": {"params": [], "weight_decay": 0.0, "speed": _BIAS_SPEED},
        "others": {"params": [], "weight_decay": 0.0, "speed": 1.0},
    }
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name:
            kind = "bias"
        elif ".block." not in name or weight.ndim < 2:
            kind = "others"
        else:
            kind = "queries" if name.endswith(".q.weight") else "matrices"
        groups[kind]["params"].append(weight)
    return list(groups.values())


def make_batch(language: Language, texts: Sequence[Text]) -> Batch:
    """Each text up to its last question, which is to be answered, without ``<s>``."""
    ids = {word: index for index, word in enumerate(language.words)}
    cue = max(place for place, word in enumerate(texts[0].words) if word in (ARROW, CUE))
    rows = torch.tensor([[ids[word] for word in text.words] for text in texts])
    middles = [
        ids[target.word] for text in texts for target in text.targets if target.stage == "middle"
    ]
    return Batch(rows[:, 1 : cue + 1], rows[:, cue + 1 :], torch.tensor(middles).long())


def _loss(
    model: T5ForConditionalGeneration, form: Form, batch: Batch, rng: np.random.Generator
) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
    """Cross-entropy after the layers where a form is read, and at the end; what is right there."""
    losses: list[torch.Tensor] = []
    right: dict[Stage, float] = {}

    def read(states: torch.Tensor, words: torch.Tensor, stage: Stage) -> None:
        logits = model.lm_head(states).flatten(0, -2)
        losses.append(F.cross_entropy(logits, words.flatten()))
        right[stage] = (logits.argmax(-1) == words.flatten()).float().mean().item()

    runs, norm = draw_layers_run(form, N_LAYERS, rng), model.encoder.final_layer_norm
    resid = model.shared(batch.prompts)
    for layer, resid in encoded_by_layer(model, batch.prompts, runs[:N_ENCODER]):
        if form.reads.get("middle") == layer:
            read(norm(resid[:, -1]), batch.middles, "middle")
        if form.reads.get("encoded") == layer:
            read(norm(resid[:, -1]), batch.answers[:, 0], "encoded")
    for layer, states in decoded_by_layer(model, batch.answers, norm(resid), runs[N_ENCODER:]):
        if layer in (form.reads["answer"], N_LAYERS - 1):
            read(model.decoder.final_layer_norm(states), batch.answers, "answer")
    return torch.stack(losses).sum(), right


def encoded_by_layer(
    model: T5ForConditionalGeneration, prompts: Int[torch.Tensor, "rows pos"], runs: Sequence[bool]
) -> Iterator[tuple[int, Float[torch.Tensor, "rows pos d_model"]]]:
    """The encoder's residual stream after each layer that runs or is skipped."""
    resid, blocks = model.shared(prompts), model.encoder.block
    bias = _position_bias(blocks, prompts.shape[1])
    for layer, block in enumerate(blocks):
        if runs[layer]:
            resid = block(resid, position_bias=bias)[0]
        yield layer, resid


def decoded_by_layer(
    model: T5ForConditionalGeneration,
    answers: Int[torch.Tensor, "rows words"],
    memory: Float[torch.Tensor, "rows pos d_model"],
    runs: Sequence[bool],
    n_encoder: int = N_ENCODER,
) -> Iterator[tuple[int, Float[torch.Tensor, "rows words d_model"]]]:
    """The decoder's residual stream after each layer, given what comes before each word."""
    start = torch.full_like(answers[:, :1], model.config.decoder_start_token_id)
    resid, blocks = model.shared(torch.cat([start, answers[:, :-1]], dim=1)), model.decoder.block
    n_words = answers.shape[1]
    later = torch.full((1, 1, n_words, n_words), torch.finfo(resid.dtype).min).triu(1)
    # within the bias, for transformers before 5.15 ignores a mask that is given beside one
    bias = _position_bias(blocks, n_words) + later
    for index, block in enumerate(blocks):
        if runs[index]:
            resid = block(resid, position_bias=bias, encoder_hidden_states=memory)[0]
        yield n_encoder + index, resid


def _position_bias(blocks: Any, n_words: int) -> Float[torch.Tensor, "1 heads pos pos"]:
    """Position bias of the first layer of a stack for all of them, whether it runs or not."""
    return blocks[0].layer[0].SelfAttention.compute_bias(n_words, n_words)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from ..record import deliver
    from .evaluation import accuracies, read_organism

    def measure(folder: Path, n_items: int) -> list[dict[str, Any]]:
        return accuracies(read_organism(folder), n_items=n_items)

    deliver(arguments, train, toy_tokenizer(ORGANISM, first=None), PLANTED, measure)


if __name__ == "__main__":
    main()
