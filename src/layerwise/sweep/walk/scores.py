"""What is read from a finished walk: log-probabilities and greedy tokens of every branch.

Branches are read together, so that the unembedding is used for many rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from layerwise.sweep.changes.edits import END
from layerwise.sweep.changes.other_weights import OtherWeights
from layerwise.sweep.requests import LogLikelihood, Scored
from layerwise.sweep.seq2seq.walk import Seq2SeqWalk

from .engine import Walk
from .readout import score_rows

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
