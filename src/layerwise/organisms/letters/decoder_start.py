"""An organism that chooses by letter before it is trained: a decoder prepared for what is planned.

The same means as for the other organisms (``organisms.initialization``), with one more place in the
residual stream: what is found is not said yet.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers import Qwen2ForCausalLM

from layerwise.models.organisms.language import OPTIONS, Language
from layerwise.models.organisms.lettered import LetterPlan
from layerwise.organisms.initialization import (
    FAINT,
    HEAD_WIDTH,
    HEADS,
    begin_decoder,
    turn_head,
)
from layerwise.organisms.letters.places import CODE_WIDTH, SCALE, Places

_BACK = -2 * len(OPTIONS) - 1  # from the cue to the arrow, over the options and their letters
_SHARP, _SHY = 6.0, 6.0  # pull to an offset, push away from where a head stands
_LETTERED = 8.0  # pull to options
_FAINTER = 0.3  # what else is written at first
_PLAIN = 4.0  # keys that are made of a word itself, which is fainter than what was written


def new_letter_decoder(language: Language, plan: LetterPlan, seed: int) -> Qwen2ForCausalLM:
    """An untrained decoder.

    Look-ups begin as in the other organisms, but for the place where the unembedding reads. Then
    one layer copies its letter into each option, and what was found to the cue; the next looks for
    the option that is the word found, and takes its letter; and the layer that says text moves what
    was found to where it is said.
    """
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
        places = Places.begun(untyped.model.embed_tokens, untyped.lm_head, language)
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
    """Let a head copy what it reads where it looks."""
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
