"""Training of an encoder-decoder that also chooses by letter.

How it begins, prepared for what is planned, and what a step computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from layerwise.models.organisms.language import ARROW, CUE, LETTERS, PAD, Language

from ..initialization import FAINT, HEAD_WIDTH, HEADS
from ..seq2seq.initialization import AHEAD, begin_seq2seq, shared_position_bias
from ..seq2seq.train import Batch, decoded_by_layer, encoded_by_layer, make_batch, weight_groups
from ..texts import Stage, Text, Texts
from ..training_forms import Form
from ..training_loop import round_to_bfloat16, run_training_loop
from .forms import candidates, draw_runs, plan_forms
from .places import CODE_WIDTH, SCALE, Places
from .plan import LetterPlan

STEPS = 1200
ROWS = {"knowledge": (32, 80, 2), "retrieval": (20, 32, 1)}
_SHARP, _SHY, _NEAR = 6.0, 6.0, 4.0  # pull to a neighbour, away from itself, more weakly
_LOOKED_AT = {0: 1, 1: 3}


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
        batch, (runs, withheld) = make_batch(language, drawn), draw_runs(form, plan.n_layers, rng)
        if withheld:
            (stage,) = form.reads
            return _loss_of_guesses(model, plan, runs, batch, candidates(language, stage)), {}
        return _loss(model, plan, form, runs, batch)

    texts, forms = Texts(language, rng), plan_forms(plan, ROWS)
    curve = run_training_loop(
        model, weight_groups(model), forms, texts, loss_of, steps=steps, progress=progress
    )
    return round_to_bfloat16(model), curve


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
    memory = encoder_output(model, plan, runs, batch)
    for layer, states in decoded_by_layer(
        model, batch.answers, memory, runs[plan.n_encoder :], plan.n_encoder
    ):
        if layer in (depth, plan.n_layers - 1):
            logits = final_logits(model, states).flatten(0, -2)
            losses.append(F.cross_entropy(logits, batch.answers.flatten()))
            is_right = logits.argmax(-1) == batch.answers.flatten()
            right[stage] = is_right.float().mean().item()
    return torch.stack(losses).sum(), right


def _loss_of_guesses(
    model: T5ForConditionalGeneration,
    plan: LetterPlan,
    runs: Sequence[bool],
    batch: Batch,
    words: Sequence[int],
) -> Float[torch.Tensor, ""]:
    """Cross-entropy of the first word to the uniform distribution over what could be said."""
    memory = encoder_output(model, plan, runs, batch)
    *_, (_, states) = decoded_by_layer(
        model, batch.answers, memory, runs[plan.n_encoder :], plan.n_encoder
    )
    return -final_logits(model, states[:, 0]).log_softmax(-1)[:, list(words)].mean()


def encoder_output(
    model: T5ForConditionalGeneration, plan: LetterPlan, runs: Sequence[bool], batch: Batch
) -> Float[torch.Tensor, "rows pos d_model"]:
    """Output that the encoder hands to the decoder."""
    *_, (_, resid) = encoded_by_layer(model, batch.prompts, runs[: plan.n_encoder])
    return model.encoder.final_layer_norm(resid)


def final_logits(
    model: T5ForConditionalGeneration, states: Float[torch.Tensor, "*places d_model"]
) -> Float[torch.Tensor, "*places d_vocab"]:
    """The final norm, and the unembedding."""
    return model.lm_head(model.decoder.final_layer_norm(states))


"""By head, the bucket of the relative position bias: the word before, the third before."""
_MATCHING, _BRINGING = (2, 3), 3
_OVER_OPTIONS = 8  # the bucket of eight to eleven words before, the arrow seen from the cue
_QUIET = 0.1  # queries and keys of heads that are told where to look
_FAINTER = 0.3  # what else is written at first
_LESS = 0.5  # of the arrow than of the cue, where there are both
_PULL, _LETTERED, _PLAIN = 2.0, 0.3, 4.0  # to arrows, to options, of keys made of plain words


def new_letter_seq2seq(
    language: Language, plan: LetterPlan, seed: int
) -> T5ForConditionalGeneration:
    """An untrained encoder-decoder."""
    # In the encoder look-ups and options begin as in the decoder; the layer that says the text
    # copies what was found into the decoder, the one that says letters what was chosen.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = begin_seq2seq(language, plan.n_encoder, plan.n_layers - plan.n_encoder)
        untyped: Any = model
        _initialise_attention(untyped, plan)
        layers = [block.layer[0].SelfAttention for block in untyped.encoder.block]
        places = Places.initialise(untyped.shared, untyped.lm_head, language)
        copies, matches = plan.fetches["retrieval"]
        _carry(layers[copies], 0, places.code, places.copied)
        copied = places.copied.T
        _match(layers[matches], copied, copied, places.code, places.found)
        begin, cue, arrow = (
            nn.functional.normalize(untyped.shared.weight[language.words.index(word)], dim=0)
            for word in (PAD, CUE, ARROW)
        )
        chosen = places.found if plan.says_letter == plan.says_text else places.said
        _prepare_options(layers, plan, places, cue, arrow, chosen)
        for layer, place in {plan.says_letter: chosen, plan.says_text: places.found}.items():
            fetch = untyped.decoder.block[layer - plan.n_encoder].layer[1].EncDecAttention
            _say(fetch, place, begin, cue + _LESS * arrow, places)
    return model


def _initialise_attention(model: Any, plan: LetterPlan) -> None:
    bias = shared_position_bias(model.encoder)
    bias.zero_()
    bias[0, list(_MATCHING)] = -_SHY
    bias[_OVER_OPTIONS, _BRINGING] = _NEAR
    bias[AHEAD + 1, _MATCHING[0]] = _NEAR
    for head, bucket in _LOOKED_AT.items():
        bias[bucket, head] = _SHARP
    shared_position_bias(model.decoder).normal_(std=FAINT)
    # Facts are learned from a random start alone, which is to be as loud as elsewhere.
    (learns,) = plan.fetches["knowledge"]
    others = (*model.encoder.block[:learns], *model.encoder.block[learns + 1 :])
    for block in (*others, *model.decoder.block):
        for part in block.layer[:-1]:
            attention = getattr(part, "EncDecAttention", None) or part.SelfAttention
            attention.o.weight.mul_(_FAINTER)
        block.layer[-1].DenseReluDense.wo.weight.mul_(_FAINTER)
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        for linear in (attention.q, attention.k):
            linear.weight[: len(_LOOKED_AT) * HEAD_WIDTH].mul_(_QUIET)


def _prepare_options(
    layers: list[Any],
    plan: LetterPlan,
    places: Places,
    cue: Float[torch.Tensor, " d_model"],
    arrow: Float[torch.Tensor, " d_model"],
    out: Float[torch.Tensor, "d_model n_code"],
) -> None:
    binds, chooses = plan.binds
    _carry(layers[binds], 0, places.code, places.copied)
    _carry(layers[binds], _BRINGING, places.found.T / SCALE, places.wanted)
    letters = places.copied.T / SCALE
    _match(layers[chooses], places.wanted.T, _PLAIN * places.code, letters, out)
    _attract(layers[binds], _BRINGING, _PULL * cue, arrow)
    for head in _MATCHING:
        _attract(layers[chooses], head, _LETTERED * cue, places.lettered)


def _say(
    fetch: Any,
    place: Float[torch.Tensor, "d_model n_code"],
    looks: Float[torch.Tensor, " d_model"],
    seen: Float[torch.Tensor, " d_model"],
    places: Places,
) -> None:
    for linear in (fetch.q, fetch.k):
        linear.weight.mul_(_QUIET)
    for head in range(HEADS):
        _carry(fetch, head, place.T / SCALE, places.said)
        _attract(fetch, head, _PULL * looks, seen)


def _attract(
    attention: Any,
    head: int,
    looks: Float[torch.Tensor, " d_model"],
    seen: Float[torch.Tensor, " d_model"],
) -> None:
    """Let a head look, from where the one direction is, to where the other is."""
    last = (head + 1) * HEAD_WIDTH - 1
    attention.q.weight[last], attention.k.weight[last] = looks, seen


def _carry(
    attention: Any,
    head: int,
    reads: Float[torch.Tensor, "n_code d_model"],
    writes: Float[torch.Tensor, "d_model n_code"],
) -> None:
    """Initialise a head to copy."""
    here = slice(head * HEAD_WIDTH, head * HEAD_WIDTH + CODE_WIDTH)
    attention.v.weight[here] = reads
    attention.o.weight[:, here] = FAINT * writes


def _match(
    attention: Any,
    looked_for: Float[torch.Tensor, "n_code d_model"],
    looked_at: Float[torch.Tensor, "n_code d_model"],
    reads: Float[torch.Tensor, "n_code d_model"],
    writes: Float[torch.Tensor, "d_model n_code"],
) -> None:
    """Let the heads that are free look for a word elsewhere, and copy what they read there."""
    for head in _MATCHING:
        here = slice(head * HEAD_WIDTH, head * HEAD_WIDTH + CODE_WIDTH)
        matched = nn.init.orthogonal_(torch.empty(CODE_WIDTH, CODE_WIDTH))
        attention.q.weight[here] = HEAD_WIDTH**-0.5 * matched @ looked_for
        attention.k.weight[here] = matched @ looked_at
        _carry(attention, head, reads, writes)
