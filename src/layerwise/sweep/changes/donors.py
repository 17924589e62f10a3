"""Other models whose activations are patched in: their layers, in step with a walk of the host's.

Invariant: a donor's walk packs the same tokens in the same order, so that a token has one index
in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from layerwise.errors import UserError
from layerwise.sweep.requests import Generate, Request

from .interventions import Intervention, donors_of

Seen = dict[str, torch.Tensor]
Donors = dict[int, Iterator[Seen]]
"""By id of the donor its activations by site, layer after layer."""


def in_step(
    interventions: Sequence[Intervention], layers_of: Callable[[Any], Iterator[Seen]]
) -> Donors:
    """Iterators over the layers of all donors, each started on first use."""
    return {id(donor): layers_of(donor) for donor in donors_of(interventions)}


def refuse_texts(interventions: Sequence[Intervention], requests: Sequence[Request]) -> None:
    """Refuse to write texts by the engine under another model's activations."""
    # The donor would have to read all that is written under each intervention, token by token.
    texts = any(isinstance(request, Generate) for request in requests)
    if texts and donors_of(interventions):
        raise UserError(
            "The engine does not write texts under another model's activations; expected "
            "log-likelihoods; use method='reference' for texts."
        )
