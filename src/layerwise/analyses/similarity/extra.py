"""The similarity of layers in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.storage.base import Result

from .api import Similarity


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    yield Similarity(start.reading)


EXTRA = Extra("similarity", "angular distance, block influence, CKA", _jobs, planned=True)
