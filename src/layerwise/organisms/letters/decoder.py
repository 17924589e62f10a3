"""Training of a decoder that also chooses by letter.

Beside what makes layers needless, as in the other organisms, what makes them needed: whenever one
that is to be needed is skipped, the model learns not to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from layerwise.models.organisms.forms import END
from layerwise.models.organisms.language import LETTERS, Language
from layerwise.models.organisms.lettered import LetterPlan
from layerwise.organisms.letters.decoder_start import new_letter_decoder
from layerwise.organisms.letters.forms import candidates, forms_of, runs_of
from layerwise.organisms.texts import Stage, Text, Texts
from layerwise.organisms.train import Targets, batch_of, weight_groups
from layerwise.organisms.training_forms import Form
from layerwise.organisms.training_loop import rounded, run_training_loop

STEPS = 800
ROWS = {"knowledge": (32, 12, 8), "retrieval": (16, 8, 5)}


def train_decoder(
    seed: int,
    *,
    plan: LetterPlan,
    language: Language = LETTERS,
    steps: int = STEPS,
    progress: bool = True,
) -> tuple[Qwen2ForCausalLM, pd.DataFrame]:
    """Train an organism."""
    model = new_letter_decoder(language, plan, seed)
    rng = np.random.default_rng([seed, *b"letters"])

    def loss_of(
        form: Form, drawn: list[Text]
    ) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
        tokens, targets = batch_of(language, drawn)
        runs, withheld = runs_of(form, plan.n_layers, rng)
        if withheld:
            return _loss_of_guesses(model, language, runs, tokens, targets), {}
        return _loss(model, form, runs, tokens, targets)

    texts, forms = Texts(language, rng), forms_of(plan, ROWS)
    curve = run_training_loop(
        model, weight_groups(model), forms, texts, loss_of, steps=steps, progress=progress
    )
    return rounded(model), curve


def _loss(
    model: Qwen2ForCausalLM,
    form: Form,
    runs: Sequence[bool],
    tokens: Int[torch.Tensor, "rows pos"],
    targets: Targets,
) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
    """Cross-entropy after the last layer that a form needs, and at the end; what is right there."""
    losses: list[torch.Tensor] = []
    right: dict[Stage, float] = {}
    ((stage, depth),) = form.reads.items()
    row, place, word = targets[stage]
    for layer, resid in through(model, tokens, runs):
        if layer in (depth, len(runs) - 1):
            logits = logits_of(model, resid[row, place])
            losses.append(F.cross_entropy(logits, word))
            right[stage] = (logits.argmax(-1) == word).float().mean().item()
    return torch.stack(losses).sum(), right


def _loss_of_guesses(
    model: Qwen2ForCausalLM,
    language: Language,
    runs: Sequence[bool],
    tokens: Int[torch.Tensor, "rows pos"],
    targets: Targets,
) -> Float[torch.Tensor, ""]:
    """Cross-entropy at the end to the uniform distribution over what could be said."""
    ((stage, (row, place, word)),) = targets.items()
    said = word != language.words.index(END)
    *_, (_, resid) = through(model, tokens, runs)
    logits = logits_of(model, resid[row[said], place[said]])
    return -logits.log_softmax(-1)[:, candidates(language, stage)].mean()


def logits_of(
    model: Qwen2ForCausalLM, resid: Float[torch.Tensor, "*places d_model"]
) -> Float[torch.Tensor, "*places d_vocab"]:
    """The final norm, and the unembedding."""
    return model.lm_head(model.model.norm(resid))


def through(
    model: Qwen2ForCausalLM, tokens: Int[torch.Tensor, "rows pos"], runs: Sequence[bool]
) -> Iterator[tuple[int, Float[torch.Tensor, "rows pos d_model"]]]:
    """The residual stream after each layer that runs or is skipped."""
    resid = model.model.embed_tokens(tokens)
    turns = model.model.rotary_emb(resid, torch.arange(tokens.shape[1])[None])
    for index, run in enumerate(runs):
        if run:
            resid = model.model.layers[index](resid, position_embeddings=turns)
        yield index, resid
