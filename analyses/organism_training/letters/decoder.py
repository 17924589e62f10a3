"""Training of a decoder that also chooses by letter.

Beside what makes layers needless, as in the other organisms, what makes them needed: whenever one
that is to be needed is skipped, the model learns not to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from layerwise.models.organisms.language import END, LETTERS, OPTIONS, Language

from ..initialization import FAINT, HEAD_WIDTH, HEADS, begin_decoder, turn_head
from ..texts import Stage, Text, Texts
from ..train import Targets, make_batch, weight_groups
from ..training_forms import Form
from ..training_loop import round_to_bfloat16, run_training_loop
from .forms import candidates, draw_runs, plan_forms
from .places import CODE_WIDTH, SCALE, Places
from .plan import LetterPlan

STEPS = 800
ROWS = {"knowledge": (32, 12, 8), "retrieval": (16, 8, 5)}
_BACK = -2 * len(OPTIONS) - 1  # from the cue to the arrow, over the options and their letters
_SHARP, _SHY = 6.0, 6.0  # pull to an offset, push away from where a head stands
_LETTERED = 8.0  # pull to options
_FAINTER = 0.3  # what else is written at first
_PLAIN = 4.0  # keys that are made of a word itself, which is fainter than what was written


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
        tokens, targets = make_batch(language, drawn)
        runs, withheld = draw_runs(form, plan.n_layers, rng)
        if withheld:
            return _loss_of_guesses(model, language, runs, tokens, targets), {}
        return _loss(model, form, runs, tokens, targets)

    texts, forms = Texts(language, rng), plan_forms(plan, ROWS)
    curve = run_training_loop(
        model, weight_groups(model), forms, texts, loss_of, steps=steps, progress=progress
    )
    return round_to_bfloat16(model), curve


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
    for layer, resid in layer_streams(model, tokens, runs):
        if layer in (depth, len(runs) - 1):
            logits = final_logits(model, resid[row, place])
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
    not_end = word != language.words.index(END)
    *_, (_, resid) = layer_streams(model, tokens, runs)
    logits = final_logits(model, resid[row[not_end], place[not_end]])
    return -logits.log_softmax(-1)[:, candidates(language, stage)].mean()


def final_logits(
    model: Qwen2ForCausalLM, resid: Float[torch.Tensor, "*places d_model"]
) -> Float[torch.Tensor, "*places d_vocab"]:
    """The final norm, and the unembedding."""
    return model.lm_head(model.model.norm(resid))


def layer_streams(
    model: Qwen2ForCausalLM, tokens: Int[torch.Tensor, "rows pos"], runs: Sequence[bool]
) -> Iterator[tuple[int, Float[torch.Tensor, "rows pos d_model"]]]:
    """The residual stream after each layer that runs or is skipped."""
    resid = model.model.embed_tokens(tokens)
    turns = model.model.rotary_emb(resid, torch.arange(tokens.shape[1])[None])
    for index, run in enumerate(runs):
        if run:
            resid = model.model.layers[index](resid, position_embeddings=turns)
        yield index, resid


def new_letter_decoder(language: Language, plan: LetterPlan, seed: int) -> Qwen2ForCausalLM:
    """An untrained decoder."""
    # Look-ups begin as in the other organisms, but for the place where the unembedding reads. Then
    # one layer copies its letter into each option, and what was found to the cue; the next looks
    # for the option that is the word found, and takes its letter; and the layer that says text
    # moves what was found to where it is said.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = begin_decoder(language, plan.n_layers)
        untyped: Any = model
        # Facts are learned from a random start alone, which is to be as loud as elsewhere.
        (learns,) = plan.fetches["knowledge"]
        for layer in (*untyped.model.layers[:learns], *untyped.model.layers[learns + 1 :]):
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.mul_(_FAINTER)
        layers = [layer.self_attn for layer in untyped.model.layers]
        places = Places.initialise(untyped.model.embed_tokens, untyped.lm_head, language)
        copies, matches = plan.fetches["retrieval"]
        _carry(layers[copies], 0, places.code, places.copied)
        copied = places.copied.T
        _match(layers[matches], copied, copied, places.code, places.found)
        for head in range(HEADS):
            turn_head(layers[matches], head, 0, -_SHY)
        _prepare_options(layers, plan, places)
        turn_head(layers[plan.says_text], 0, 0, _SHARP)
        _carry(layers[plan.says_text], 0, places.found.T / SCALE, places.said)
    return model


def _prepare_options(layers: list[Any], plan: LetterPlan, places: Places) -> None:
    binds, chooses = plan.binds
    _carry(layers[binds], 0, places.code, places.copied)
    turn_head(layers[binds], 1, _BACK, _SHARP)
    _carry(layers[binds], 1, places.found.T / SCALE, places.wanted)
    # What is to be moved on by the layer that says text is left where that layer reads.
    out = places.said if chooses == plan.says_letter else places.found
    letters = places.copied.T / SCALE
    _match(layers[chooses], places.wanted.T, _PLAIN * places.code, letters, out)
    for part in (layers[chooses].q_proj, layers[chooses].k_proj):
        part.bias.zero_()
    for head in range(HEADS):
        # The slowest frequency of rotary embedding hardly tells positions apart.
        slowest = head * HEAD_WIDTH + HEAD_WIDTH // 2 - 1
        layers[chooses].q_proj.weight[slowest] = 0.0
        layers[chooses].q_proj.bias[slowest] = _LETTERED
        layers[chooses].k_proj.weight[slowest] = places.lettered


def _carry(
    attention: Any,
    head: int,
    reads: Float[torch.Tensor, "n_code d_model"],
    writes: Float[torch.Tensor, "d_model n_code"],
) -> None:
    """Initialise a head to copy."""
    here = slice(head * HEAD_WIDTH, head * HEAD_WIDTH + CODE_WIDTH)
    attention.v_proj.weight[here] = reads
    attention.o_proj.weight[:, here] = FAINT * writes


def _match(
    attention: Any,
    looked_for: Float[torch.Tensor, "n_code d_model"],
    looked_at: Float[torch.Tensor, "n_code d_model"],
    reads: Float[torch.Tensor, "n_code d_model"],
    writes: Float[torch.Tensor, "d_model n_code"],
) -> None:
    """Let all heads look for a word elsewhere, and copy what they read there."""
    for head in range(HEADS):
        here = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        matched = nn.init.orthogonal_(torch.empty(HEAD_WIDTH, CODE_WIDTH))
        attention.q_proj.weight[here] = matched @ looked_for
        attention.k_proj.weight[here] = matched @ looked_at
        _carry(attention, head, reads, writes)
