"""Readings of a lens: the tokens of an item, the sites, and the predictions there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from layerwise.errors import UserError, count_noun
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.runs.controls import with_another_question
from layerwise.runs.setup import Setup
from layerwise.sweep import LogLikelihood, intact
from layerwise.sweep.activations.intact_run import Place
from layerwise.sweep.requests import Generated, Tokens, n_common_tokens
from layerwise.sweep.walk.readout import divergence, final_logits, first_argmax
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

PROMPT, CONTINUATION, GENERATED = OVER = ("prompt", "continuation", "generated")
SITES = ("resid_pre", "resid_mid", "resid_post")
TOP = 5


def read_lens(
    model: Model,
    resid: Float[torch.Tensor, "read d_model"],
    final: Float[torch.Tensor, "read d_vocab"],
    targets: Int[torch.Tensor, " read"],
) -> dict[str, torch.Tensor]:
    """Read residual streams as if they were the last, beside the final distribution."""
    # Ranks count from 0, and equal logits share the better one; all else is in nats.
    logits = final_logits(model, resid)
    logprobs = torch.log_softmax(logits, dim=-1)
    return {
        "rank": _rank(logits, targets),
        "final_rank": _rank(logits, first_argmax(final)),
        "logprob": logprobs.gather(1, targets[:, None])[:, 0],
        "entropy": -(logprobs.exp() * logprobs).sum(dim=-1),
        "kl": divergence(final, logprobs),
        "top": logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices,
    }


def _rank(
    logits: Float[torch.Tensor, "read d_vocab"], tokens: Int[torch.Tensor, " read"]
) -> Int[torch.Tensor, " read"]:
    return (logits > logits.gather(1, tokens[:, None])).sum(dim=-1)


@dataclass(frozen=True)
class DistinguishingTokens:
    """The tokens of an item's answer that tell it apart, up to where every other option differs."""

    gold: TaskRequest  # of the right option
    start: int  # tokens that all options share; the model is given them
    tokens: Tokens
    # At each token those that it may be in options that are the same before it.
    options: tuple[frozenset[int], ...] = ()
    n_options: int = 0  # that are told apart; none where the item has none


def deciding_tokens(setup: Setup, task: Task, protocol: str) -> Iterator[DistinguishingTokens]:
    """The deciding tokens of each item; none of one whose answer is another option's beginning."""
    shared = _n_shared_tokens(setup, task, protocol)
    for item in task.items:
        requests = setup.requests(task, choosable(task, item, protocol), protocol)
        others = [answer_tokens(request) for request in requests if not request.gold]
        for gold in (request for request in requests if request.gold):
            deciding = _distinguishing_tokens(gold, others, shared)
            if deciding is not None:
                yield deciding


def _distinguishing_tokens(
    gold: TaskRequest, others: list[Tokens], shared: int
) -> DistinguishingTokens | None:
    answer = answer_tokens(gold)
    if not others:
        return DistinguishingTokens(gold, shared, answer[shared : shared + 1])
    start = min(n_common_tokens(answer, other) for other in others)
    stop = 1 + max(n_common_tokens(answer, other) for other in others)
    if stop > len(answer):
        return None
    every = [answer, *others]
    options = tuple(
        frozenset(other[at] for other in every if other[:at] == answer[:at] and at < len(other))
        for at in range(start, stop)
    )
    n_options = len({other[start:stop] for other in every})
    return DistinguishingTokens(gold, start, answer[start:stop], options, n_options)


def _n_shared_tokens(setup: Setup, task: Task, protocol: str) -> int:
    """Tokens that the answers of all items without choices begin with, but for the last one."""
    bare = [item for item in task.items if not item.choices]
    answers = [
        answer_tokens(request)
        for item in bare
        for request in setup.requests(task, choosable(task, item, protocol), protocol)
    ]
    if len(set(answers)) < 2:
        return 0
    return min(min(n_common_tokens(answers[0], answer), len(answer) - 1) for answer in answers)


def answer_tokens(request: TaskRequest) -> Tokens:
    """The tokens of a request's answer."""
    assert isinstance(request.request, LogLikelihood)
    return request.request.continuation


def choosable(task: Task, item: Item, protocol: str) -> Item:
    """An item without choices can still be read: only its answer is asked for."""
    if item.choices:
        return item
    if protocol == "letter":
        raise UserError(
            f"Item {item.id!r} of task {task.name!r} has no choices, which protocol 'letter' "
            "needs; add choices or use protocol 'continuation'."
        )
    return replace(item, choices=(item.answer,))


@dataclass(frozen=True)
class Passage:
    """The tokens of one item that are read."""

    item: str
    tokens: Tokens  # prompt and, if that is read, what follows
    n_prompt: int
    positions: tuple[int, ...]  # which tokens are read, from 0
    # Where each counts, from the end of what is given; all tokens that tell an answer apart count
    # at its end, -1, and become one reading.
    pos: tuple[int, ...]
    targets: tuple[int, ...]  # the token looked for at each
    options: tuple[frozenset[int], ...] = ()  # as in ``DistinguishingTokens``
    n_options: int = 0

    @classmethod
    def from_prompt(cls, read: DistinguishingTokens, positions: Sequence[int] | None) -> Passage:
        """Look for the tokens that tell the answer apart at the end of a prompt."""
        # Elsewhere in the prompt only the first of them is looked for.
        request, (first, *more) = read.gold, read.tokens
        context, shared = request.request.context, answer_tokens(request)[: read.start]
        n = len(context) + len(shared)
        wanted = range(-n, 0) if positions is None else positions
        if min(wanted) < -n:
            raise UserError(
                f"The prompt of item {request.item!r} of task {request.task!r} has "
                f"{count_noun(n, 'token')} and no position {min(wanted)}; ask for positions from "
                f"-{n} to -1, or for all."
            )
        if -1 not in wanted:
            more = []
        before = tuple(sorted(n + pos for pos in wanted))
        places = (*before, *range(n, n + len(more)))
        options = (read.options[:1] * len(before) + read.options[1:])[: len(places)]
        tokens = (*context, *shared, *([first, *more[:-1]] if more else []))
        return cls(
            request.item, tokens, len(context), places, tuple(min(at - n, -1) for at in places),
            (*[first] * len(before), *more), options, read.n_options,
        )  # fmt: skip

    @classmethod
    def from_continuation(cls, request: TaskRequest, rest: Tokens) -> Passage:
        """Look for each token of what follows a prompt where it is predicted."""
        context = request.request.context
        n = len(context)
        read = tuple(range(n - 1, n - 1 + len(rest)))
        return cls(
            request.item, (*context, *rest[:-1]), n, read, tuple(at - n for at in read), rest
        )


def passages(
    setup: Setup, task: Task, protocol: str, over: str, positions: Sequence[int] | None
) -> list[Passage]:
    """Passages of a task's items that are read; generates the texts where these are read."""
    if over == PROMPT:
        deciding = deciding_tokens(setup, task, protocol)
        return [Passage.from_prompt(tokens, positions) for tokens in deciding]
    requests = gold_requests(setup, task, protocol)
    if over == CONTINUATION:
        return [Passage.from_continuation(request, answer_tokens(request)) for request in requests]
    (texts,) = setup.sweep([intact()], [request.request for request in requests]).outcomes
    return [
        Passage.from_continuation(request, text.tokens)
        for request, text in zip(requests, texts, strict=True)
        if isinstance(text, Generated) and text.tokens
    ]


def gold_requests(setup: Setup, task: Task, protocol: str) -> list[TaskRequest]:
    """The gold requests of a task's items."""
    every = (
        setup.requests(
            task, item if protocol == "generate" else choosable(task, item, protocol), protocol
        )
        for item in task.items
    )
    return [request for requests in every for request in requests if request.gold]


def blind_requests(
    setup: Setup, task: Task, protocol: str
) -> dict[str, tuple[LogLikelihood, slice]]:
    """Each item's answer after a prompt that asks another question, and where it is told apart."""
    read = {tokens.gold.item: tokens for tokens in deciding_tokens(setup, task, protocol)}
    items = [item for item in task.items if item.id in read]
    blind = {}
    for item, other in with_another_question(setup, task, items).items():
        with contextlib.suppress(UserError):
            requests = setup.requests(task, choosable(task, other, protocol), protocol)
            gold = next(each for each in requests if each.gold)
            deciding = slice(read[item].start, read[item].start + len(read[item].tokens))
            answer = answer_tokens(gold)[: deciding.stop]
            blind[item] = LogLikelihood(gold.request.context, answer), deciding
    return blind


def lens_places(model: Model, sites: Sequence[str]) -> tuple[Place, ...]:
    """The places of some sites (of a decoder, if there are two stacks), in order of computation."""
    if "resid_mid" in sites and (model.cfg.parallel_attn_mlp or model.cfg.attn_only):
        raise UserError(
            "This model has no resid_mid: its attention and MLP are parallel, or it has no MLP; "
            "read resid_pre or resid_post."
        )
    begin = n_encoder_layers(model)
    ordered = [site for site in SITES if site in sites]
    return tuple(
        (site, n)
        for n in range(begin - 1, model.cfg.n_layers)
        for site in ordered
        if n >= begin or site == "resid_post"
    )
