"""Scores of heads in a profile."""

from __future__ import annotations

from collections.abc import Iterator

from layerwise.analyses.execute import Job
from layerwise.analyses.extra import Extra, ProfileStart
from layerwise.storage.base import Result

from .api import THRESHOLD, fitting_heads


def _jobs(start: ProfileStart) -> Iterator[Job[Result]]:
    able = start.able
    yield fitting_heads(able.model, able.loaded, THRESHOLD, able.seed, executor=able.executor)


WORDS = "scores of heads on repeated random tokens"
EXTRA = Extra("head-scores", WORDS, _jobs, asks_tasks=False)
