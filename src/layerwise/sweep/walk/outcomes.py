"""A plan's walks run one after the other, and their outcomes read: the same for every kind of walk.

A walk for which the device has no room is made in smaller ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from jaxtyping import Float

from layerwise.errors import UserError
from layerwise.sweep.changes.edits import END
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.changes.other_weights import OtherWeights
from layerwise.sweep.decoding.decode_step import Job
from layerwise.sweep.decoding.stopping import Stopper
from layerwise.sweep.plans.plan import Batch, SweepPlan
from layerwise.sweep.requests import Generate, Generated, LogLikelihood, Outcome, Request, Scored
from layerwise.sweep.seq2seq.walk import Seq2SeqWalk

from .engine import Walk, Work
from .readout import CHUNK, score_rows

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class BranchScores:
    """Log-probabilities and greedy tokens of one branch."""

    # targets: which targets (request, place) there are, in order.

    branch: int | None  # row of the walk's group; None is the trunk
    # The interventions (as indices into the walk's) whose branch it is.
    interventions: tuple[int, ...]
    logprobs: dict[int, list[float]]  # their log-probabilities in nats, by request
    greedy: dict[int, int]  # the greedy token at each packed token that is read
    walk: Walk | Seq2SeqWalk

    def scored(self, index: int, request: LogLikelihood) -> Scored:
        """The outcome of a log-likelihood."""
        path = self.walk.plan.paths[index][self.walk.plan.n_given[index] - 1 :]
        greedy = tuple(
            self.greedy[packed] == token
            for packed, token in zip(path, request.continuation, strict=True)
        )
        return Scored(tuple(self.logprobs[index]), greedy)

    def first_token(self, index: int) -> int:
        """The first token of a text."""
        plan = self.walk.plan
        return self.greedy[plan.paths[index][plan.n_given[index] - 1]]


def read_scores(walk: Walk | Seq2SeqWalk, chunk: int) -> Iterator[BranchScores]:
    """The scores of the trunk, if it is asked for, and of all branches."""
    if walk.plan.intact:
        yield from _read(walk, walk.trunk, [None], [walk.plan.intact], chunk)
    for group in walk.groups:
        branches = group.branches.branches
        alike: dict[OtherWeights | None, list[int]] = {}
        for row, branch in enumerate(branches):
            alike.setdefault(branch.weights(walk.model.cfg.n_layers, END), []).append(row)
        for weights, rows in alike.items():
            read = group.read if len(rows) == len(branches) else group.read[rows]
            members = [branches[row].members for row in rows]
            if weights is None:
                yield from _read(walk, read, rows, members, chunk)
                continue
            with weights.in_place():  # the model is itself again when its scores are told
                scores = list(_read(walk, read, rows, members, chunk))
            yield from scores


def _read(
    walk: Walk | Seq2SeqWalk,
    resid: Float[torch.Tensor, "branch read d_model"],
    branches: Sequence[int | None],
    members: Sequence[tuple[int, ...]],
    chunk: int,
) -> Iterator[BranchScores]:
    """Score branches of one group, some at once."""
    read = walk.plan.read
    row_of = {packed: row for row, packed in enumerate(read)}
    # In order of rows, as the read-out wants them; a request's own are then in order, too.
    targets = sorted(
        (row_of[packed], index, place, token)
        for index, request in enumerate(walk.requests)
        if isinstance(request, LogLikelihood)
        for place, (packed, token) in enumerate(
            zip(
                walk.plan.paths[index][walk.plan.n_given[index] - 1 :],
                request.continuation,
                strict=True,
            )
        )
    )
    device = resid.device
    rows = torch.tensor([target[0] for target in targets], dtype=torch.long)
    tokens = torch.tensor([target[3] for target in targets], dtype=torch.long, device=device)
    at_once = max(1, ROWS_AT_ONCE // len(read))
    for start in range(0, len(resid), at_once):
        part = resid[start : start + at_once]
        offsets = torch.arange(len(part))[:, None] * len(read)
        logprobs, greedy = score_rows(
            walk.model,
            part.flatten(0, 1),
            (rows + offsets).flatten(),
            tokens.repeat(len(part)),
            chunk,
        )
        of_branch = logprobs.reshape(len(part), len(targets)).tolist()
        best = greedy.reshape(len(part), len(read)).tolist()
        for i in range(len(part)):
            logprobs_by_request: dict[int, list[float]] = {}
            for (_, index, _, _), value in sorted(
                zip(targets, of_branch[i], strict=True), key=lambda pair: pair[0][1:3]
            ):
                logprobs_by_request.setdefault(index, []).append(value)
            yield BranchScores(
                branches[start + i],
                members[start + i],
                logprobs_by_request,
                dict(zip(read, best[i], strict=True)),
                walk,
            )


OnOutcome = Callable[[int, int, Outcome], None]
OnText = Callable[[Job, Generated], None]
# The share of a batch's progress that its walk has, where texts are written after it.
_WALKED = 0.5


@dataclass
class Engine(ABC):
    """Runs the walks of a plan and collects outcomes."""

    model: Any
    interventions: Sequence[Intervention]  # what is changed
    requests: Sequence[Request]  # what is asked
    stopper: Stopper  # decides where texts end
    memory_budget: int  # bytes for activations, keys and values
    tokens_at_once: int  # so many tokens are pushed through a block at once
    work: Work  # what was done so far

    @classmethod
    @abstractmethod
    def plan(
        cls,
        model: Any,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        memory_budget: int,
    ) -> SweepPlan:
        """The plan of a sweep over a model, whose weights need not be there."""

    @classmethod
    @abstractmethod
    def brute_force(
        cls, model: Any, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
    ) -> int:
        """Token-passes that one cached forward per intervention and request takes."""

    def run(
        self, batches: Sequence[Batch], progress: Callable[[float], None] | None
    ) -> list[list[Outcome]]:
        """All outcomes, by intervention and request."""
        outcomes: dict[tuple[int, int], Outcome] = {}
        waiting, done = deque((batch, 1 / len(batches)) for batch in batches), 0.0
        too_large = math.inf
        while waiting:
            batch, share = waiting.popleft()
            halves = _halves(batch)
            if halves and _size(batch) >= too_large:
                waiting.extendleft((half, share / 2) for half in reversed(halves))
                continue
            progressed = partial(_tell_share, progress, done, share)
            if self._has_room(batch, progressed, partial(_put, outcomes, batch)):
                done += share
                continue
            if not halves:
                raise self._no_room(batch)
            _free_cached(self.model.W_E.device)
            # Batches that wait are as large, and what is made beside their streams is, too.
            too_large, self.memory_budget = _size(batch), max(1, self.memory_budget // 2)
            waiting.appendleft((batch, share))
        return [
            [outcomes[i, r] for r in range(len(self.requests))]
            for i in range(len(self.interventions))
        ]

    def _has_room(self, batch: Batch, progressed: Callable[[float], None], done: OnOutcome) -> bool:
        """Run a batch; False if the device has no room for it. All that it made is gone then."""
        try:
            walk, n_layers = self.walk(batch), self.model.cfg.n_layers
            walked = _WALKED if any(isinstance(r, Generate) for r in walk.requests) else 1.0
            walk.run(lambda layer: progressed(walked * (layer + 1) / n_layers))
            self._read(walk, done, lambda written: progressed(walked + (1 - walked) * written))
        except torch.OutOfMemoryError:
            return False
        return True

    def _no_room(self, batch: Batch) -> UserError:
        changed, device = self.interventions[batch.interventions[0]], self.model.W_E.device
        return UserError(
            f"The device {device} ran out of memory with request {batch.requests[0]} under "
            f"intervention {changed.id!r} alone: expected room for one request beside the weights; "
            "free memory, load the model with a smaller dtype or with offload, or shorten the "
            "request."
        )

    @abstractmethod
    def walk(self, batch: Batch) -> Any:
        """The walk of a batch."""

    @abstractmethod
    def decode(self, walk: Any, jobs: list[Job], done: OnText, logit_rows: int) -> None:
        """Decode the texts of a finished walk, so many rows' logits at once."""

    def _read(self, walk: Any, done: OnOutcome, progressed: Callable[[float], None]) -> None:
        """Score a finished walk's log-likelihoods, decode its texts, and report progress."""
        # Logits are there in the model's format and in float32.
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
        if jobs:
            self.decode(
                walk, jobs, partial(_tell, members, done, progressed, count(1), len(jobs)), chunk
            )


def _size(batch: Batch) -> int:
    """A number that a batch's memory grows with."""
    return batch.n_packed * len(batch.interventions)


def _halves(batch: Batch) -> list[Batch]:
    """A batch in two, by requests if there are several; none of one request and intervention."""
    requests, changed = batch.requests, batch.interventions
    if len(requests) > 1:
        cut, n_packed = len(requests) // 2, (batch.n_packed + 1) // 2
        return [Batch(part, changed, n_packed) for part in (requests[:cut], requests[cut:])]
    if len(changed) > 1:
        cut = len(changed) // 2
        return [Batch(requests, part, batch.n_packed) for part in (changed[:cut], changed[cut:])]
    return []


def _free_cached(device: torch.device) -> None:
    """Give back to the device what torch keeps of its memory for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _put(
    outcomes: dict[tuple[int, int], Outcome],
    batch: Batch,
    intervention: int,
    request: int,
    outcome: Outcome,
) -> None:
    """Store an outcome of a batch under its place in the whole sweep."""
    outcomes[batch.interventions[intervention], batch.requests[request]] = outcome


def _tell(
    members: Mapping[int | None, tuple[int, ...]],
    done: OnOutcome,
    progressed: Callable[[float], None],
    ended: Iterator[int],
    n_texts: int,
    job: Job,
    text: Generated,
) -> None:
    """Report a text for each intervention of its branch, and the finished share."""
    for intervention in members[job.branch]:
        done(intervention, job.request, text)
    progressed(next(ended) / n_texts)


def _tell_share(
    progress: Callable[[float], None] | None, done: float, share: float, part: float
) -> None:
    """Report the progress of a batch as a share of the sweep."""
    if progress is not None:
        progress(min(1.0, done + share * part))
