"""Needs of each family of encoder-decoder models of Hugging Face.

A family, or several that are built alike, is a file with ``ARCHITECTURES``, ``parts_of`` and
``STORED``, its name in ``_FAMILIES``, and its line in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerwise.models.files.written_folder import StoredStack
from layerwise.models.seq2seq.parts import Seq2SeqParts

from . import fairseq, t5

_FAMILIES = (t5, fairseq)

PARTS_OF: dict[str, Callable[[Any], Seq2SeqParts]] = {
    architecture: family.parts_of for family in _FAMILIES for architecture in family.ARCHITECTURES
}
"""By name of the Hugging Face class: its model to parts."""

STORED_IN: dict[str, tuple[StoredStack, StoredStack]] = {
    architecture: family.STORED for family in _FAMILIES for architecture in family.ARCHITECTURES
}
"""By name of the Hugging Face class: how its files tell the layers of encoder and decoder."""
