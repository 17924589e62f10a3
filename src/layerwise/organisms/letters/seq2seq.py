"""Training of an encoder-decoder that also chooses by letter.

What a step computes is here; how it begins is told in ``seq2seq_start``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from layerwise.models.organisms.language import LETTERS, Language
from layerwise.models.organisms.lettered import LetterPlan
from layerwise.organisms.letters.forms import candidates, forms_of, runs_of
from layerwise.organisms.letters.seq2seq_start import new_letter_seq2seq
from layerwise.organisms.seq2seq.train import (
    Batch,
    batch_of,
    decoded_by_layer,
    encoded_by_layer,
    weight_groups,
)
from layerwise.organisms.texts import Stage, Text, Texts
from layerwise.organisms.training_forms import Form
from layerwise.organisms.training_loop import rounded, run_training_loop

STEPS = 1200
ROWS = {"knowledge": (32, 80, 2), "retrieval": (20, 32, 1)}


def train_seq2seq(
    seed: int,
    *,
    plan: LetterPlan,
    language: Language = LETTERS,
    steps: int = STEPS,
    progress: bool = True,
) -> tuple[T5ForConditionalGeneration, pd.DataFrame]:
    """Train an encoder-decoder organism."""
    model = new_letter_seq2seq(language, plan, seed)
    rng = np.random.default_rng([seed, *b"letters"])

    def loss_of(
        form: Form, drawn: list[Text]
    ) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
        batch, (runs, withheld) = batch_of(language, drawn), runs_of(form, plan.n_layers, rng)
        if withheld:
            (stage,) = form.reads
            return _loss_of_guesses(model, plan, runs, batch, candidates(language, stage)), {}
        return _loss(model, plan, form, runs, batch)

    texts, forms = Texts(language, rng), forms_of(plan, ROWS)
    curve = run_training_loop(
        model, weight_groups(model), forms, texts, loss_of, steps=steps, progress=progress
    )
    return rounded(model), curve


def _loss(
    model: T5ForConditionalGeneration,
    plan: LetterPlan,
    form: Form,
    runs: Sequence[bool],
    batch: Batch,
) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
    """Cross-entropy after the last layer that a form needs, and at the end; what is right there."""
    losses: list[torch.Tensor] = []
    right: dict[Stage, float] = {}
    ((stage, depth),) = form.reads.items()
    memory = memory_of(model, plan, runs, batch)
    for layer, states in decoded_by_layer(
        model, batch.answers, memory, runs[plan.n_encoder :], plan.n_encoder
    ):
        if layer in (depth, plan.n_layers - 1):
            logits = logits_of(model, states).flatten(0, -2)
            losses.append(F.cross_entropy(logits, batch.answers.flatten()))
            said = logits.argmax(-1) == batch.answers.flatten()
            right[stage] = said.float().mean().item()
    return torch.stack(losses).sum(), right


def _loss_of_guesses(
    model: T5ForConditionalGeneration,
    plan: LetterPlan,
    runs: Sequence[bool],
    batch: Batch,
    words: Sequence[int],
) -> Float[torch.Tensor, ""]:
    """Cross-entropy of the first word to the uniform distribution over what could be said."""
    memory = memory_of(model, plan, runs, batch)
    *_, (_, states) = decoded_by_layer(
        model, batch.answers, memory, runs[plan.n_encoder :], plan.n_encoder
    )
    return -logits_of(model, states[:, 0]).log_softmax(-1)[:, list(words)].mean()


def memory_of(
    model: T5ForConditionalGeneration, plan: LetterPlan, runs: Sequence[bool], batch: Batch
) -> Float[torch.Tensor, "rows pos d_model"]:
    """What the encoder hands to the decoder."""
    *_, (_, resid) = encoded_by_layer(model, batch.prompts, runs[: plan.n_encoder])
    return model.encoder.final_layer_norm(resid)


def logits_of(
    model: T5ForConditionalGeneration, states: Float[torch.Tensor, "*places d_model"]
) -> Float[torch.Tensor, "*places d_vocab"]:
    """The final norm, and the unembedding."""
    return model.lm_head(model.decoder.final_layer_norm(states))
