"""Removal of layers: in which orders they can go, and what is left without them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.argument_types import Method, SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.controls import write_all_requests
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import prepare

from .job import Removal, refuse_bad_share
from .result import RemovalResult
from .tables import WAYS


@check_arguments(refuse_bad_share)
@exclusive
def removal_order(
    model: LoadedModel,
    tasks: Tasks,
    protocols: Protocols = "continuation",
    *,
    n_removed: int,
    by: Annotated[SomeNames, known_name_validator("way to remove layers", WAYS)] = "greedy",
    held_out: float = 0.5,
    method: Method = "engine",
    **run: Unpack[RunOptions],
) -> RemovalResult:
    """Find which layers can be removed, and measure the accuracy without them.

    ``greedy`` is task-aware layer elimination (Naim et al. 2025, arXiv:2510.22767): each step
    tries every layer that remains, beside those removed before, and removes the one without
    which least is lost. ``block`` tries every contiguous block of each size (as compared by
    Gromov et al. 2024, arXiv:2403.17887, who chose by angular distance). The other orders are
    known beforehand: ``effect`` (single layers, by what each alone loses), ``deep`` (from the
    last layer on), ``angular`` (of each size the block across which the stream turns least,
    arXiv:2403.17887), ``influence`` (single layers by block influence, ShortGPT,
    arXiv:2403.03853). All are made from the same selection items and measured on the same
    held-out ones. ``docs/pruning.md`` has the score and the rule for ties.

    Of an encoder-decoder the layers of both stacks are candidates together; no block reaches
    from one into the other, and one layer of each stays.

    Args:
        tasks: task names, capabilities (all their suites), JSONL files, or ``Task`` values;
            of several, those with signal decide together, each with the same weight.
        protocols: ``letter``, ``continuation``, ``generate``; each has orders of its own.
        n_removed: how many layers are removed, at least 1; one of each stack must stay.
        by: ``greedy``, ``block``, ``effect``, ``deep``, ``angular``, ``influence``.
        held_out: share of each task's items that the search does not see; 0 for none. Items of the
            search make its choice look too good.

    Returns:
        One record per step, candidate and item; an order is empty if the intact model is not
        better than blind on the items to select by.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    setup = prepare(model, tasks, protocols, method=method, **run)
    job = Removal(setup, n_removed, tuple(by), held_out, method)
    return execute_job(job, RemovalResult, "layer removal", run, partial(write_all_requests, setup))
