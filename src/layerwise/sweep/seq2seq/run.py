"""A sweep over an encoder-decoder: walks are run, log-likelihoods read, texts decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.donors import Seen, in_step
from layerwise.sweep.changes.interventions import Intervention, intact
from layerwise.sweep.decoding.decode_step import Job
from layerwise.sweep.plans.plan import Batch, SweepPlan
from layerwise.sweep.requests import Generated, Outcome, Request
from layerwise.sweep.walk.engine import Work
from layerwise.sweep.walk.outcomes import Engine, OnText

from .decode import TextDecoder
from .plan import decoder_tokens_of, plan_seq2seq_sweep, plan_seq2seq_walk
from .walk import Seq2SeqWalk


class Seq2SeqEngine(Engine):
    """The engine of encoder-decoders."""

    @classmethod
    def plan(
        cls,
        model: Seq2SeqModel,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        memory_budget: int,
    ) -> SweepPlan:
        """See ``Engine``."""
        size = model.W_E.element_size()
        return plan_seq2seq_sweep(
            interventions, requests, model.cfg, model.prefix, size, memory_budget
        )

    @classmethod
    def brute_force(
        cls, model: Seq2SeqModel, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
    ) -> int:
        """Token-passes of one encoder run and one cached decoder run per pair."""
        cfg, total = model.cfg, 0
        for of_intervention in outcomes:
            for request, outcome in zip(requests, of_intervention, strict=True):
                n_decoded = len(decoder_tokens_of(request, model.prefix))
                if isinstance(outcome, Generated):
                    n_decoded += max(0, len(outcome.tokens) - 1)
                total += (
                    cfg.n_encoder_layers * len(request.context) + cfg.n_decoder_layers * n_decoded
                )
        return total

    def walk(self, batch: Batch) -> Seq2SeqWalk:
        """See ``Engine``."""
        requests = [self.requests[index] for index in batch.requests]
        interventions = [self.interventions[index] for index in batch.interventions]
        model = self.model
        plan = plan_seq2seq_walk(interventions, requests, model.prefix, model.cfg.n_layers)
        donors = in_step(interventions, partial(donor_layers, requests=requests, work=self.work))
        return Seq2SeqWalk(model, plan, requests, self.work, self.tokens_at_once, donors)

    def decode(self, walk: Seq2SeqWalk, jobs: list[Job], done: OnText, logit_rows: int) -> None:
        """See ``Engine``."""
        TextDecoder(walk, self.stopper, logit_rows).run(jobs, done)


def donor_layers(model: Seq2SeqModel, requests: Sequence[Request], work: Work) -> Iterator[Seen]:
    """The activations of another model by layer, over the tokens of a walk."""
    plan = plan_seq2seq_walk([intact()], requests, model.prefix, model.cfg.n_layers)
    for _, seen in Seq2SeqWalk(model, plan, requests, work).layers(observe=True):
        yield seen
