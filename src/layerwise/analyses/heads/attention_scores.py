"""What heads attend to on repeated random tokens, in every kind of attention.

A score is mean attention from some positions to others, one for one; which these are, and in
which run, is all that differs between kinds. Definitions are in ``docs/heads.md``; what heads add
to logits is told in ``next_tokens``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from layerwise.models.kinds import hook_name
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.requests import Tokens

from .repeated_tokens import DecoderSums, Drawn, RepeatedTokens

Scores = Float[np.ndarray, "layer head"]
Places = dict[str, tuple[Int[torch.Tensor, " n"], Int[torch.Tensor, " n"]]]
"""By score: the positions that attend, and for each of them the one that is attended to."""


@dataclass(frozen=True)
class Scored:
    """The scores of one kind of attention on one sequence.

    Attributes:
        site: ``z`` for self-attention, ``cross_z`` for cross-attention.
        first: its first layer, in the order of computation.
        scores: by name, a row per layer from the first on and a column per head.
    """

    site: str
    first: int
    scores: dict[str, Scores]


def places_when_repeated(first: int, length: int, *, both_ways: bool) -> Places:
    """What is scored of self-attention on tokens that are given twice in a row."""
    again = torch.arange(first + length, first + 2 * length - 1)
    every = torch.arange(first, first + 2 * length)
    back = torch.full_like(again, -length)
    if both_ways:
        again, back = torch.cat([again, again - length]), torch.cat([back, -back])
    places = {
        "prefix_matching": (again, again + back + 1),
        "duplicate_token": (again, again + back),
        "previous_token": (every[1:], every[:-1]),
    }
    return places | ({"next_token": (every[:-1], every[1:])} if both_ways else {})


def places_when_copied(first: int, read_first: int, length: int) -> Places:
    """What is scored of cross-attention where the decoder is given what the encoder reads."""
    at = torch.arange(length - 1)
    return {
        "prefix_matching": (first + at, read_first + at + 1),
        "duplicate_token": (first + at, read_first + at),
    }


def attention_hook(places: Places, found: dict[str, Scores], row: int) -> Callable[..., None]:
    """A hook on a pattern that puts each head's mean attention into a row of ``found``."""

    def attended(pattern: Float[torch.Tensor, "1 head query key"], hook: Any) -> None:
        for name, (at, to) in places.items():
            found[name][row] = pattern[0, :, at, to].double().mean(-1).cpu().numpy()

    return attended


def no_scores(places: Places, n_layers: int, n_heads: int) -> dict[str, Scores]:
    """Room for the scores of some layers."""
    return {name: np.zeros((n_layers, n_heads)) for name in places}


@torch.inference_mode()
def seq2seq_scores(
    model: Seq2SeqModel, given: RepeatedTokens, drawn: Drawn
) -> tuple[Scored, Scored, Scored]:
    """The scores of every head of an encoder-decoder on one sequence, by three runs."""
    cfg, once, length = model.cfg, drawn.once, len(drawn.once)
    before, begins = len(given.before), len(given.begins)
    encoder, decoder = range(cfg.n_encoder_layers), range(cfg.n_encoder_layers, cfg.n_layers)

    def scored(
        site: str, layers: range, places: Places, read: Tokens, said: Sequence[int]
    ) -> Scored:
        found = no_scores(places, len(layers), cfg.heads_of(layers[0]))
        pattern = {"z": "pattern", "cross_z": "cross_pattern"}[site]
        hooks: list[Any] = [
            (hook_name(model, layer, pattern), attention_hook(places, found, row))
            for row, layer in enumerate(layers)
        ]
        queries, _ = places["prefix_matching"]
        sums = DecoderSums(model, queries) if layers == decoder else None
        hooks += [] if sums is None else sums.hooks()
        asked, given = (torch.tensor([list(t)], device=model.W_E.device) for t in (read, said))
        model.run_with_hooks(asked, given, fwd_hooks=hooks)
        if sums is not None:
            found["induction"] = sums.heads_add(site, given[0, queries + 1], once)
        return Scored(site, layers[0], found)

    return (
        scored("z", encoder, places_when_repeated(before, length, both_ways=True),
               given.read(once, once), given.begins),
        scored("z", decoder, places_when_repeated(begins, length, both_ways=False),
               given.read(drawn.others), (*given.begins, *once, *once)),
        scored("cross_z", decoder, places_when_copied(begins, before, length),
               given.read(once), (*given.begins, *once)),
    )  # fmt: skip
