"""Direct logit attribution in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.storage.base import Result

from .job import Attribution


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    yield Attribution(start.reading, strict=False)


EXTRA = Extra("attribution", "direct logit attribution", _jobs, planned=True)
