"""A sweep over an encoder-decoder: walks are run, log-likelihoods read, texts decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerwise.models.seq2seq import Seq2SeqModel

from ..decode import Job
from ..engine import Work
from ..interventions import Intervention
from ..plan import Batch, SweepPlan
from ..readout import CHUNK
from ..requests import Generate, Generated, Outcome, Request
from ..scores import read_scores
from ..stopping import Stopper
from .decode import TextDecoder
from .plan import plan_sweep_of_two_stacks, plan_two_stacks, said_by
from .walk import TwoStackWalk

Done = Callable[[int, int, Outcome], None]


def plan_for(
    model: Seq2SeqModel,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    memory_budget: int,
) -> SweepPlan:
    """The plan of a sweep over this model; its weights need not be there.

    Raises:
        UserError: as ``plan_sweep_of_two_stacks``.
    """
    size = model.W_E.element_size()
    return plan_sweep_of_two_stacks(
        interventions, requests, model.cfg, model.prefix, size, memory_budget
    )


def brute_force_of_two_stacks(
    model: Seq2SeqModel, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
) -> int:
    """Token-passes of one encoder run and one cached decoder run per pair."""
    cfg, total = model.cfg, 0
    for of_intervention in outcomes:
        for request, outcome in zip(requests, of_intervention, strict=True):
            said = len(said_by(request, model.prefix))
            if isinstance(outcome, Generated):
                said += max(0, len(outcome.tokens) - 1)
            total += cfg.n_encoder_layers * len(request.context) + cfg.n_decoder_layers * said
    return total


@dataclass
class TwoStackEngine:
    """Runs the walks of a plan and reads their outcomes."""

    model: Seq2SeqModel
    interventions: Sequence[Intervention]
    requests: Sequence[Request]
    stopper: Stopper
    memory_budget: int
    tokens_at_once: int
    work: Work

    def run(
        self, batches: Sequence[Batch], progress: Callable[[float], None] | None
    ) -> list[list[Outcome]]:
        """All outcomes, by intervention and request."""
        found: dict[tuple[int, int], Outcome] = {}
        n_layers = self.model.cfg.n_layers
        for number, batch in enumerate(batches):
            walk = self._walk(batch)

            def on_layer(layer: int, number: int = number) -> None:
                if progress is not None:
                    progress((number + (layer + 1) / n_layers) / len(batches))

            def done(
                intervention: int, request: int, outcome: Outcome, batch: Batch = batch
            ) -> None:
                found[batch.interventions[intervention], batch.requests[request]] = outcome

            walk.run(on_layer)
            self._read(walk, done)
        return [
            [found[i, r] for r in range(len(self.requests))] for i in range(len(self.interventions))
        ]

    def _walk(self, batch: Batch) -> TwoStackWalk:
        requests = [self.requests[index] for index in batch.requests]
        interventions = [self.interventions[index] for index in batch.interventions]
        model = self.model
        plan = plan_two_stacks(interventions, requests, model.prefix, model.cfg.n_layers)
        return TwoStackWalk(model, plan, requests, self.work, self.tokens_at_once)

    def _read(self, walk: TwoStackWalk, done: Done) -> None:
        """Score a finished walk's log-likelihoods and decode its texts."""
        per_row = self.model.cfg.d_vocab * (4 + self.model.W_E.element_size())
        chunk = max(8, min(CHUNK, self.memory_budget // 8 // per_row))
        jobs: list[Job] = []
        members: dict[int | None, tuple[int, ...]] = {}
        for scores in read_scores(walk, chunk):
            members[scores.branch] = scores.interventions
            for index, request in enumerate(walk.requests):
                if isinstance(request, Generate):
                    jobs.append(Job(scores.branch, index, request, [scores.first_token(index)]))
                    continue
                for intervention in scores.interventions:
                    done(intervention, index, scores.scored(index, request))
        if not jobs:
            return

        def told(job: Job, text: Generated) -> None:
            for intervention in members[job.branch]:
                done(intervention, job.request, text)

        TextDecoder(walk, self.stopper, chunk).run(jobs, told)
