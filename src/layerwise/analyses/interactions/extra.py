"""Interactions of layers in a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.errors import UserError, counted
from layerwise.storage.base import Result

from .job import Interactions
from .spec import MOST_SETS, SetsSpec

# Under ``generate`` only accuracy is measured, of which no verdict is given.
PROTOCOLS = ("continuation", "letter")


def refuse_unpaired(cfg: Any) -> None:
    """Refuse a model that has no two layers, or more pairs of them than are removed."""
    n_layers = cfg.n_layers
    n_sets = n_layers + n_layers * (n_layers - 1) // 2
    if n_layers < 2 or n_sets > MOST_SETS:
        raise UserError(
            f"Interactions of all pairs of {counted(n_layers, 'layer')} make "
            f"{counted(n_sets, 'set')}; expected two layers or more, and at most {MOST_SETS:,} "
            "sets: leave 'interactions' out, and run `layerwise interactions` with some layers."
        )


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    asked = [name for name in PROTOCOLS if name in start.able.protocols][:1]
    if asked:
        setup = replace(start.able, protocols=tuple(asked))
        layers = tuple(range(setup.model.cfg.n_layers))
        spec = SetsSpec.among(
            setup.model, "layer", layers, None, order=2, permutations=0, seed=setup.seed
        )
        yield Interactions(setup, spec)


EXTRA = Extra(
    "interactions", "skip all pairs of layers", _jobs, planned=True, refuse=refuse_unpaired,
    in_all=False,
)  # fmt: skip
