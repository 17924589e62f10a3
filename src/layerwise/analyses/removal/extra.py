"""The removal of layers in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.models.kinds import n_encoder_layers
from layerwise.storage.base import Result

from .job import Removal
from .orders import most_removed

# Orders of removal that are known without trying every set of layers.
CHEAP_ORDERS = ("effect", "deep", "angular", "influence")


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    model = start.able.model
    n_layers = model.cfg.n_layers
    sizes = n_encoder_layers(model), n_layers
    n_removed = min(n_layers // 2, *(most_removed(by, *sizes) for by in CHEAP_ORDERS))
    if n_removed:
        yield Removal(start.able, n_removed, CHEAP_ORDERS, held_out=0.5)


EXTRA = Extra("removal", "orders of removing layers that are known beforehand", _jobs)
