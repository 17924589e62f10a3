"""Weights of wired models: heads and gates in a rotated residual stream.

Each mechanism is written down as what it reads and writes; which parameters that becomes is
decided in ``wired`` and ``wired_seq2seq.model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from .language import END, START, Language
from .layout import Spot

Directions = Float[np.ndarray, "_ d_model"]
Spaces = dict[str, Directions]
"""Orthonormal subspaces of the residual stream by feature, such as ``word`` by token id."""

SHARP = 40.0
"""Score of a match before the softmax; what does not match has 0, so it gets exp(-40)."""
LOUD = 12.0
"""Logit of an answer that is known."""
UNSURE = 0.5
"""Without a known answer, logits of the values lie evenly between 0 and this, and that of the
end of an answer above them."""


class Head(NamedTuple):
    """A head that attends to where its key i meets the query i, and copies value i to out i."""

    spot: Spot
    query: Directions
    key: Directions
    value: Directions
    out: Directions


class Gates(NamedTuple):
    """AND gates: neuron i writes out i where both of two features, summed in ``both``, are 1."""

    layer: int
    both: Directions
    out: Directions


def subspaces(sizes: dict[str, int], rng: np.random.Generator) -> Spaces:
    """Subspaces of these sizes in a random basis."""
    n_features = sum(sizes.values())
    basis, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
    parts = np.split(basis, np.cumsum(list(sizes.values()))[:-1])
    return dict(zip(sizes, parts, strict=True))


def words(spaces: Spaces, language: Language, chosen: Sequence[str]) -> Directions:
    """The directions of some words."""
    return spaces["word"][[language.words.index(word) for word in chosen]]


def earlier_place(spaces: Spaces, steps: int, *, clamped: bool = False) -> Directions:
    """For each position the place so many steps before it; where none is, 0 or the first one."""
    place = spaces["place"]
    before = place[np.maximum(np.arange(len(place)) - steps, 0)]
    if not clamped:
        before[:steps] = 0
    return before


def after_key(spaces: Spaces, language: Language) -> Directions:
    """Tokens that come after a key, and not after one that is asked for or ends a pair."""
    # Those stand before a mark; that is not their answer.
    others = [w for w in language.words if w not in (*language.keys, *language.values)]
    return spaces["before"] - words(spaces, language, others).sum(axis=0)


def look_ups(layout: Any, language: Language, spaces: Spaces, key: Directions) -> list[Head]:
    """The word that came after the key elsewhere; the word that came after that."""
    known = words(spaces, language, (*language.keys, *language.values))
    middle, values = spaces["found"][: language.n_keys], known[language.n_keys :]
    return [
        Head(layout.look_up, spaces["before"], key, known, spaces["found"]),
        Head(layout.second_hop, middle, key, values, spaces["found_next"]),
    ]


def facts(
    layout: Any, language: Language, spaces: Spaces, values: Directions, *, clamped: bool = False
) -> tuple[Head, Gates]:
    """One head looks at relation and entity, half each; one neuron stands for each fact."""
    named = (*language.relations, *language.entities)
    both = earlier_place(spaces, 1, clamped=clamped) + earlier_place(spaces, 3, clamped=clamped)
    asked, subject = words(spaces, language, named), spaces["subject"]
    row = dict(zip(named, subject, strict=True))
    value_of = dict(zip(language.values, values, strict=True))
    pairs = [row[relation] + row[entity] for relation, entity in language.facts]
    out = [value_of[value] for value in language.facts.values()]
    head = Head(layout.facts, spaces["place"], both, asked, 2 * subject)
    return head, Gates(layout.facts.layer, np.array(pairs), np.array(out))


def unembed_weights(
    language: Language, spaces: Spaces, rng: np.random.Generator
) -> tuple[Float[torch.Tensor, "d_vocab d_model"], Float[torch.Tensor, " d_vocab"]]:
    """Weight and bias of the logits; after a value the end follows, without any layer's help."""
    ids = {word: index for index, word in enumerate(language.words)}
    values, end = [ids[word] for word in language.values], ids[END]
    weight = torch.zeros(spaces["word"].shape)
    weight[values] = torch.from_numpy(LOUD * spaces["answer"]).float()
    weight[end] = torch.from_numpy(LOUD * spaces["word"][values].sum(axis=0)).float()
    order = rng.permutation(len(values)) / len(values)
    bias = torch.full((len(ids),), -UNSURE)
    bias[values] = torch.from_numpy(UNSURE * order).float()
    bias[end] = 2 * UNSURE
    return weight, bias


def read_at_random(
    shape: tuple[int, ...], width: int, rng: np.random.Generator, *, reads: bool
) -> Float[torch.Tensor, ...]:
    """Weights of idle heads and neurons, which read at random, and write exactly 0."""
    noise = rng.normal(size=shape) / width**0.5  # drawn for both, which fixes what comes later
    return torch.from_numpy(noise if reads else np.zeros(shape)).float()


def start(spaces: Spaces, language: Language) -> Directions:
    """The direction of the first token of every text."""
    return words(spaces, language, (START,))
