"""Direct logit attribution in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.extra import Extra, Job, ProfileStart

from .job import Attribution


def _jobs(start: ProfileStart) -> Iterator[Job]:
    yield Attribution(start.reading, strict=False)


EXTRA = Extra("attribution", "direct logit attribution", _jobs, planned=True)
