"""What a profile changes beyond whole layers, if it is asked for."""

from __future__ import annotations

from layerwise.analyses.extra import Extra

PARTS = Extra("parts", "skip the attention and the MLP of each layer", planned=True)
HEADS = Extra("heads", "skip each head, and patch each head", planned=True)
