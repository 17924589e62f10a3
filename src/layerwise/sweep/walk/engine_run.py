"""One run of the engine over a model: its plan, its walks, its outcomes.

A walk for which the device has no room is made in smaller ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import eq

import torch
from jaxtyping import Float

from layerwise.errors import UserError
from layerwise.models.instance.kinds import (
    Model,
    before_answer,
    decoder_prefix,
    heads_per_key,
    key_heads,
    n_encoder_layers,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.edits import END, OtherWeights, in_place
from layerwise.sweep.changes.interventions import Intervention, distinct_donors, intact
from layerwise.sweep.decoding.decode import Decoder, row_capacity
from layerwise.sweep.decoding.decode_step import DecodedText
from layerwise.sweep.packed.blocks import BlockRunner, block_runners, unpackable_reason
from layerwise.sweep.packed.layout import SCRATCH
from layerwise.sweep.plans.plan import (
    DEFAULT_MEMORY_BUDGET,
    Batch,
    EncoderShape,
    ModelShape,
    SweepPlan,
    plan_sweep,
)
from layerwise.sweep.plans.walk_plan import plan_walk
from layerwise.sweep.requests import (
    Generate,
    Generated,
    LogLikelihood,
    Outcome,
    Request,
    Scored,
    Stopper,
)

from .engine import TOKENS_AT_ONCE, Seen, SweepWork, Walk
from .readout import CHUNK, score_rows

ROWS_AT_ONCE = 4096


# A branch (row of the walk's group; None is the trunk), the interventions (as indices into the
# walk's) whose it is, and by request its score, or the first token of its text.
BranchScores = tuple[int | None, tuple[int, ...], list[Scored | int]]


def read_scores(walk: Walk, chunk: int) -> Iterator[BranchScores]:
    """The scores of the trunk, if it is asked for, and of all branches."""
    if walk.plan.intact:
        yield from _score_branches(walk, walk.trunk, [None], [walk.plan.intact], chunk)
    for group in walk.groups:
        alike: dict[OtherWeights | None, list[int]] = {}
        for row, branch in enumerate(group.branches):
            alike.setdefault(branch.weights(walk.model.cfg.n_layers, END), []).append(row)
        for weights, rows in alike.items():
            read = group.read if len(rows) == len(group.branches) else group.read[rows]
            members = [group.branches[row].members for row in rows]
            if weights is None:
                yield from _score_branches(walk, read, rows, members, chunk)
                continue
            with in_place(weights):  # the model is itself again when its scores are given
                scores = list(_score_branches(walk, read, rows, members, chunk))
            yield from scores


def _score_branches(
    walk: Walk,
    resid: Float[torch.Tensor, "branch read d_model"],
    branches: Sequence[int | None],
    members: Sequence[tuple[int, ...]],
    chunk: int,
) -> Iterator[BranchScores]:
    """Score branches of one group, some at once."""
    read, side = walk.plan.read, walk.side
    row_of = {packed: row for row, packed in enumerate(read)}
    ends = [
        [row_of[packed] for packed in path[n_given - 1 :]]
        for path, n_given in zip(side.paths, side.n_given, strict=True)
    ]
    asked = [r.continuation if isinstance(r, LogLikelihood) else () for r in walk.requests]
    targets = [
        (row, token)
        for end, continuation in zip(ends, asked, strict=True)
        for row, token in zip(end, continuation, strict=False)
    ]
    # The read-out wants them in order of rows.
    order = sorted(range(len(targets)), key=lambda number: (targets[number][0], number))
    place = {number: at for at, number in enumerate(order)}
    rows = torch.tensor([targets[number][0] for number in order], dtype=torch.long)
    tokens = torch.tensor([targets[n][1] for n in order], dtype=torch.long, device=resid.device)
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
        best_of_branch = greedy.reshape(len(part), len(read)).tolist()
        numbers = range(start, start + len(part))
        for number, values, best in zip(numbers, of_branch, best_of_branch, strict=True):
            scores = iter([values[place[target]] for target in range(len(targets))])
            answers: list[Scored | int] = []
            for end, continuation in zip(ends, asked, strict=True):
                greedy_tokens = [best[row] for row in end]
                if continuation:
                    of_tokens = tuple(islice(scores, len(continuation)))
                    answers.append(Scored(of_tokens, tuple(map(eq, greedy_tokens, continuation))))
                else:
                    answers.append(greedy_tokens[0])
            yield branches[number], members[number], answers


Progress = Callable[[float], None]
# The share of a batch's progress that its walk has, where texts are written after it.
_WALKED = 0.5


def plan_for_model(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> SweepPlan:
    """The plan of a sweep over a model, whose weights need not be there."""
    return plan_sweep(interventions, requests, model_shape(model), memory_budget)


def model_shape(model: Model) -> ModelShape:
    """The sizes of a model that decide memory and work."""
    cfg, encoder = model.cfg, None
    n_kv, d_head = key_heads(model)
    if isinstance(model, Seq2SeqModel):
        sizes = model.cfg
        d_heads = sizes.encoder_heads * sizes.encoder_d_head
        encoder = EncoderShape(sizes.n_encoder_layers, sizes.encoder_heads, d_heads, model.prefix)
        n_heads, gated = sizes.decoder_heads, model.parts.decoder.blocks[0].mlp.gate is not None
        in_parts, experts = False, 1
    else:
        n_heads, gated = model.cfg.n_heads, model.cfg.gated_mlp
        in_parts, experts = unpackable_reason(model) is None, model.cfg.experts_per_token or 1
    return ModelShape(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_kv=n_kv * d_head,
        itemsize=model.W_E.element_size(),
        n_ctx=cfg.n_ctx,
        has_mlp=not cfg.attn_only,
        n_heads=n_heads,
        d_vocab=cfg.d_vocab,
        in_parts=in_parts,
        d_mlp=0 if cfg.attn_only else cfg.d_mlp or 0,
        group=heads_per_key(cfg),
        has_mid=not (cfg.attn_only or cfg.parallel_attn_mlp),
        d_heads=n_heads * d_head,
        mlp_products=3 if gated else 2,
        experts=experts,
        encoder=encoder,
    )


def make_walk(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    work: SweepWork,
    tokens_at_once: int = TOKENS_AT_ONCE,
    scratch: int = SCRATCH,
    runners: Sequence[BlockRunner] | None = None,
) -> Walk:
    """The walk of some requests under some interventions, with walks of their donors in step."""
    # A donor's walk packs the same tokens in the same order, so that a token has one index in both.
    donors = {
        id(donor): donor_layers(donor, requests, work) for donor in distinct_donors(interventions)
    }
    stacks = n_encoder_layers(model), decoder_prefix(model)
    plan = plan_walk(interventions, requests, model.cfg.n_layers, *stacks)
    runners = block_runners(model) if runners is None else runners
    return Walk(model, runners, plan, requests, work, tokens_at_once, scratch, donors)


def donor_layers(model: Model, requests: Sequence[Request], work: SweepWork) -> Iterator[Seen]:
    """The activations of another model by layer, over the tokens of a walk."""
    for _, seen in make_walk(model, [intact()], requests, work).layers(observe=True):
        yield seen


def brute_force(
    model: Model, requests: Sequence[Request], outcomes: Sequence[Sequence[Outcome]]
) -> int:
    """Token-passes that one cached forward per intervention and request takes."""
    n_encoder, total = n_encoder_layers(model), 0
    for of_intervention in outcomes:
        for request, outcome in zip(requests, of_intervention, strict=True):
            answer = outcome.tokens if isinstance(outcome, Generated) else outcome.token_logprobs
            n_read = len(before_answer(model, request.context)) + max(0, len(answer) - 1)
            total += n_encoder * len(request.context) + (model.cfg.n_layers - n_encoder) * n_read
    return total


def engine_outcomes(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    stopper: Stopper,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    tokens_at_once: int = TOKENS_AT_ONCE,
    progress: Progress | None = None,
) -> tuple[list[list[Outcome]], SweepWork, SweepPlan]:
    """Put every request to the model under every intervention, whatever the model is."""
    plan = plan_for_model(model, interventions, requests, memory_budget)
    engine = Engine(model, interventions, requests, stopper, memory_budget, tokens_at_once)
    return engine.run(plan.batches, progress), engine.work, plan


class Engine:
    """Runs the walks of a plan and collects outcomes."""

    def __init__(
        self,
        model: Model,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        stopper: Stopper,
        memory_budget: int,
        tokens_at_once: int = TOKENS_AT_ONCE,
    ) -> None:
        self.model, self.interventions, self.requests = model, interventions, requests
        self.stopper, self.memory_budget = stopper, memory_budget
        self.tokens_at_once, self.work = tokens_at_once, SweepWork()
        self.runners = block_runners(model)
        self.outcomes: dict[tuple[int, int], Outcome] = {}

    def run(self, batches: Sequence[Batch], progress: Progress | None) -> list[list[Outcome]]:
        """All outcomes, by intervention and request."""
        waiting, done = deque((batch, 1 / len(batches)) for batch in batches), 0.0
        too_large = math.inf
        while waiting:
            batch, share = waiting.popleft()
            halves = _halves(batch)
            if halves and _size(batch) >= too_large:
                waiting.extendleft((half, share / 2) for half in reversed(halves))
                continue

            def report_progress(part: float, ended: float = done, share: float = share) -> None:
                if progress is not None:
                    progress(min(1.0, ended + share * part))

            if self._has_room(batch, report_progress):
                done += share
                continue
            if not halves:
                raise self._no_room(batch)
            if self.model.W_E.device.type == "cuda":  # what torch keeps of its memory for later
                torch.cuda.empty_cache()
            # Batches that wait are as large, and what is made beside their streams is, too.
            too_large, self.memory_budget = _size(batch), max(1, self.memory_budget // 2)
            waiting.appendleft((batch, share))
        return [
            [self.outcomes[i, r] for r in range(len(self.requests))]
            for i in range(len(self.interventions))
        ]

    def _has_room(self, batch: Batch, report_progress: Progress) -> bool:
        """Run a batch; False if the device has no room for it. All that it made is gone then."""
        try:
            walk, n_layers = self.walk(batch), self.model.cfg.n_layers
            walked = _WALKED if any(isinstance(r, Generate) for r in walk.requests) else 1.0
            walk.run(lambda layer: report_progress(walked * (layer + 1) / n_layers))
            self._read_walk(
                batch, walk, lambda texts: report_progress(walked + (1 - walked) * texts)
            )
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

    def walk(self, batch: Batch) -> Walk:
        """The walk of a batch."""
        changed = [self.interventions[index] for index in batch.interventions]
        requests = [self.requests[index] for index in batch.requests]
        at_once, scratch = self._tokens_at_once(), min(SCRATCH, self.memory_budget // 16)
        return make_walk(self.model, changed, requests, self.work, at_once, scratch, self.runners)

    def _tokens_at_once(self) -> int:
        """As asked for, or as few as the budget has room for."""
        room = self.memory_budget // 8 // model_shape(self.model).block_bytes_per_token
        return max(64, min(self.tokens_at_once, room))

    def _read_walk(self, batch: Batch, walk: Walk, report_progress: Progress) -> None:
        """Score a finished walk's log-likelihoods, decode its texts, and report progress."""
        # Logits are there in the model's format and in float32.
        per_row = self.model.cfg.d_vocab * (4 + self.model.W_E.element_size())
        chunk = max(8, min(CHUNK, self.memory_budget // 8 // per_row))
        jobs: list[DecodedText] = []
        members: dict[int | None, tuple[int, ...]] = {}

        def put(branch: int | None, index: int, outcome: Outcome) -> None:
            for member in members[branch]:
                place = batch.interventions[member], batch.requests[index]
                self.outcomes[place] = outcome

        for branch, of_branch, answers in read_scores(walk, chunk):
            members[branch] = of_branch
            for index, (request, answer) in enumerate(zip(walk.requests, answers, strict=True)):
                if isinstance(request, LogLikelihood):
                    assert not isinstance(answer, int)
                    put(branch, index, answer)
                else:
                    assert isinstance(answer, int)
                    n_given = walk.side.n_given[index]
                    jobs.append(DecodedText(branch, index, request, n_given, [answer]))
        n_texts, n_ended = len(jobs), 0

        def done(job: DecodedText, text: Generated) -> None:
            nonlocal n_ended
            put(job.branch, job.request, text)
            n_ended += 1
            report_progress(n_ended / n_texts)

        if jobs:
            generating = sorted({job.request for job in jobs})
            capacity = row_capacity(walk, generating, self.memory_budget // 4)
            Decoder(walk, self.stopper, deque(jobs), capacity, done, logit_rows=chunk).run()


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
