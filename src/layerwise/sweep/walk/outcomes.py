"""The scores of a walk that is done: log-likelihoods, and the first token of each text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float

from layerwise.sweep.changes.edits import END, OtherWeights, in_place
from layerwise.sweep.requests import LogLikelihood, Scored
from layerwise.sweep.seq2seq.walk import Seq2SeqWalk

from .engine import Walk
from .readout import score_rows

ROWS_AT_ONCE = 4096


class BranchScores(NamedTuple):
    """What one branch says to each request."""

    branch: int | None  # row of the walk's group; None is the trunk
    # The interventions (as indices into the walk's) whose branch it is.
    interventions: tuple[int, ...]
    answers: list[Scored | int]  # by request: its score, or the first token of its text


def read_scores(walk: Walk | Seq2SeqWalk, chunk: int) -> Iterator[BranchScores]:
    """The scores of the trunk, if it is asked for, and of all branches."""
    if walk.plan.intact:
        yield from _read(walk, walk.trunk, [None], [walk.plan.intact], chunk)
    for group in walk.groups:
        alike: dict[OtherWeights | None, list[int]] = {}
        for row, branch in enumerate(group.branches):
            alike.setdefault(branch.weights(walk.model.cfg.n_layers, END), []).append(row)
        for weights, rows in alike.items():
            read = group.read if len(rows) == len(group.branches) else group.read[rows]
            members = [group.branches[row].members for row in rows]
            if weights is None:
                yield from _read(walk, read, rows, members, chunk)
                continue
            with in_place(weights):  # the model is itself again when its scores are given
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
    plan, read = walk.plan, walk.plan.read
    row_of = {packed: row for row, packed in enumerate(read)}
    ends = [path[n - 1 :] for path, n in zip(plan.paths, plan.n_given, strict=True)]
    # In order of rows, as the read-out wants them; a request's own are then in order, too.
    targets = sorted(
        (row_of[packed], index, place, token)
        for index, request in enumerate(walk.requests)
        if isinstance(request, LogLikelihood)
        for place, (packed, token) in enumerate(zip(ends[index], request.continuation, strict=True))
    )
    in_order = sorted(range(len(targets)), key=lambda number: targets[number][1:3])
    rows = torch.tensor([target[0] for target in targets], dtype=torch.long)
    tokens = torch.tensor([target[3] for target in targets], dtype=torch.long, device=resid.device)
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
            by_request: dict[int, list[float]] = {}
            for target in in_order:
                by_request.setdefault(targets[target][1], []).append(values[target])
            answers: list[Scored | int] = []
            for index, request in enumerate(walk.requests):
                said = [best[row_of[packed]] for packed in ends[index]]
                if isinstance(request, LogLikelihood):
                    greedily = zip(said, request.continuation, strict=True)
                    right = tuple(token == wanted for token, wanted in greedily)
                    answers.append(Scored(tuple(by_request[index]), right))
                else:
                    answers.append(said[0])
            yield BranchScores(branches[number], members[number], answers)
