"""Scores of heads in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.extra import Extra, Job, ProfileStart

from .api import THRESHOLD, fitting_heads


def _jobs(start: ProfileStart) -> Iterator[Job]:
    able = start.able
    yield fitting_heads(able.model, able.loaded, THRESHOLD, able.seed)


WORDS = "scores of heads on repeated random tokens"
EXTRA = Extra("head-scores", WORDS, _jobs, asks_tasks=False)
