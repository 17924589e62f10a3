"""Changes of activations as interventions: what another model has there, for the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerwise.models.kinds import Model, heads_per_key
from layerwise.runs.setup import Setup
from layerwise.sweep import Generate, Intervention, Sweep, together
from layerwise.sweep.interventions import from_donor
from layerwise.tasks import TaskRequest

from .names import BY_HEAD, KV_GROUP
from .spec import Change


def patched_with(change: Change, donor: Model) -> Intervention:
    """A change of activations as what a sweep makes of it.

    The activations are those that leave the layers, or their parts or heads, at every position.
    """
    site: Any = {"layer": "resid_post", KV_GROUP: "z"}.get(change.site, change.site)
    if change.site not in BY_HEAD:
        return together([from_donor(site, layer, donor) for layer in change.layers])
    n_shared = heads_per_key(donor.cfg) if change.site == KV_GROUP else 1
    by_layer: dict[int, tuple[int, ...]] = {}
    for layer, head in zip(change.layers, change.heads, strict=True):
        of = range(head * n_shared, (head + 1) * n_shared)
        by_layer[layer] = (*by_layer.get(layer, ()), *of)
    return together([from_donor(site, layer, donor, heads) for layer, heads in by_layer.items()])


def swept_with_donor(
    setup: Setup, changes: Sequence[Intervention], asked: Sequence[TaskRequest], method: str
) -> Sweep:
    """Answers under another model's activations; texts by plain forwards of both models."""
    texts = [isinstance(one.request, Generate) for one in asked]
    found: list[dict[int, Any]] = [{} for _ in changes]
    stats = []
    for written, how in ((False, method), (True, "reference")):
        chosen = [i for i, is_text in enumerate(texts) if is_text == written]
        if chosen:
            swept = setup.sweep(changes, [asked[i].request for i in chosen], how)
            stats.append(swept.stats)
            for outcomes, by_request in zip(swept.outcomes, found, strict=True):
                by_request.update(zip(chosen, outcomes, strict=True))
    outcomes = [[by_request[i] for i in range(len(asked))] for by_request in found]
    return Sweep(outcomes, stats[0] if len(stats) == 1 else stats[0] + stats[1])
