"""The weights of a wired encoder-decoder, mechanism by mechanism in a rotated residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from layerwise.models.organisms._wiring import LOUD, SHARP, UNSURE, Directions
from layerwise.models.organisms.forms import END
from layerwise.models.organisms.language import START, Language

from ._subspaces import Subspaces
from .layout import WiredSeq2SeqLayout

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
        first = spot.head * self.spaces.d_head
        rows = slice(first, first + self.spaces.d_head)
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
