"""The similarity of layers in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.extra import Extra, Job, ProfileStart

from .api import Similarity


def _jobs(start: ProfileStart) -> Iterator[Job]:
    yield Similarity(start.reading)


EXTRA = Extra("similarity", "angular distance, block influence, CKA", _jobs, planned=True)
