"""Interactions of layers: what removing two costs beyond the sum of removing each."""

from __future__ import annotations

from typing import Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.argument_types import Heads, Layers, Method
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import check_layers, prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects

from .job import Interactions, SetsSpec, refuse_sets, refuse_unknown_skip
from .result import InteractionsResult


@check_arguments(refuse_unknown_skip, refuse_sets)
@exclusive
def interactions(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = "continuation",
    *,
    site: str = "layer",
    layers: Layers | None = None,
    heads: Heads | None = None,
    order: int = 2,
    permutations: int = 0,
    smallest_nats: float = 0.1,
    method: Method = "engine",
    **run: Unpack[RunOptions],
) -> InteractionsResult:
    """Skip layers alone and in pairs: interactions of layers, and Shapley values.

    The interaction of a and b is I(a, b) = c({a, b}) - c({a}) - c({b}), with c(S) what skipping
    the set S costs an item (intact minus skipped). Above 0 the two are *redundant*: they cost
    more together than alone, as layers do that stand in for each other. Below 0 they *overlap*:
    what one takes away is already gone with the other. ``docs/interactions.md`` has formulas,
    tests and what else gives either sign.

    Tasks and protocols under which the intact model is not better than blind are not swept.

    Args:
        protocols: ``letter``, ``continuation``, ``generate``; the last measures accuracy only and
            gives no verdict.
        site: what is skipped: ``layer``, ``attn_out``, ``mlp_out``, ``z`` (one head), ``kv_group``
            (all heads that share a key/value head). Decoders of encoder-decoders also have
            ``cross_attn_out`` and ``cross_z``.
        order: 2 skips each layer alone and all pairs, which also gives the 2-additive Shapley
            values. 1 skips single layers only, beside ``permutations``.
        permutations: number of random orders of all layers for Shapley values; each order skips one
            layer after the other. 0 for none.
        smallest_nats: smallest interaction that sentences report, in nats.

    Returns:
        One record per set, item and protocol; ``pairs()`` and ``shapley()`` follow from them.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.

    Example:
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> found = lw.interactions(
        ...     model, "wired-lookup", layers=[1, 2, 8], limit=24, progress=False
        ... )
        >>> pairs = found.pairs()
        >>> pairs.loc[pairs["measure"] == "nats", ["first_layer", "second_layer", "verdict"]]
           first_layer  second_layer      verdict
        0            1             2         none
        1            1             8  overlapping
        2            2             8         none
    """
    check_smallest_effects(smallest_nats=smallest_nats)
    setup = prepare(
        model, tasks, protocols, method=method, interest=SmallestEffects(nats=smallest_nats), **run
    )
    spec = SetsSpec.from_layers(
        model, site, check_layers(layers, model), heads,
        order=order, permutations=permutations, seed=setup.seed,
    )  # fmt: skip
    job = Interactions(setup, spec, method)
    return execute_job(job, InteractionsResult, "interactions", run, job.ablation.write_requests)
