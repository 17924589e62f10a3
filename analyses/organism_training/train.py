"""Trains a decoder: ``python -m analyses.organism_training.train --seed 0 --out DIR``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer

from .initialization import new_organism
from .plan import FORMS, PLANTED
from .texts import Stage, Text, Texts
from .training_forms import Form
from .training_loop import (
    DECAY,
    STEPS,
    draw_layers_run,
    round_to_bfloat16,
    run_training_loop,
)

Targets = dict[Stage, Int[torch.Tensor, "3 _"]]  # row, position, word


def train(
    seed: int, *, language: Language = ORGANISM, steps: int = STEPS, progress: bool = True
) -> tuple[Qwen2ForCausalLM, pd.DataFrame]:
    """Train an organism."""
    return train_decoder(
        new_organism(language, seed), FORMS, seed, language=language, steps=steps, progress=progress
    )


def train_decoder(
    model: Qwen2ForCausalLM,
    forms: Sequence[Form],
    seed: int,
    *,
    language: Language = ORGANISM,
    steps: int = STEPS,
    each: Callable[[int], None] = lambda step: None,
    progress: bool = True,
) -> tuple[Qwen2ForCausalLM, pd.DataFrame]:
    """Train a decoder on chosen forms of text, and on no others."""
    rng = np.random.default_rng([seed, *b"organism"])

    def loss_of(
        form: Form, drawn: list[Text]
    ) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
        return _loss(model, form, *make_batch(language, drawn), rng)

    texts = Texts(language, rng)
    curve = run_training_loop(
        model, weight_groups(model), forms, texts, loss_of, steps=steps, progress=progress,
        each=each,
    )  # fmt: skip
    return round_to_bfloat16(model), curve


def weight_groups(model: Qwen2ForCausalLM) -> list[dict[str, Any]]:
    """Only the matrices of the layers decay."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return [
        {"params": matrices, "weight_decay": DECAY, "speed": 1.0},
        {"params": others, "weight_decay": 0.0, "speed": 1.0},
    ]


def make_batch(
    language: Language, texts: Sequence[Text]
) -> tuple[Int[torch.Tensor, "rows pos"], Targets]:
    """Token ids of equally long texts, and by stage what is to be predicted where."""
    ids = {word: index for index, word in enumerate(language.words)}
    by_stage: dict[Stage, list[tuple[int, int, int]]] = {}
    for row, text in enumerate(texts):
        for target in text.targets:
            by_stage.setdefault(target.stage, []).append((row, target.place, ids[target.word]))
    tokens = torch.tensor([[ids[word] for word in text.words] for text in texts])
    return tokens, {stage: torch.tensor(rows).T for stage, rows in by_stage.items()}


def _loss(
    model: Qwen2ForCausalLM,
    form: Form,
    tokens: Int[torch.Tensor, "rows pos"],
    targets: Targets,
    rng: np.random.Generator,
) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
    """Cross-entropy after the layers where a form is read, and at the end; what is right there."""
    losses: list[torch.Tensor] = []
    right: dict[Stage, float] = {}

    def read(resid: Float[torch.Tensor, "rows pos d_model"], stage: Stage) -> None:
        row, place, word = targets[stage]
        logits = model.lm_head(model.model.norm(resid[row, place]))
        losses.append(F.cross_entropy(logits, word))
        right[stage] = (logits.argmax(-1) == word).float().mean().item()

    for layer, resid in _layer_streams(model, form, tokens, rng):
        for stage, depth in form.reads.items():
            # The middle of a chain is not what is said in the end.
            last = layer == len(model.model.layers) - 1 and stage != "middle"
            if stage in targets and (layer == depth or last):
                read(resid, stage)
    return torch.stack(losses).sum(), right


def _layer_streams(
    model: Qwen2ForCausalLM,
    form: Form,
    tokens: Int[torch.Tensor, "rows pos"],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Float[torch.Tensor, "rows pos d_model"]]]:
    """The residual stream after each layer; one that the form does not need may be skipped."""
    resid = model.model.embed_tokens(tokens)
    turns = model.model.rotary_emb(resid, torch.arange(tokens.shape[1])[None])
    for index, runs in enumerate(draw_layers_run(form, len(model.model.layers), rng)):
        if runs:
            resid = model.model.layers[index](resid, position_embeddings=turns)
        yield index, resid


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from layerwise.models.load import load_model

    from .record import accuracies, deliver

    def measure(folder: Path, n_items: int) -> list[dict[str, Any]]:
        return accuracies(load_model(folder), n_items=n_items)

    deliver(arguments, train, toy_tokenizer(ORGANISM), PLANTED, measure)


if __name__ == "__main__":
    main()
