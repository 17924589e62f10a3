"""One run of the engine over a model: its plan, its walks, its outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from layerwise.models.instance.kinds import DecoderOnly, Model, heads_per_key, is_seq2seq
from layerwise.sweep.changes.donors import Seen, in_step
from layerwise.sweep.changes.interventions import Intervention, intact
from layerwise.sweep.decoding.decode import Decoder, capacity_for
from layerwise.sweep.decoding.decode_step import Job
from layerwise.sweep.decoding.stopping import Stopper
from layerwise.sweep.packed.blocks import block_runners, why_not_packed
from layerwise.sweep.packed.layout import SCRATCH
from layerwise.sweep.plans.plan import (
    DEFAULT_MEMORY_BUDGET,
    Batch,
    ModelShape,
    SweepPlan,
    plan_sweep,
    walk_of,
)
from layerwise.sweep.plans.walk_plan import plan_walk
from layerwise.sweep.requests import Generated, LogLikelihood, Outcome, Request
from layerwise.sweep.seq2seq.run import Seq2SeqEngine

from .engine import TOKENS_AT_ONCE, Walk, Work
from .outcomes import Engine, OnText

Progress = Callable[[float], None]


def engine_for(model: Model) -> type[Engine]:
    """The engine of a model's kind."""
    return Seq2SeqEngine if is_seq2seq(model) else _Engine


def plan_for(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> SweepPlan:
    """The plan of a sweep over a model, whose weights need not be there."""
    return engine_for(model).plan(model, interventions, requests, memory_budget)


def model_shape(model: DecoderOnly) -> ModelShape:
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
        cfg.n_heads * cfg.d_head,
        3 if cfg.gated_mlp else 2,
        cfg.experts_per_token or 1,
    )


def engine_outcomes(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    stopper: Stopper,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    tokens_at_once: int = TOKENS_AT_ONCE,
    progress: Progress | None = None,
) -> tuple[list[list[Outcome]], Work, SweepPlan]:
    """Put every request to the model under every intervention, whatever the model is."""
    plan = plan_for(model, interventions, requests, memory_budget)
    engine = engine_for(model)(
        model, interventions, requests, stopper, memory_budget, tokens_at_once, Work()
    )
    return engine.run(plan.batches, progress), engine.work, plan


@dataclass
class _Engine(Engine):
    """The engine of decoder-only models."""

    def __post_init__(self) -> None:
        self.shape, self.runners = model_shape(self.model), block_runners(self.model)

    @classmethod
    def plan(
        cls,
        model: DecoderOnly,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        memory_budget: int,
    ) -> SweepPlan:
        """See ``Engine``."""
        return plan_sweep(interventions, requests, model_shape(model), memory_budget)

    @classmethod
    def brute_force(
        cls,
        model: DecoderOnly,
        requests: Sequence[Request],
        outcomes: Sequence[Sequence[Outcome]],
    ) -> int:
        """See ``Engine``."""
        total = 0
        for of_intervention in outcomes:
            for request, outcome in zip(requests, of_intervention, strict=True):
                if isinstance(outcome, Generated):
                    total += len(request.context) + max(0, len(outcome.tokens) - 1)
                else:
                    assert isinstance(request, LogLikelihood)
                    total += len(request.context) + len(request.continuation) - 1
        return total * model.cfg.n_layers

    def walk(self, batch: Batch) -> Walk:
        """See ``Engine``."""
        requests = [self.requests[index] for index in batch.requests]
        changed = [self.interventions[index] for index in batch.interventions]
        return Walk(
            self.model,
            self.runners,
            walk_of(batch, self.interventions, self.requests, self.shape.n_layers),
            requests,
            self.work,
            self._tokens_at_once(self.shape),
            min(SCRATCH, self.memory_budget // 16),
            in_step(changed, partial(donor_layers, requests=requests, work=self.work)),
        )

    def decode(self, walk: Walk, jobs: list[Job], done: OnText, logit_rows: int) -> None:
        """See ``Engine``."""
        generating = sorted({job.request for job in jobs})
        capacity = capacity_for(walk, generating, self.memory_budget // 4)
        Decoder(walk, self.stopper, deque(jobs), capacity, done, logit_rows=logit_rows).run()

    def _tokens_at_once(self, shape: ModelShape) -> int:
        """As asked for, or as few as the budget has room for."""
        return max(64, min(self.tokens_at_once, self.memory_budget // 8 // shape.passing))


def donor_layers(model: DecoderOnly, requests: Sequence[Request], work: Work) -> Iterator[Seen]:
    """The activations of another model by layer, over the tokens of a walk."""
    plan = plan_walk([intact()], requests, model.cfg.n_layers)
    walk = Walk(model, block_runners(model), plan, requests, work)
    for runner in walk.runners:
        seen = {"resid_pre": walk.trunk}
        walk.trunk, _ = runner.packed(walk.trunk, walk.trunk_layout, observe=seen.__setitem__)
        work.block_passes += 1
        work.token_passes += walk.trunk.shape[1]
        seen["resid_post"] = walk.trunk
        yield seen
