"""What a lens reads: which tokens of an item are read, at which sites, and what is seen there.

How the readings of many items become a result is the business of ``job``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from layerwise.errors import UserError, counted
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.runs.controls import with_another_question
from layerwise.runs.setup import Setup
from layerwise.sweep import Generate, LogLikelihood, intact
from layerwise.sweep.activations.intact_run import Place
from layerwise.sweep.requests import Generated, Tokens
from layerwise.sweep.walk.readout import divergence, first_argmax, logits_of
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

PROMPT, CONTINUATION, GENERATED = OVER = ("prompt", "continuation", "generated")
SITES = ("resid_pre", "resid_mid", "resid_post")
TOP = 5


@dataclass(frozen=True)
class Reading:
    """What the lens shows at one place for some tokens.

    Attributes:
        rank: rank of the token looked for; 0 is the top, equal logits share the better rank.
        final_rank: rank of the token that the whole model puts on top.
        logprob: log-probability of the token looked for, in nats.
        entropy: entropy of the distribution, in nats.
        kl: KL divergence from the final distribution to this one, in nats.
        top: ids of the most likely tokens.
    """

    rank: Int[torch.Tensor, " read"]
    final_rank: Int[torch.Tensor, " read"]
    logprob: Float[torch.Tensor, " read"]
    entropy: Float[torch.Tensor, " read"]
    kl: Float[torch.Tensor, " read"]
    top: Int[torch.Tensor, "read top"]


def read_lens(
    model: Model,
    resid: Float[torch.Tensor, "read d_model"],
    final: Float[torch.Tensor, "read d_vocab"],
    targets: Int[torch.Tensor, " read"],
) -> Reading:
    """Read residual streams as if they were the last."""
    logits = logits_of(model, resid)
    logprobs = torch.log_softmax(logits, dim=-1)
    return Reading(
        rank=_rank(logits, targets),
        final_rank=_rank(logits, first_argmax(final)),
        logprob=logprobs.gather(1, targets[:, None])[:, 0],
        entropy=-(logprobs.exp() * logprobs).sum(dim=-1),
        kl=divergence(final, logprobs),
        top=logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices,
    )


def _rank(
    logits: Float[torch.Tensor, "read d_vocab"], tokens: Int[torch.Tensor, " read"]
) -> Int[torch.Tensor, " read"]:
    return (logits > logits.gather(1, tokens[:, None])).sum(dim=-1)


@dataclass(frozen=True)
class Passage:
    """The tokens of one item that are read.

    Attributes:
        item: its id.
        tokens: prompt and, if that is read, what follows.
        n_prompt: tokens of the prompt.
        positions: which tokens are read, from 0.
        targets: the token looked for at each.
        options: the tokens that the item's choices begin with; none where it has no choices, or
            where not the answer's first token is looked for.
    """

    item: str
    tokens: Tokens
    n_prompt: int
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    options: frozenset[int] = frozenset()

    @classmethod
    def of_prompt(
        cls,
        request: TaskRequest,
        positions: Sequence[int] | None,
        options: frozenset[int] = frozenset(),
    ) -> Passage:
        """Look for the answer's first token in a prompt."""
        tokens, answer = request.request.context, answer_tokens(request)[0]
        n = len(tokens)
        wanted = range(-n, 0) if positions is None else positions
        if min(wanted) < -n:
            raise UserError(
                f"The prompt of item {request.item!r} of task {request.task!r} has "
                f"{counted(n, 'token')} and no position {min(wanted)}; ask for positions from "
                f"-{n} to -1, or for all."
            )
        read = tuple(sorted(n + pos for pos in wanted))
        return cls(request.item, tokens, n, read, (answer,) * len(read), options)

    @classmethod
    def of_rest(cls, request: TaskRequest, rest: Tokens) -> Passage:
        """Look for each token of what follows a prompt where it is predicted."""
        context = request.request.context
        n = len(context)
        read = tuple(range(n - 1, n - 1 + len(rest)))
        return cls(request.item, (*context, *rest[:-1]), n, read, rest)


def passages(
    setup: Setup, task: Task, protocol: str, over: str, positions: Sequence[int] | None
) -> list[Passage]:
    """What is read of a task's items; generates the texts where these are read.

    Items whose answer begins like a distractor are left out where the first token of the answer
    is looked for, and items of which the model writes nothing where its text is.
    """
    if over == PROMPT:
        distinct = _distinct_requests(setup, task, protocol)
        return [Passage.of_prompt(gold, positions, options) for gold, options in distinct]
    asked = gold_requests(setup, task, protocol)
    if over == CONTINUATION:
        return [Passage.of_rest(request, answer_tokens(request)) for request in asked]
    (texts,) = setup.sweep([intact()], [request.request for request in asked]).outcomes
    return [
        Passage.of_rest(request, text.tokens)
        for request, text in zip(asked, texts, strict=True)
        if isinstance(text, Generated) and text.tokens
    ]


def gold_requests(
    setup: Setup, task: Task, protocol: str, *, distinct: bool = False
) -> list[TaskRequest]:
    """The gold requests of a task's items."""
    if distinct:
        return [gold for gold, _ in _distinct_requests(setup, task, protocol)]
    asked = (
        setup.requests(
            task, item if protocol == "generate" else _choosable(task, item, protocol), protocol
        )
        for item in task.items
    )
    return [one for requests in asked for one in requests if one.gold]


def _distinct_requests(
    setup: Setup, task: Task, protocol: str
) -> Iterator[tuple[TaskRequest, frozenset[int]]]:
    """Gold requests that no distractor begins like, and what the item's choices begin with."""
    for item in task.items:
        asked = setup.requests(task, _choosable(task, item, protocol), protocol)
        others = frozenset(answer_tokens(one)[0] for one in asked if not one.gold)
        for gold in (one for one in asked if one.gold):
            first = answer_tokens(gold)[0]
            if first not in others:
                yield gold, others | {first} if others else others


def blind_requests(setup: Setup, task: Task, protocol: str) -> dict[str, LogLikelihood]:
    """The first token of each item's answer after a prompt that asks another item's question."""
    read = {request.item for request in gold_requests(setup, task, protocol, distinct=True)}
    items = [item for item in task.items if item.id in read]
    found = {}
    for item, other in with_another_question(setup, task, items).items():
        with contextlib.suppress(UserError):
            asked = setup.requests(task, _choosable(task, other, protocol), protocol)
            gold = next(one for one in asked if one.gold)
            found[item] = LogLikelihood(gold.request.context, answer_tokens(gold)[:1])
    return found


def answer_tokens(request: TaskRequest) -> Tokens:
    """The tokens of a request's answer."""
    assert isinstance(request.request, LogLikelihood)
    return request.request.continuation


def _choosable(task: Task, item: Item, protocol: str) -> Item:
    """An item without choices can still be read: only its answer is asked for."""
    if item.choices:
        return item
    if protocol == "letter":
        raise UserError(
            f"Item {item.id!r} of task {task.name!r} has no choices, which protocol 'letter' "
            "needs; add choices or use protocol 'continuation'."
        )
    return replace(item, choices=(item.answer,))


def most_tokens(request: TaskRequest, share: float) -> tuple[Tokens, int]:
    """A request's prompt, and how many tokens of what follows it are likely to be read."""
    asked = request.request
    if isinstance(asked, Generate):
        return asked.context, max(1, round(asked.max_tokens * share))
    return asked.context, len(asked.continuation)


def places_of(model: Model, sites: Sequence[str]) -> tuple[Place, ...]:
    """The places of some sites, from the first layer on; ``resid_post`` begins one layer before.

    Of an encoder-decoder they are those of the decoder.
    """
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
