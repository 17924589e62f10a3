"""Interactions of layers: what removing two costs beyond the sum of removing each.

What is removed is planned in ``spec`` and ``job``; interactions and Shapley values are computed
from the records in ``tables``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import Job, execute_job
from layerwise.analyses.planned import Extra, ProfileStart
from layerwise.errors import UserError, counted
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import TaskLike, check_layers, prepare
from layerwise.stats.share_tests.equivalence import Interest, refuse_uninteresting
from layerwise.storage.base import Result

from .job import Interactions
from .result import InteractionsResult
from .spec import MOST_SETS, SetsSpec, refuse_sets, refuse_unknown_skip

# Under ``generate`` only accuracy is measured, of which no verdict is given.
PROTOCOLS = ("continuation", "letter")


@check_arguments(refuse_unknown_skip, refuse_sets)
@exclusive
def interactions(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = "continuation",
    *,
    site: str = "layer",
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    order: int = 2,
    permutations: int = 0,
    smallest_nats: float = 0.1,
    method: str = "engine",
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
        ...     model, "wired-lookup", layers=[1, 2, 8], limit=12, progress=False
        ... )
        >>> pairs = found.pairs()
        >>> pairs.loc[pairs["measure"] == "nats", ["first_layer", "second_layer", "verdict"]]
           first_layer  second_layer      verdict
        0            1             2         none
        1            1             8  overlapping
        2            2             8         none
    """
    refuse_uninteresting(smallest_nats=smallest_nats)
    setup = prepare(
        model, tasks, protocols, method=method, interest=Interest(nats=smallest_nats), **run
    )
    spec = SetsSpec.among(
        model, site, check_layers(layers, model), heads,
        order=order, permutations=permutations, seed=setup.seed,
    )  # fmt: skip
    job = Interactions(setup, spec, method)
    return execute_job(job, InteractionsResult, "interactions", run, job.write_requests)


def refuse_unpaired(cfg: Any) -> None:
    """Refuse a model that has no two layers, or more pairs of them than are removed."""
    n_layers = cfg.n_layers
    n_sets = n_layers + n_layers * (n_layers - 1) // 2
    if n_layers < 2 or n_sets > MOST_SETS:
        raise UserError(
            f"Interactions of all pairs of {counted(n_layers, 'layer')} make "
            f"{counted(n_sets, 'set')}; expected two layers or more, and at most {MOST_SETS:,} "
            "sets: leave 'interactions' out, and run `layerwise interactions` with some layers."
        )


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    asked = [name for name in PROTOCOLS if name in start.able.protocols][:1]
    if asked:
        setup = replace(start.able, protocols=tuple(asked))
        layers = tuple(range(setup.model.cfg.n_layers))
        spec = SetsSpec.among(
            setup.model, "layer", layers, None, order=2, permutations=0, seed=setup.seed
        )
        yield Interactions(setup, spec)


EXTRA = Extra(
    "interactions", "skip all pairs of layers", _jobs_of_a_profile, planned=True,
    refuse=refuse_unpaired, in_all=False,
)  # fmt: skip
