"""The wired encoder-decoder: weights written by hand, so that every answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from layerwise.models.instance.facts import Origin, attach_origin, model_facts
from layerwise.models.organisms.language import START, WIRED, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.seq2seq.parts import AttentionParts, BlockParts, MlpParts, Parts, StackParts

from ._subspaces import Subspaces
from ._wiring import write_weights
from .layout import WiredSeq2SeqLayout

NAME = "wired-seq2seq"


def wired_seq2seq_model(
    layout: WiredSeq2SeqLayout | None = None,
    language: Language = WIRED,
    *,
    seed: int = 0,
    n_ctx: int = 64,
) -> Seq2SeqModel:
    """An encoder-decoder that looks up, knows facts and takes two steps, all in planted places.

    Made as ``wired_model`` is: one-hot subspaces in a random rotation, sharp heads, relu neurons
    as gates, no norms. The encoder finds the answer at the end of the prompt; where the decoder
    has said nothing yet, cross-attention copies it. Where the model doesn't know, it says the end
    of an answer, and ranks the values by a fixed order of its own.
    """
    layout = WiredSeq2SeqLayout() if layout is None else layout
    rng = np.random.default_rng([seed, *b"wired-seq2seq"])
    spaces = Subspaces.drawn(language, n_ctx, rng)
    weights = _unwritten(layout, language, spaces)
    write_weights(weights, layout, language, spaces, rng)
    tokenizer, prefix = toy_tokenizer(language), (language.words.index(START),)
    model = Seq2SeqModel(weights, weights.parts(), prefix=prefix, name=NAME, tokenizer=tokenizer)
    attach_origin(model, Origin(model_facts(model), tokenizer))
    return model


def _unwritten(layout: WiredSeq2SeqLayout, language: Language, spaces: Subspaces) -> WiredSeq2Seq:
    # Without memory, torch draws no numbers from its global generator.
    with torch.device("meta"):
        return WiredSeq2Seq(layout, language, spaces).to_empty(device="cpu")


class WiredSeq2Seq(nn.Module):
    """What owns the weights of a wired encoder-decoder; both stacks share their embeddings."""

    final_logits_bias: torch.Tensor

    def __init__(self, layout: WiredSeq2SeqLayout, language: Language, spaces: Subspaces) -> None:
        super().__init__()
        n_words, (n_ctx, d_model) = len(language.words), spaces.place.shape
        d_mlp = max(len(language.facts), language.n_values)
        self.words, self.places = nn.Embedding(n_words, d_model), nn.Embedding(n_ctx, d_model)
        self.encoder, self.decoder = (
            nn.ModuleList(
                _Block(d_model, n_heads, spaces.d_head, d_mlp, crosses=crosses)
                for _ in range(n_layers)
            )
            for n_layers, n_heads, crosses in (
                (layout.n_encoder_layers, layout.encoder_heads, False),
                (layout.n_decoder_layers, layout.decoder_heads, True),
            )
        )
        self.lm_head = nn.Linear(d_model, n_words, bias=False)
        self.register_buffer("final_logits_bias", torch.empty(n_words))

    def parts(self) -> Parts:
        """How the weights are used."""
        return Parts(
            encoder=self._stack(self.encoder),
            decoder=self._stack(self.decoder),
            unembed=self.lm_head,
            unembed_bias=lambda: self.final_logits_bias,
            unembed_scale=1.0,
            embedding=self.words,
            n_ctx=self.places.num_embeddings,
        )

    def _stack(self, blocks: Any) -> StackParts:
        return StackParts(
            blocks=tuple(block.parts() for block in blocks),
            embed=lambda tokens, positions: self.words(tokens) + self.places(positions),
            final_norm=nn.Identity(),
            post_norm=False,
            relative=None,
        )


class _Block(nn.Module):
    def __init__(
        self, d_model: int, n_heads: int, d_head: int, d_mlp: int, *, crosses: bool
    ) -> None:
        super().__init__()
        self.attn = _Attention(d_model, n_heads, d_head)
        self.cross_attn = _Attention(d_model, n_heads, d_head) if crosses else None
        self.up, self.down = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model, bias=False)

    def parts(self) -> BlockParts:
        cross = self.cross_attn
        return BlockParts(
            attn=self.attn.parts(),
            attn_norm=nn.Identity(),
            mlp=MlpParts(self.up, self.down, torch.relu),
            mlp_norm=nn.Identity(),
            cross_attn=None if cross is None else cross.parts(),
            cross_norm=None if cross is None else nn.Identity(),
        )


class _Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_head: int) -> None:
        super().__init__()
        self.n_heads, width = n_heads, n_heads * d_head
        self.q = nn.Linear(d_model, width)
        self.k, self.v = (nn.Linear(d_model, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, d_model, bias=False)

    def parts(self) -> AttentionParts:
        return AttentionParts(self.q, self.k, self.v, self.out, self.n_heads, scale=1.0)
