"""``sweep``: interventions times requests, by the engine or by brute force, behind one function.

Also reads intact activations out of the same walk: means for ablation, residuals for lenses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from ..errors import UserError, unknown_name
from .blocks import block_runners
from .decode import Decoder, Job, capacity_for
from .engine import Walk, Work, make_walk
from .interventions import Intervention
from .plan import DEFAULT_MEMORY_BUDGET, Batch, ModelShape, plan_sweep
from .readout import score_rows
from .reference import reference_outcomes
from .requests import Generate, Generated, LogLikelihood, Outcome, Request, Scored
from .stopping import Stopper, make_stopper

Progress = Callable[[float], None]


@dataclass(frozen=True)
class SweepStats:
    """What a sweep cost, against one forward per request and intervention.

    Attributes:
        block_passes: (walk, branch, layer) triples pushed through a block.
        brute_force_block_passes: layers times interventions, for each walk.
        token_passes: tokens pushed through a block, generated ones included.
        brute_force_token_passes: the same by one cached forward per request and intervention.
        seconds: wall-clock time.
    """

    block_passes: int = 0
    brute_force_block_passes: int = 0
    token_passes: int = 0
    brute_force_token_passes: int = 0
    seconds: float = 0.0

    def __add__(self, other: SweepStats) -> SweepStats:
        return SweepStats(
            self.block_passes + other.block_passes,
            self.brute_force_block_passes + other.brute_force_block_passes,
            self.token_passes + other.token_passes,
            self.brute_force_token_passes + other.brute_force_token_passes,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Sweep:
    """The outcomes of a sweep.

    Attributes:
        outcomes: by intervention, then request, in the order given.
        stats: what it cost.
    """

    outcomes: list[list[Outcome]]
    stats: SweepStats


def model_shape(model: HookedTransformer) -> ModelShape:
    """The sizes of a model that decide memory and work."""
    cfg = model.cfg
    n_kv = cfg.n_key_value_heads or cfg.n_heads
    return ModelShape(
        cfg.n_layers,
        cfg.d_model,
        n_kv * cfg.d_head,
        model.W_E.element_size(),
        cfg.n_ctx,
        not cfg.attn_only,
    )


@torch.inference_mode()
def sweep(
    model: HookedTransformer,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    *,
    tokenizer: object | None = None,
    method: str = "engine",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    progress: Progress | None = None,
) -> Sweep:
    """Put every request to the model under every intervention.

    Args:
        model: the model; hooks that the caller left on it are refused.
        interventions: what is changed, one forward pass each.
        requests: what is asked.
        tokenizer: decides where generated text ends; the one the model was loaded with if None.
        method: ``engine``, or ``reference`` for one plain hooked forward per pair. Both agree
            to 1e-4 nats in float32 and token for token, but for ties closer than rounding.
        memory_budget: bytes for activations, keys and values.
        progress: called now and then with the share done, from 0 to 1.

    Returns:
        Outcomes by intervention and request, and the work done.

    Raises:
        UserError: if a layer, position, length or method is out of range.
    """
    if method not in ("engine", "reference"):
        raise unknown_name("method", method, ("engine", "reference"))
    _refuse_hooks(model)
    started = time.perf_counter()
    stopper = make_stopper(tokenizer or _tokenizer(model, requests))
    plan = plan_sweep(interventions, requests, model_shape(model), memory_budget)
    if method == "reference":
        outcomes = reference_outcomes(model, interventions, requests, stopper)
        brute = _brute_force(model, requests, outcomes)
        work = Work(model.cfg.n_layers * len(interventions), brute)
    else:
        outcomes, work = _engine(
            model, interventions, requests, plan.batches, stopper, memory_budget, progress
        )
        brute = _brute_force(model, requests, outcomes)
    stats = SweepStats(
        work.block_passes,
        sum(model.cfg.n_layers * len(b.interventions) for b in plan.batches),
        work.token_passes,
        brute,
        time.perf_counter() - started,
    )
    return Sweep(outcomes, stats)


def _refuse_hooks(model: HookedTransformer) -> None:
    if any(point.fwd_hooks for point in model.hook_dict.values()):
        raise UserError(
            "The model has hooks on it, which a sweep would not see; expected a model without "
            "hooks: call model.reset_hooks(including_permanent=True) first."
        )


def _tokenizer(model: HookedTransformer, requests: Sequence[Request]) -> object | None:
    """The model's tokenizer; a model without one can still generate, but not until a string."""
    from ..models import original_tokenizer

    if model.tokenizer is None and not any(getattr(r, "stop", ()) for r in requests):
        return None
    return original_tokenizer(model)


def _brute_force(
    model: HookedTransformer, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
) -> int:
    """Token-passes of one cached forward per pair."""
    total = 0
    for of_intervention in outcomes:
        for request, outcome in zip(requests, of_intervention, strict=True):
            if isinstance(outcome, Generated):
                total += len(request.context) + max(0, len(outcome.tokens) - 1)
            else:
                assert isinstance(request, LogLikelihood)
                total += len(request.context) + len(request.continuation) - 1
    return total * model.cfg.n_layers


def _engine(
    model: HookedTransformer,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    batches: Sequence[Batch],
    stopper: Stopper,
    memory_budget: int,
    progress: Progress | None,
) -> tuple[list[list[Outcome]], Work]:
    work, runners = Work(), block_runners(model)
    found: dict[tuple[int, int], Outcome] = {}
    for number, batch in enumerate(batches):
        walk = make_walk(model, runners, batch, interventions, requests, work)

        def on_layer(layer: int, number: int = number) -> None:
            if progress is not None:
                progress((number + (layer + 1) / len(runners)) / len(batches))

        walk.run(on_layer)

        def done(branch: int, request: int, outcome: Outcome, batch: Batch = batch) -> None:
            found[batch.interventions[branch], batch.requests[request]] = outcome

        _read(walk, stopper, memory_budget // 2, done)
    return [[found[i, r] for r in range(len(requests))] for i in range(len(interventions))], work


def _read(
    walk: Walk, stopper: Stopper, budget: int, done: Callable[[int, int, Outcome], None]
) -> None:
    """Score a finished walk's log-likelihoods and decode its generations."""
    jobs: list[Job] = []
    for branch in range(len(walk.interventions)):
        greedy, logprobs = _branch_scores(walk, branch)
        for index, request in enumerate(walk.requests):
            path = walk.paths[index]
            last = len(request.context) - 1
            if isinstance(request, Generate):
                jobs.append(Job(branch, index, request, last + 1, [greedy[path[last]]]))
            else:
                best = [greedy[p] for p in path[last:]]
                scored = Scored(tuple(logprobs[index]), best == list(request.continuation))
                done(branch, index, scored)
    if jobs:
        capacity = capacity_for(walk, walk.runners, budget)
        Decoder(
            walk, stopper, jobs, capacity, lambda job, text: done(job.branch, job.request, text)
        ).run()


def _branch_scores(walk: Walk, branch: int) -> tuple[dict[int, int], dict[int, list[float]]]:
    """Greedy token by packed position that is read, and log-probabilities by request."""
    resid, layout = walk.final(branch)
    read = sorted({p for path, r in _paths(walk) for p in path[len(r.context) - 1 :]})
    row_of = {packed: row for row, packed in enumerate(read)}
    targets = sorted(
        (row_of[packed], token, index, i)
        for index, (path, r) in enumerate(_paths(walk))
        if isinstance(r, LogLikelihood)
        for i, (packed, token) in enumerate(
            zip(path[len(r.context) - 1 :], r.continuation, strict=True)
        )
    )
    rows = torch.tensor(read, device=resid.device)
    if layout.carried is not None:
        rows = torch.searchsorted(layout.carried, rows)
    logprobs, greedy = score_rows(
        walk.model,
        resid[rows],
        torch.tensor([t[0] for t in targets], dtype=torch.long, device=resid.device),
        torch.tensor([t[1] for t in targets], dtype=torch.long, device=resid.device),
    )
    scores: dict[int, list[float]] = {}
    # Targets are in order of rows; a request's tokens must be in order of their own.
    in_order = sorted(zip(targets, logprobs.tolist(), strict=True), key=lambda pair: pair[0][2:])
    for (_, _, index, _), value in in_order:
        scores.setdefault(index, []).append(value)
    return dict(zip(read, greedy.tolist(), strict=True)), scores


def _paths(walk: Walk) -> Iterator[tuple[tuple[int, ...], Request]]:
    return zip(walk.paths, walk.requests, strict=True)
