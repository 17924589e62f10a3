"""What a profile can do beyond its main analyses, each by the name that asks for it.

The analyses are in their own modules; which tasks they are made for is decided by the profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.attribution.job import Attribution
from layerwise.analyses.attribution_patching.api import SAMPLE, AttributionPatching, heads_estimated
from layerwise.analyses.heads.api import THRESHOLD, fitting_heads
from layerwise.analyses.patching.job import Patching
from layerwise.analyses.patching.tables import DENOISING
from layerwise.analyses.path_patching.api import PathPatching, has_norms_after, refuse_norms_after
from layerwise.analyses.removal.job import Removal
from layerwise.analyses.removal.orders import most_removed
from layerwise.analyses.similarity.api import Similarity
from layerwise.errors import unknown_name
from layerwise.models.kinds import n_encoder_layers
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.results.base import Result
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup

# What a plan leaves out, because its cost follows from what is found, or is no sweep of the engine.
UNPLANNED = ("head-scores", "removal", "estimates", "paths")
# Orders of removal that are known without trying every set of layers.
CHEAP_ORDERS = ("effect", "deep", "angular", "influence")
EXTRAS = {
    "parts": "skip the attention and the MLP of each layer",
    "heads": "skip each head, and patch each head",
    "attribution": "direct logit attribution",
    "head-scores": "scores of heads on repeated random tokens",
    "similarity": "angular distance, block influence, CKA",
    "removal": "orders of removing layers that are known beforehand",
    "estimates": "attribution patching, with a sample truly patched",
    "paths": "path patching into the logits",
}


class Job(Protocol):
    """An analysis that was planned."""

    def run(self, parts: CheckpointStore, settings: dict[str, Any], told: Meter) -> Result:
        """Make the pieces that are missing, and join all of them."""
        ...


def wanted_extras(names: Sequence[str], cfg: Any) -> tuple[str, ...]:
    """Names of extras in their usual order; ``all`` stands for all that the model allows.

    Raises:
        UserError: for an unknown name, or one that the model does not allow.
    """
    for name in names:
        if name not in (*EXTRAS, "all"):
            raise unknown_name("addition to a profile", name, (*EXTRAS, "all"))
    if "paths" in names:
        refuse_norms_after(cfg)
    every = [name for name in EXTRAS if name != "paths" or not has_norms_after(cfg)]
    return tuple(name for name in EXTRAS if name in names or ("all" in names and name in every))


def changes_of(setup: Setup, extras: Sequence[str]) -> tuple[AblationSpec, ...]:
    """What the ablation of a profile changes: layers, and what else is wanted."""
    model, cfg = setup.model, setup.model.cfg
    sites: list[str | None] = [None]
    if "parts" in extras:
        sites += ["attn_out"] if cfg.attn_only else ["attn_out", "mlp_out"]
    if "heads" in extras:
        sites.append("z")
    if isinstance(model, Seq2SeqModel):
        more = {"attn_out": "cross_attn_out", "z": "cross_z"}
        sites += [more[site] for site in sites if site in more]
    layers = tuple(range(cfg.n_layers))
    return tuple(AblationSpec.of(model, "skip", site, layers) for site in sites)


def patched_sites(extras: Sequence[str]) -> tuple[str, ...]:
    """The sites that a profile patches."""
    return ("resid_pre", "z") if "heads" in extras else ("resid_pre",)


def readings_of(extras: Sequence[str], reading: Setup) -> dict[str, Attribution | Similarity]:
    """By name, those extras that read each task's prompts once: a plan can say what they cost."""
    found: dict[str, Attribution | Similarity] = {}
    if "attribution" in extras:
        found["attribution"] = Attribution(reading, strict=False)
    if "similarity" in extras:
        found["similarity"] = Similarity(reading)
    return found


def jobs_of(extras: Sequence[str], able: Setup, reading: Setup, pairs: int) -> Iterator[Job]:
    """The jobs of all extras but those that are changes of the ablation and the patching.

    Args:
        extras: their names.
        able: a setup with the tasks that the model can do; none may be left.
        reading: the same with protocols that have a prompt to read.
        pairs: pairs of prompts a task.
    """
    model = able.model
    sites, paired = heads_estimated(model), replace(able, protocols=("continuation",))
    patching = Patching(paired, sites, pairs, strict=False)
    if "head-scores" in extras:
        yield fitting_heads(model, able.loaded, THRESHOLD, able.seed)
    if not able.tasks:
        return
    yield from readings_of(extras, reading).values()
    sizes = n_encoder_layers(model), model.cfg.n_layers
    n_removed = min(model.cfg.n_layers // 2, *(most_removed(by, *sizes) for by in CHEAP_ORDERS))
    if "removal" in extras and n_removed:
        yield Removal(able, n_removed, CHEAP_ORDERS, held_out=0.5)
    if "estimates" in extras:
        yield AttributionPatching(patching, SAMPLE)
    if "paths" in extras:
        setup = patching.setup
        yield PathPatching(setup, ("logits",), DENOISING, pairs, strict=False)
