"""Attribution patching in a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from layerwise.analyses.extra import Extra, Job, ProfileStart
from layerwise.analyses.patching.job import Patching

from .api import SAMPLE, AttributionPatching, heads_estimated


def _jobs(start: ProfileStart) -> Iterator[Job]:
    paired = replace(start.able, protocols=("continuation",))
    sites = heads_estimated(start.able.model)
    yield AttributionPatching(Patching(paired, sites, start.pairs, strict=False), SAMPLE)


EXTRA = Extra("estimates", "attribution patching, with a sample truly patched", _jobs)
