"""``sweep``: interventions times requests, by the engine or by brute force, behind one function.

Also reads intact activations out of the same walk: means for ablation, residuals for lenses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Float

from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.facts import generation_settings, model_origin, original_tokenizer
from layerwise.models.instance.kinds import Model, vocabularies
from layerwise.sweep.changes.interventions import (
    Intervention,
    distinct_donors,
    refuse_functions,
)
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.checks.reference import reference_outcomes
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Stopper, make_stopper
from layerwise.sweep.walk.engine import TOKENS_AT_ONCE, SweepWork, Walk
from layerwise.sweep.walk.engine_run import Engine, Progress, brute_force, engine_outcomes
from layerwise.sweep.walk.engine_run import model_shape as model_shape
from layerwise.sweep.walk.engine_run import plan_for_model as plan_for_model
from layerwise.sweep.walk.readout import CHUNK, final_logits

from ..errors import UserError, unknown_name
from .requests import (
    Generate,
    LogLikelihood,
    Outcome,
    Request,
    Tokens,
    refuse_unknown_tokens,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class SweepStats:
    """Cost of a sweep, against one forward per request and intervention.

    Attributes:
        block_passes: (walk, branch, layer) triples pushed through a block.
        brute_force_block_passes: layers times interventions, for each walk.
        token_passes: tokens pushed through a block, generated ones included.
        brute_force_token_passes: the same by one cached forward per request and intervention.
        seconds: wall-clock time.
        new_tokens: tokens decoded; the first of each text is not one, as the prompt gives it.
        row_passes: rows of decoding steps; fewer than new tokens where drafts were confirmed.
    """

    block_passes: int = 0
    brute_force_block_passes: int = 0
    token_passes: int = 0
    brute_force_token_passes: int = 0
    seconds: float = 0.0
    new_tokens: int = 0
    row_passes: int = 0

    def __add__(self, other: SweepStats) -> SweepStats:
        names = [known.name for known in fields(self)]
        return SweepStats(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Sweep:
    """The outcomes of a sweep.

    Attributes:
        outcomes: by intervention, then request, in the order given.
        stats: what it cost.
    """

    outcomes: list[list[Outcome]]
    stats: SweepStats


@exclusive
@torch.inference_mode()
def sweep(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    *,
    tokenizer: object | None = None,
    method: str = "engine",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    tokens_at_once: int = TOKENS_AT_ONCE,
    progress: Progress | None = None,
) -> Sweep:
    """Put every request to the model under every intervention.

    Args:
        model: the model; what the engine would not see of it is refused (``check_faithful``).
        interventions: what is changed, one forward pass each.
        requests: what is asked.
        tokenizer: decodes texts, and ends them with its end token; if None, the one that the
            model was loaded with, and the end tokens of the model's generation settings.
        method: ``engine``, or ``reference`` for one plain hooked forward per pair. Both agree
            to 1e-4 nats in float32 and token for token, but for what rounding explains
            (``measure_rounding`` in ``layerwise.sweep.checks.rounding``).
        memory_budget: bytes for activations, keys and values.
        tokens_at_once: so many tokens are pushed through a block at once, if there are as many.
        progress: called now and then with the share done, from 0 to 1.

    Returns:
        Outcomes by intervention and request, and the work done.

    Raises:
        UserError: if a layer, position, length or method is out of range, or the model is not
            what the engine computes.
    """
    if method not in ("engine", "reference"):
        raise unknown_name("method", method, ("engine", "reference"))
    check_faithful(model, method)
    if method == "engine":
        refuse_functions(interventions)
    donors = distinct_donors(interventions)
    for donor in donors:
        check_faithful(donor, method)
    if method == "engine" and donors and any(isinstance(r, Generate) for r in requests):
        # The donor would have to read all that is written under each intervention, token by token.
        raise UserError(
            "The engine does not write texts under another model's activations; expected "
            "log-likelihoods; use method='reference' for texts."
        )
    started = time.perf_counter()
    refuse_unknown_tokens(requests, *vocabularies(model))
    stopper = _stopper(model, requests, tokenizer)
    if method == "reference":
        plan = plan_for_model(model, interventions, requests, memory_budget)
        outcomes = reference_outcomes(model, interventions, requests, stopper)
        work = SweepWork(model.cfg.n_layers * len(interventions))
    else:
        outcomes, work, plan = engine_outcomes(
            model, interventions, requests, stopper, memory_budget, tokens_at_once, progress
        )
    brute = brute_force(model, requests, outcomes)
    stats = SweepStats(
        work.block_passes,
        sum(model.cfg.n_layers * len(b.interventions) for b in plan.batches),
        brute if method == "reference" else work.token_passes,
        brute,
        time.perf_counter() - started,
        work.new_tokens,
        work.row_passes,
    )
    return Sweep(outcomes, stats)


def _stopper(model: Model, requests: Sequence[Request], tokenizer: object | None) -> Stopper:
    """The stop rule from the model's generation settings or a given tokenizer."""
    # A model without a tokenizer can still generate, but not until a string.
    origin = model_origin(model)
    own = model.tokenizer if origin is None else origin.tokenizer
    if tokenizer is not None and tokenizer is not own:
        return make_stopper(tokenizer)
    if own is None and any(getattr(request, "stop", ()) for request in requests):
        original_tokenizer(model)
    return make_stopper(own, generation_settings(model).end_tokens)


@exclusive
@torch.inference_mode()
def next_logprobs(
    model: Model,
    interventions: Sequence[Intervention],
    context: Tokens,
    *,
    source: Tokens | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Float[torch.Tensor, "intervention d_vocab"]:
    """Log-probabilities of the token after a prompt, in nats, under each intervention."""
    out = model.W_E.new_empty(len(interventions), model.cfg.d_vocab, dtype=torch.float32)
    for members, logits in _next_logits(model, interventions, context, source, memory_budget):
        out[members] = logits.log_softmax(-1)
    return out


@exclusive
@torch.inference_mode()
def next_outcomes(
    model: Model,
    interventions: Sequence[Intervention],
    context: Tokens,
    outcome: Callable[[Float[torch.Tensor, " d_vocab"]], _T],
    *,
    source: Tokens | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> list[_T]:
    """Values of a function of the logits after a prompt, one under each intervention."""
    values: dict[int, _T] = {}
    for members, logits in _next_logits(model, interventions, context, source, memory_budget):
        # Equal interventions are one run; its logits go to the function once.
        values |= dict.fromkeys(members, outcome(logits))
    return [values[index] for index in range(len(interventions))]


def _next_logits(
    model: Model,
    interventions: Sequence[Intervention],
    context: Tokens,
    source: Tokens | None,
    memory_budget: int,
) -> Iterator[tuple[list[int], Float[torch.Tensor, " d_vocab"]]]:
    """Logits after a prompt, in float32, each with the interventions whose they are."""
    check_faithful(model)
    refuse_functions(interventions)
    requests = [LogLikelihood(context, (0,), source)]
    plan = plan_for_model(model, interventions, requests, memory_budget)
    engine = Engine(model, interventions, requests, make_stopper(None, ()), memory_budget)
    for batch in plan.batches:
        walk = engine.walk(batch)
        walk.run()
        # Many rows at once: for a single one, most of the time goes to reading the weights.
        ends = list(_ends(walk))
        for start in range(0, len(ends), CHUNK):
            part = ends[start : start + CHUNK]
            logits = final_logits(model, torch.stack([resid for _, resid in part]))
            for (members, _), of_branch in zip(part, logits, strict=True):
                yield [batch.interventions[member] for member in members], of_branch


def _ends(
    walk: Walk,
) -> Iterator[tuple[Sequence[int], Float[torch.Tensor, " d_model"]]]:
    """By branch of a walk of one request: its interventions, and the last residual stream."""
    plan, last = walk.plan, walk.side
    row = plan.read.index(last.paths[0][last.n_given[0] - 1])
    if plan.intact:
        yield plan.intact, walk.trunk[0, row]
    for group in walk.groups:
        for branch, resid in zip(group.branches, group.read, strict=True):
            yield branch.members, resid[row]
