"""What a profile can do beyond its main analyses, each by the name that asks for it.

Each analysis says what it adds; which tasks that is made for is decided by the profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.attribution.api import EXTRA as ATTRIBUTION
from layerwise.analyses.attribution_patching.api import EXTRA as ESTIMATES
from layerwise.analyses.execute import Job
from layerwise.analyses.heads.api import EXTRA as HEAD_SCORES
from layerwise.analyses.interactions.api import EXTRA as INTERACTIONS
from layerwise.analyses.path_patching.api import EXTRA as PATHS
from layerwise.analyses.planned import Extra, ProfileStart
from layerwise.analyses.removal.api import EXTRA as REMOVAL
from layerwise.analyses.similarity.api import EXTRA as SIMILARITY
from layerwise.errors import UserError
from layerwise.ground.readers import some_of
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.setup import Setup
from layerwise.storage.base import Result

PARTS = Extra("parts", "skip the attention and the MLP of each layer", planned=True)
HEADS = Extra("heads", "skip each head, and patch each head", planned=True)
# In the order in which they are named and made.
EXTRAS: dict[str, Extra] = {
    extra.name: extra
    for extra in (
        PARTS, HEADS, ATTRIBUTION, HEAD_SCORES, SIMILARITY, REMOVAL, ESTIMATES, PATHS,
        INTERACTIONS,
    )
}  # fmt: skip
read_extras = some_of("addition to a profile", (*EXTRAS, "all"), none=True)


def wanted_extras(names: Sequence[str], cfg: Any) -> tuple[str, ...]:
    """Names of extras in their usual order; ``all`` stands for those that the model allows.

    All pairs of layers are not among them, whose number grows with the square of the layers'.
    """
    for name in names:
        if name != "all":
            EXTRAS[name].refuse(cfg)
    every = "all" in names
    return tuple(
        name
        for name, extra in EXTRAS.items()
        if name in names or (every and extra.in_all and _allows(cfg, name))
    )


def _allows(cfg: Any, name: str) -> bool:
    try:
        EXTRAS[name].refuse(cfg)
    except UserError:
        return False
    return True


def changes_of(setup: Setup, extras: Sequence[str]) -> tuple[AblationSpec, ...]:
    """What the ablation of a profile changes: layers, and what else is wanted."""
    model, cfg = setup.model, setup.model.cfg
    sites: list[str | None] = [None]
    if "parts" in extras:
        sites += ["attn_out"] if cfg.attn_only else ["attn_out", "mlp_out"]
    if "heads" in extras:
        sites.append("z")
    if is_seq2seq(model):
        more = {"attn_out": "cross_attn_out", "z": "cross_z"}
        sites += [more[site] for site in sites if site in more]
    layers = tuple(range(cfg.n_layers))
    return tuple(AblationSpec.of(model, "skip", site, layers) for site in sites)


def patched_sites(extras: Sequence[str]) -> tuple[str, ...]:
    """The sites that a profile patches."""
    return ("resid_pre", "z") if "heads" in extras else ("resid_pre",)


def planned_jobs(extras: Sequence[str], start: ProfileStart) -> dict[str, Any]:
    """By name, the jobs of those extras of which a plan can say what they cost."""
    chosen = (EXTRAS[name] for name in extras)
    return {extra.name: job for extra in chosen if extra.planned for job in extra.jobs(start)}


def jobs_of(extras: Sequence[str], start: ProfileStart) -> Iterator[Job[Result]]:
    """The jobs of all extras; first those that need no task, for none may be left."""
    chosen = sorted((EXTRAS[name] for name in extras), key=lambda extra: extra.asks_tasks)
    for extra in chosen:
        if start.able.tasks or not extra.asks_tasks:
            yield from extra.jobs(start)
