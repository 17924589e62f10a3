"""``sweep``: interventions times requests, by the engine or by brute force, behind one function.

Also reads intact activations out of the same walk: means for ablation, residuals for lenses.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformer_lens import HookedTransformer

from ..errors import unknown_name
from ..models.facts import generation_settings, origin_of, original_tokenizer
from ..models.in_turn import in_turn
from ..models.kinds import Model, vocabularies
from ..models.seq2seq import Seq2SeqModel
from ._outcomes import Engine, Told
from ._runner import heads_per_key
from .blocks import block_runners, why_not_packed
from .decode import Decoder, Job, capacity_for
from .engine import TOKENS_AT_ONCE, Walk, Work
from .faithful import check_faithful
from .interventions import Intervention
from .layout import SCRATCH
from .plan import DEFAULT_MEMORY_BUDGET, Batch, ModelShape, SweepPlan, plan_sweep, walk_of
from .reference import reference_outcomes
from .requests import Generated, LogLikelihood, Outcome, Request, refuse_unknown_tokens
from .seq2seq.run import TwoStackEngine, brute_force_of_two_stacks
from .seq2seq.run import plan_for as plan_of_two_stacks
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


def plan_for(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> SweepPlan:
    """The plan of a sweep over a model, whose weights need not be there.

    Raises:
        UserError: if a layer, a site, a position or a length is out of range.
    """
    if isinstance(model, Seq2SeqModel):
        return plan_of_two_stacks(model, interventions, requests, memory_budget)
    return plan_sweep(interventions, requests, model_shape(model), memory_budget)


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
        cfg.n_heads,
        cfg.d_vocab,
        why_not_packed(model) is None,
        0 if cfg.attn_only else cfg.d_mlp or 0,
        heads_per_key(cfg),
        not (cfg.attn_only or cfg.parallel_attn_mlp),
    )


@in_turn
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
            (``measure_rounding`` in ``layerwise.sweep.rounding``).
        memory_budget: bytes for activations, keys and values.
        tokens_at_once: so many tokens are pushed through a block at once, if there are as many;
            what is fastest depends on the machine (``calibrate``).
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
    started = time.perf_counter()
    refuse_unknown_tokens(requests, *vocabularies(model))
    stopper = _stopper(model, requests, tokenizer)
    plan = plan_for(model, interventions, requests, memory_budget)
    if method == "reference":
        outcomes = reference_outcomes(model, interventions, requests, stopper)
        brute = _brute_force(model, requests, outcomes)
        work = Work(model.cfg.n_layers * len(interventions), brute)
    else:
        kind: Any = TwoStackEngine if isinstance(model, Seq2SeqModel) else _Engine
        engine = kind(
            model, interventions, requests, stopper, memory_budget, tokens_at_once, Work()
        )
        outcomes, work = engine.run(plan.batches, progress), engine.work
        brute = _brute_force(model, requests, outcomes)
    stats = SweepStats(
        work.block_passes,
        sum(model.cfg.n_layers * len(b.interventions) for b in plan.batches),
        work.token_passes,
        brute,
        time.perf_counter() - started,
        work.new_tokens,
        work.row_passes,
    )
    return Sweep(outcomes, stats)


def _stopper(model: Model, requests: Sequence[Request], tokenizer: object | None) -> Stopper:
    """Where texts end: as the model's generation settings say, or a tokenizer that was given.

    A model without a tokenizer can still generate, but not until a string.
    """
    origin = origin_of(model)
    own = model.tokenizer if origin is None else origin.tokenizer
    if tokenizer is not None and tokenizer is not own:
        return make_stopper(tokenizer)
    if own is None and any(getattr(request, "stop", ()) for request in requests):
        original_tokenizer(model)
    return make_stopper(own, generation_settings(model).end_tokens)


def _brute_force(
    model: Model, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
) -> int:
    """Token-passes of one cached forward per pair."""
    if isinstance(model, Seq2SeqModel):
        return brute_force_of_two_stacks(model, requests, outcomes)
    total = 0
    for of_intervention in outcomes:
        for request, outcome in zip(requests, of_intervention, strict=True):
            if isinstance(outcome, Generated):
                total += len(request.context) + max(0, len(outcome.tokens) - 1)
            else:
                assert isinstance(request, LogLikelihood)
                total += len(request.context) + len(request.continuation) - 1
    return total * model.cfg.n_layers


@dataclass
class _Engine(Engine):
    """The engine of decoder-only models."""

    def __post_init__(self) -> None:
        self.shape, self.runners = model_shape(self.model), block_runners(self.model)

    def walk(self, batch: Batch) -> Walk:
        """See ``Engine``."""
        return Walk(
            self.model,
            self.runners,
            walk_of(batch, self.interventions, self.requests, self.shape.n_layers),
            [self.requests[index] for index in batch.requests],
            self.work,
            self._tokens_at_once(self.shape),
            min(SCRATCH, self.memory_budget // 16),
        )

    def decode(self, walk: Walk, jobs: list[Job], told: Told, logit_rows: int) -> None:
        """See ``Engine``."""
        generating = sorted({job.request for job in jobs})
        capacity = capacity_for(walk, generating, self.memory_budget // 4)
        Decoder(walk, self.stopper, deque(jobs), capacity, told, logit_rows=logit_rows).run()

    def _tokens_at_once(self, shape: ModelShape) -> int:
        """As asked for, or as few as the budget has room for."""
        return max(64, min(self.tokens_at_once, self.memory_budget // 8 // shape.passing))
