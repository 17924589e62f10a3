"""The wired encoder-decoder: weights written by hand, so that every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from layerwise.models.instance.facts import Origin, attach_origin, model_facts
from layerwise.models.organisms._wiring import LOUD, SHARP, UNSURE, Directions, Subspaces
from layerwise.models.organisms.language import END, START, WIRED, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.seq2seq.parts import AttentionParts, BlockParts, MlpParts, Parts, StackParts

from .layout import WiredSeq2SeqLayout


def subspaces(language: Language, n_ctx: int, rng: np.random.Generator) -> Subspaces:
    """The subspaces of a wired encoder-decoder."""
    n_keys, n_values = language.n_keys, language.n_values
    sizes = {
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
    return Subspaces(sizes, rng)


def _d_head(spaces: Subspaces) -> int:
    """The width that the widest head needs: one row for what it rests on, too."""
    return 1 + max(len(spaces.place), len(spaces.found), len(spaces.subject))


REST = SHARP / 2
"""Score of ``<s>``, where a head looks that finds no match: it has nothing to be copied."""


@torch.no_grad()
def write_weights(
    weights: Any,
    layout: WiredSeq2SeqLayout,
    language: Language,
    spaces: Subspaces,
    rng: np.random.Generator,
) -> None:
    """Give every parameter its value: mechanisms where they are planted, nothing elsewhere."""
    _write_nothing(weights, rng)
    _write_ends(weights, language, spaces, rng)
    write = _Writer(weights, layout, language, spaces)
    write.look_ups()
    if language.facts:
        write.facts()
    write.decoder()


def _write_nothing(weights: nn.Module, rng: np.random.Generator) -> None:
    """Heads and neurons that read at random, and write exactly 0."""
    for name, parameter in weights.named_parameters():
        reads = name.endswith(("q.weight", "k.weight", "v.weight", "up.weight"))
        noise = rng.normal(size=parameter.shape) / parameter.shape[-1] ** 0.5
        parameter.copy_(torch.from_numpy(noise if reads else np.zeros(parameter.shape)))


def _write_ends(
    weights: Any, language: Language, spaces: Subspaces, rng: np.random.Generator
) -> None:
    """Embedding and unembedding; after a value the end follows, without any layer's help."""
    values = [language.words.index(word) for word in language.values]
    end = language.words.index(END)
    weights.words.weight.copy_(torch.from_numpy(spaces.word))
    weights.places.weight.copy_(torch.from_numpy(spaces.place))
    weights.lm_head.weight[values] = torch.from_numpy(LOUD * spaces.answer).float()
    weights.lm_head.weight[end] = torch.from_numpy(LOUD * spaces.word[values].sum(axis=0)).float()
    order = rng.permutation(len(values)) / len(values)
    weights.final_logits_bias.fill_(-UNSURE)
    weights.final_logits_bias[values] = torch.from_numpy(UNSURE * order).float()
    weights.final_logits_bias[end] = 2 * UNSURE


@dataclass(frozen=True)
class _Writer:
    weights: Any
    layout: WiredSeq2SeqLayout
    language: Language
    spaces: Subspaces

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return _d_head(self.spaces)

    def look_ups(self) -> None:
        """The word before; the word that came after it elsewhere; the word after that."""
        language, spaces = self.language, self.spaces
        keys, values = self._words(language.keys), self._words(language.values)
        self._head("previous", spaces.place, self._back(1), keys, spaces.before)
        others = [w for w in language.words if w not in (*language.keys, *language.values)]
        # A key that is asked for, or ends a pair, stands before a mark; that is not its answer.
        after_key = spaces.before - self._words(others).sum(axis=0)
        known = np.concatenate([keys, values])
        self._head("look_up", spaces.before, after_key, known, spaces.found)
        middle = spaces.found[: language.n_keys]
        self._head("second_hop", middle, after_key, values, spaces.found_next)

    def facts(self) -> None:
        """One head looks at relation and entity, half each; one neuron stands for each fact."""
        language, spaces = self.language, self.spaces
        named = (*language.relations, *language.entities)
        both = self._back(1) + self._back(3)
        self._head("facts", spaces.place, both, self._words(named), 2 * spaces.subject)
        row = dict(zip(named, spaces.subject, strict=True))
        known = dict(zip(language.values, spaces.known, strict=True))
        pairs = [row[relation] + row[entity] for relation, entity in language.facts]
        values = [known[value] for value in language.facts.values()]
        self._gates(self.layout.facts.layer, np.array(pairs), np.array(values))

    def decoder(self) -> None:
        """Where the answer begins; what was found at the end of the prompt; saying it."""
        spaces = self.spaces
        self._head("begin", spaces.place, spaces.place, self._words([START]), spaces.begun)
        # The later, the higher the score: so the last token that is no padding is looked at.
        late = np.arange(len(spaces.place)) @ spaces.place
        values = spaces.found[self.language.n_keys :] + spaces.found_next + spaces.known
        self._head("copy", spaces.begun, late[None], values, spaces.copied)
        self._gates(self.layout.say, 2 * spaces.copied, spaces.answer)

    def _head(
        self,
        mechanism: str,
        query: Directions,
        key: Directions,
        value: Directions,
        out: Directions,
    ) -> None:
        """A head that attends to where its key i meets the query i, and copies value i to out i."""
        # Without a match it rests on ``<s>``.
        spot = getattr(self.layout, mechanism)
        block = self._block(spot.layer)
        attn = block.cross_attn if mechanism == "copy" else block.attn
        key = np.concatenate([key, self._words([START])])
        first = spot.head * self.d_head
        rows = slice(first, first + self.d_head)
        for linear, weights in ((attn.q, SHARP * query), (attn.k, key), (attn.v, value)):
            linear.weight[rows] = 0
            linear.weight[first : first + len(weights)] = torch.from_numpy(weights).float()
        attn.q.bias[first + len(key) - 1] = REST
        attn.out.weight[:, first : first + len(out)] = torch.from_numpy(out.T).float()

    def _gates(self, layer: int, both: Directions, out: Directions) -> None:
        """AND gates: neuron i writes out i where two features, summed in ``both``, are 1."""
        block, n = self._block(layer), len(both)
        block.up.weight[:n] = torch.from_numpy(both).float()
        block.up.bias[:n] = -1.5
        block.down.weight[:, :n] = torch.from_numpy(2 * out.T).float()

    def _block(self, layer: int) -> Any:
        return [*self.weights.encoder, *self.weights.decoder][layer]

    def _back(self, steps: int) -> Directions:
        """For each position the place so many steps before it; the first one if there is none."""
        place = self.spaces.place
        return place[np.maximum(np.arange(len(place)) - steps, 0)]

    def _words(self, words: Sequence[str]) -> Directions:
        return self.spaces.word[[self.language.words.index(word) for word in words]]


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
    spaces = subspaces(language, n_ctx, rng)
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
