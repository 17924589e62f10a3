"""Transplant: layers of one model put into another, in both directions.

What is exchanged is planned in ``exchange.spec`` and ``job``; what it moves is computed from the
records in ``tables``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.argument_types import Heads, Layers, Method, SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import several_exclusive
from layerwise.runs.controls import write_all_requests
from layerwise.runs.folder import refuse_other_run
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import check_layers, prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects
from layerwise.storage.places import OutputFolder

from .exchange.names import EXCHANGES, SETS
from .exchange.spec import TransplantSpec, refuse_misfit, refuse_unknown
from .exchange.writing import refuse_one_folder, write_merged_model
from .job import Transplant
from .result import TransplantResult


@check_arguments(refuse_unknown, refuse_one_folder)
def transplant(
    model: LoadedModel,
    other: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = "continuation",
    *,
    site: str = "layer",
    layers: Layers | None = None,
    heads: Heads | None = None,
    sets: Annotated[SomeNames, known_name_validator("choice of layers", SETS)] = "single",
    exchange: Annotated[SomeNames, known_name_validator("exchange", EXCHANGES)] = "weights",
    steps: int = 1,
    greedy: int = 0,
    held_out: float | None = None,
    smallest_loss: float = 0.05,
    write: OutputFolder | None = None,
    method: Method = "engine",
    **run: Unpack[RunOptions],
) -> TransplantResult:
    """Exchange layers between two models, and measure which carry the difference.

    Between two models of one architecture, each layer of the better model is put into the other
    (does it *bring* the ability?), and the other's layer into the better model (does that
    *destroy* it?). All changes of a model are branches of one walk through its layers, which run
    with the other's weights; nothing of either model is copied but what differs from both. What is
    told is the share of the gap between the two models on the same items, where that gap is
    established itself. Whether single layers of a distilled model carry its reasoning is asked by
    Song et al. 2025 (arXiv:2510.02091). ``docs/transplant.md`` has definitions and tests.

    Tasks and protocols under which neither model is better than the other are asked of the two
    models as they are, and no layers are exchanged.

    Args:
        model: the base, from ``load_model`` or your own.
        other: a model of the same architecture, vocabulary and number format: trained from the
            base, from another seed, or another checkpoint.
        site: what is exchanged of each layer: ``layer``, ``attn_out`` or ``mlp_out`` (with their
            norms), ``norms``; in a decoder of an encoder-decoder also ``cross_attn_out``. Single
            heads: ``z``, ``kv_group``, ``cross_z``. Outside of the layers: ``embed`` (with a tied
            unembedding), ``ln_final``, ``unembed``, ``rel_pos`` (T5). ``docs/transplant.md`` has
            the details.
        heads: which heads of ``z`` and ``cross_z``, or key/value groups of ``kv_group``, in each
            of the layers; all if None.
        sets: ``single``: each layer or head alone. ``together``: all at once. ``from_first``,
            ``from_last``: one after the other, cumulatively from either end.
        exchange: ``weights``; ``activations`` (what leaves the layer, part or head in the other
            model, for the same tokens); or ``both``. Activations show what reaches a layer.
        steps: above 1, also mixtures of both models' weights, in so many equal steps.
        greedy: number of layers (or heads) to choose one after the other. Each step tries every one
            beside those before, and takes the one that moves most. 0 for no search.
        held_out: share of each task's items that do not choose these layers, and that measure their
            effect; half if None.
        smallest_loss: smallest change of accuracy that sentences report, 0 to 1.
        chat: wrap prompts in the base tokenizer's chat template, for both models.
        write: folder for the base with these layers or parts of the other, as a Hugging Face model
            with a recipe (``mergekit.yaml``).

    Returns:
        One record per model, change, item and protocol; ``gaps()``, ``effects()``, ``ranks()`` and
        ``greedy()`` follow from them.

    Raises:
        UserError: for two models that do not fit, with the difference named, and for anything
            unknown, out of range or contradictory, before work begins.
    """
    check_smallest_effects(smallest_loss=smallest_loss)
    refuse_one_folder(run["out"], write)
    with several_exclusive(model, other):
        refuse_misfit(model, other)
        base = prepare(
            model,
            tasks,
            protocols,
            method=method,
            interest=SmallestEffects(loss=smallest_loss),
            **run,
        )
        alike: RunOptions = {**run, "limit": None, "fewshot": None}  # which the tasks have by now
        alike["memory_budget"] = base.memory_budget
        second = prepare(other, base.tasks, base.protocols, method=method, **alike)
        chosen, named = check_layers(layers, model), layers is not None
        spec = TransplantSpec.for_models(
            model, other, site, chosen, sets, steps, named, heads, exchange
        )
        base = replace(base, beside=(second,))
        job = Transplant(base, second, spec.with_search(greedy, held_out), method)
        if write is not None:
            if run["out"] is not None:
                settings = base.settings(analysis="transplant", **job.settings())
                refuse_other_run(Path(run["out"]), settings)
            write_merged_model(model, other, spec, Path(write))
        requests = partial(write_all_requests, base)
        return execute_job(job, TransplantResult, "transplant", run, requests)
