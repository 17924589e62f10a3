"""An organism before it is trained: a small Qwen2 whose start makes look-ups easy to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerwise.models.organisms.language import PAD, START, Language

from .plan import N_LAYERS, PLANTED

WIDTH, HEADS, MLP_WIDTH, LONGEST, ROTARY_BASE = 128, 4, 128, 128, 1_000.0
HEAD_WIDTH = WIDTH // HEADS
FAINT = 0.3  # what is in the residual stream at first, and what is written into it
_SAID, _HEARD = 0.2, 0.03  # the unembedding: its share of copied embeddings, and of noise
_LOOKED_AT = (-1, -2, -3)  # by the first heads
_SHARP, _SHY = 6.0, 6.0  # pull to the previous token, push away from where a head stands
_FREQUENCIES = 6  # the fastest ones tell neighbours apart
_QUIET = 0.1  # queries and keys of heads that look at an offset


def new_organism(language: Language, seed: int) -> Qwen2ForCausalLM:
    """An untrained model, whose look-ups are prepared where its reasoning is planted."""
    return new_decoder(language, seed, N_LAYERS, PLANTED["reasoning"])


def new_decoder(
    language: Language, seed: int, n_layers: int, look_ups: Sequence[int]
) -> Qwen2ForCausalLM:
    """An untrained decoder of which chosen layers are prepared for look-ups."""
    # The biases of a layer's first heads make them look at the previous tokens. Look-ups are
    # prepared further, in two parts of the residual stream: one layer copies the previous word into
    # the first; the next looks there for what its own previous word was, other than where it
    # stands, and copies the word that it finds into the second, where the unembedding reads it; and
    # further ones look for that word in turn.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = begin_decoder(language, n_layers)
        _prepare_look_ups(model, *look_ups)
    return model


def begin_decoder(language: Language, n_layers: int) -> Qwen2ForCausalLM:
    """A decoder of which the first heads look at the previous tokens, drawn as torch is seeded."""
    config = Qwen2Config(
        vocab_size=len(language.words),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=n_layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=LONGEST,
        rope_parameters={"rope_theta": ROTARY_BASE, "rope_type": "default"},
        tie_word_embeddings=False,
        bos_token_id=language.words.index(START),
        eos_token_id=None,
        pad_token_id=language.words.index(PAD),
    )
    model = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        _begin_layer(layer)
    return model


def _begin_layer(layer: Any) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    for part in (query, key, value, attention.o_proj, mlp.gate_proj, mlp.up_proj):
        part.weight.normal_(std=WIDTH**-0.5)
    key.weight.mul_(0.5).add_(query.weight, alpha=0.7)
    attention.o_proj.weight.mul_(FAINT)
    mlp.down_proj.weight.normal_(std=FAINT * MLP_WIDTH**-0.5)
    for part in (query, key, value):
        part.bias.zero_()
    for head, offset in enumerate(_LOOKED_AT):
        turn_head(attention, head, offset, _SHARP)


class LookUps(NamedTuple):
    """Random vectors that prepare look-ups."""

    # Where the residual stream holds the word that was copied from before.
    copied: Float[torch.Tensor, "d_model d_head"]
    found: Float[torch.Tensor, "d_model d_head"]  # where it holds the word that was found
    value: Float[torch.Tensor, "d_head d_model"]  # makes of a word's embedding what is copied

    @classmethod
    def initialise(cls, embedding: nn.Embedding, unembedding: nn.Linear) -> LookUps:
        """Draw the vectors and initialise embedding and unembedding to match."""
        # The unembedding reads what was found.
        places = nn.init.orthogonal_(torch.empty(WIDTH, 2 * HEAD_WIDTH))
        places = places * (WIDTH / HEAD_WIDTH) ** 0.5
        copied, found = places.split(HEAD_WIDTH, dim=1)
        elsewhere = torch.eye(WIDTH) - places @ places.T * HEAD_WIDTH / WIDTH
        embed = FAINT * torch.randn(embedding.num_embeddings, WIDTH) @ elsewhere
        value = torch.randn(HEAD_WIDTH, WIDTH) @ elsewhere * WIDTH**-0.5
        embedding.weight.copy_(embed)
        unembedding.weight.normal_(std=_HEARD).add_(_SAID * embed @ (found @ value).T)
        return cls(copied, found, value)


def _prepare_look_ups(model: Any, copies: int, *matches: int) -> None:
    copied, found, value = LookUps.initialise(model.model.embed_tokens, model.lm_head)
    first = model.model.layers[copies].self_attn
    first.v_proj.weight[:HEAD_WIDTH] = value
    first.o_proj.weight[:, :HEAD_WIDTH] = FAINT * copied
    for place, index in enumerate(matches):
        looked_for = found if place else copied
        attention = model.model.layers[index].self_attn
        attention.v_proj.weight.copy_(value.repeat(HEADS, 1))
        attention.o_proj.weight.copy_(FAINT * found.repeat(1, HEADS))
        matched = HEAD_WIDTH**-0.5 * torch.randn(WIDTH, HEAD_WIDTH)
        attention.q_proj.weight.copy_(matched @ looked_for.T)
        attention.k_proj.weight.copy_(matched @ copied.T)
        for head in range(HEADS):
            turn_head(attention, head, 0, -_SHY)


def turn_head(attention: Any, head: int, offset: int, strength: float) -> None:
    """Make a head look at an offset from where it stands, or away from it if negative."""
    # Rotary embedding (Su et al. 2021, arXiv:2104.09864, section 3.2) turns queries and keys by
    # their positions. The key is the same everywhere; the query is that key, turned by the offset.
    # Only the fastest frequencies tell neighbours apart.
    here, half = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH), HEAD_WIDTH // 2
    angle = offset * ROTARY_BASE ** (-torch.arange(half) / half)
    length = torch.where(torch.arange(half) < _FREQUENCIES, abs(strength), 0.0)
    turned = torch.cat([length * angle.cos(), length * angle.sin()])
    attention.q_proj.bias[here] = turned if strength > 0 else -turned
    attention.k_proj.bias[here] = torch.cat([length, torch.zeros(half)])
    if strength > 0:
        for part in (attention.q_proj, attention.k_proj):
            part.weight[here].mul_(_QUIET)
