"""Path patching in a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.analyses.patching.tables import DENOISING
from layerwise.storage.base import Result

from .api import PathPatching, refuse_norms_after


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    paired = replace(start.able, protocols=("continuation",))
    yield PathPatching(paired, ("logits",), DENOISING, start.pairs, strict=False)


EXTRA = Extra("paths", "path patching into the logits", _jobs, refuse=refuse_norms_after)
