"""Attribution patching in a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.analyses.patching.job import Patching
from layerwise.storage.base import Result

from .api import SAMPLE, AttributionPatching, heads_estimated


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    paired = replace(start.able, protocols=("continuation",))
    sites = heads_estimated(start.able.model)
    yield AttributionPatching(Patching(paired, sites, start.pairs, strict=False), SAMPLE)


EXTRA = Extra("estimates", "attribution patching, with a sample truly patched", _jobs)
