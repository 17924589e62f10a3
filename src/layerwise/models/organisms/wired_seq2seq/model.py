"""The wired encoder-decoder: weights written by hand, so that every answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from layerwise.models.instance.facts import Origin, attach_origin, model_facts
from layerwise.models.organisms import _wiring as wiring
from layerwise.models.organisms.language import START, WIRED, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.seq2seq.parts import (
    MlpParts,
    Seq2SeqAttentionParts,
    Seq2SeqBlockParts,
    Seq2SeqParts,
    StackParts,
)

from .layout import WiredSeq2SeqLayout

REST = wiring.SHARP / 2
"""Score of ``<s>``, where a head looks that finds no match: it has nothing to be copied."""


def _features(language: Language, n_ctx: int) -> dict[str, int]:
    """The features of the residual stream, and their sizes."""
    n_keys, n_values = language.n_keys, language.n_values
    return {
        "word": len(language.words),  # the word at this position, by token id
        "place": n_ctx,  # the position
        "before": n_keys,  # the word before, if it is a key
        "found": n_keys + n_values,  # the key or value that the first look-up found
        "found_next": n_values,  # the value that the second look-up found
        # The relation and the entity that are asked about.
        "subject": language.n_relations + language.n_entities,
        "known": n_values,  # the value of the fact that is asked about
        "begun": 1,  # whether this is where the answer begins
        "copied": n_values,  # the value that was copied from the encoder
        "answer": n_values,  # the value to be said
    }


def _d_head(spaces: wiring.Spaces) -> int:
    """The width that the widest head needs: one row for what it rests on, too."""
    return 1 + max(len(spaces[feature]) for feature in ("place", "found", "subject"))


def _mechanisms(
    layout: WiredSeq2SeqLayout, language: Language, spaces: wiring.Spaces
) -> tuple[list[wiring.Head], list[wiring.Gates]]:
    """Planted weights: look-ups and facts in the encoder, what copies and says in the decoder."""
    place, keys = spaces["place"], wiring.words(spaces, language, language.keys)
    before = wiring.earlier_place(spaces, 1, clamped=True)
    heads = [
        wiring.Head(layout.previous, place, before, keys, spaces["before"]),
        *wiring.look_ups(layout, language, spaces, wiring.after_key(spaces, language)),
        wiring.Head(layout.begin, place, place, wiring.start(spaces, language), spaces["begun"]),
    ]
    gates = [wiring.Gates(layout.say, 2 * spaces["copied"], spaces["answer"])]
    if language.facts:
        head, known = wiring.facts(layout, language, spaces, spaces["known"], clamped=True)
        heads.append(head)
        gates.append(known)
    # The later, the higher the score: so the last token that is no padding is looked at.
    late = (np.arange(len(place)) @ place)[None]
    values = spaces["found"][language.n_keys :] + spaces["found_next"] + spaces["known"]
    return [
        *heads,
        wiring.Head(layout.copy, spaces["begun"], late, values, spaces["copied"]),
    ], gates


@torch.no_grad()
def _write(
    weights: Any,
    layout: WiredSeq2SeqLayout,
    language: Language,
    spaces: wiring.Spaces,
    rng: np.random.Generator,
) -> None:
    """Give every parameter its value: mechanisms where they are planted, nothing elsewhere."""
    reading = ("q.weight", "k.weight", "v.weight", "up.weight")
    for name, parameter in weights.named_parameters():
        shape = tuple(parameter.shape)
        parameter.copy_(wiring.read_at_random(shape, shape[-1], rng, reads=name.endswith(reading)))
    weights.words.weight.copy_(torch.from_numpy(spaces["word"]))
    weights.places.weight.copy_(torch.from_numpy(spaces["place"]))
    logits, bias = wiring.unembed_weights(language, spaces, rng)
    weights.lm_head.weight.copy_(logits)
    weights.final_logits_bias.copy_(bias)
    heads, gates = _mechanisms(layout, language, spaces)
    blocks: Any = [*weights.encoder, *weights.decoder]
    for head in heads:
        block = blocks[head.spot.layer]
        attn = block.cross_attn if head.spot == layout.copy else block.attn
        # Without a match it rests on ``<s>``.
        _put_head(
            attn, head._replace(key=np.concatenate([head.key, wiring.start(spaces, language)]))
        )
    for layer, both, out in gates:
        up, down, n_gates = blocks[layer].up, blocks[layer].down, len(both)
        up.weight[:n_gates] = torch.from_numpy(both).float()
        up.bias[:n_gates] = -1.5
        down.weight[:, :n_gates] = torch.from_numpy(2 * out.T).float()


def _put_head(attn: Any, head: wiring.Head) -> None:
    d_head = attn.q.out_features // attn.n_heads
    first = head.spot.head * d_head
    for linear, rows in (
        (attn.q, wiring.SHARP * head.query),
        (attn.k, head.key),
        (attn.v, head.value),
    ):
        linear.weight[first : first + d_head] = 0
        linear.weight[first : first + len(rows)] = torch.from_numpy(rows).float()
    attn.q.bias[first + len(head.key) - 1] = REST
    attn.out.weight[:, first : first + len(head.out)] = torch.from_numpy(head.out.T).float()


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
    spaces = wiring.subspaces(_features(language, n_ctx), rng)
    with torch.device("meta"):  # where torch draws no numbers from its global generator
        weights = WiredSeq2Seq(layout, language, spaces)
    _write(weights.to_empty(device="cpu"), layout, language, spaces, rng)
    tokenizer, prefix = toy_tokenizer(language), (language.words.index(START),)
    model = Seq2SeqModel(weights, weights.parts(), prefix=prefix, name=NAME, tokenizer=tokenizer)
    attach_origin(model, Origin(model_facts(model), tokenizer))
    return model


class WiredSeq2Seq(nn.Module):
    """Owner of the weights of a wired encoder-decoder; both stacks share their embeddings."""

    final_logits_bias: torch.Tensor

    def __init__(
        self, layout: WiredSeq2SeqLayout, language: Language, spaces: wiring.Spaces
    ) -> None:
        super().__init__()
        n_words, (n_ctx, d_model) = len(language.words), spaces["place"].shape
        d_mlp = max(len(language.facts), language.n_values)
        self.words, self.places = nn.Embedding(n_words, d_model), nn.Embedding(n_ctx, d_model)
        self.encoder, self.decoder = (
            nn.ModuleList(
                _Block(d_model, n_heads, _d_head(spaces), d_mlp, crosses=crosses)
                for _ in range(n_layers)
            )
            for n_layers, n_heads, crosses in (
                (layout.n_encoder_layers, layout.encoder_heads, False),
                (layout.n_decoder_layers, layout.decoder_heads, True),
            )
        )
        self.lm_head = nn.Linear(d_model, n_words, bias=False)
        self.register_buffer("final_logits_bias", torch.empty(n_words))

    def parts(self) -> Seq2SeqParts:
        """Parts that use the weights."""
        return Seq2SeqParts(
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

    def parts(self) -> Seq2SeqBlockParts:
        cross = self.cross_attn
        return Seq2SeqBlockParts(
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

    def parts(self) -> Seq2SeqAttentionParts:
        return Seq2SeqAttentionParts(self.q, self.k, self.v, self.out, self.n_heads, scale=1.0)
