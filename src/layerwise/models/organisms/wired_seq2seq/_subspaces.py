"""Subspaces of the residual streams of a wired encoder-decoder, and their meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.models.organisms._wiring import Directions
from layerwise.models.organisms.language import Language


@dataclass(frozen=True)
class Subspaces:
    """Orthonormal subspaces of the residual stream, one per feature."""

    basis: Directions
    word: Directions  # the word at this position, by token id
    place: Directions  # the position
    before: Directions  # the word before, if it is a key
    found: Directions  # the key or value that the first look-up found
    found_next: Directions  # the value that the second look-up found
    subject: Directions  # the relation and the entity that are asked about
    known: Directions  # the value of the fact that is asked about
    begun: Directions  # whether this is where the answer begins
    copied: Directions  # the value that was copied from the encoder
    answer: Directions  # the value to be said

    @classmethod
    def drawn(cls, language: Language, n_ctx: int, rng: np.random.Generator) -> Subspaces:
        """Subspaces in a random orthonormal basis."""
        n_keys, n_values = language.n_keys, language.n_values
        n_subjects = language.n_relations + language.n_entities
        n_found = n_keys + n_values
        sizes = [len(language.words), n_ctx, n_keys, n_found, n_values, n_subjects]
        sizes += [n_values, 1, n_values, n_values]
        basis, _ = np.linalg.qr(rng.normal(size=(sum(sizes), sum(sizes))))
        return cls(basis, *np.split(basis, np.cumsum(sizes)[:-1]))

    @property
    def d_head(self) -> int:
        """The width that the widest head needs: one row for what it rests on, too."""
        return 1 + max(len(self.place), len(self.found), len(self.subject))
