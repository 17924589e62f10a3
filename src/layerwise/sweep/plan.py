"""The plan of a sweep: which requests and interventions go through the layers together.

A plan is a value made from shapes and token ids alone; it can be printed and tested without a
model. It bounds memory; the engine that follows it decides nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .interventions import Intervention, PatchSite
from .requests import Generate, LogLikelihood, Request, Tokens
from .trie import TokenTrie

DEFAULT_MEMORY_BUDGET = 3 * 2**30


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide a sweep's memory and work.

    Attributes:
        n_layers: number of blocks.
        d_model: width of the residual stream.
        d_kv: key/value heads times their width.
        itemsize: bytes of one activation.
        n_ctx: longest sequence that the model takes.
        has_mlp: whether blocks have an MLP.
    """

    n_layers: int
    d_model: int
    d_kv: int
    itemsize: int
    n_ctx: int
    has_mlp: bool = True


@dataclass(frozen=True)
class Batch:
    """Requests and interventions (as indices) that share one walk through the layers."""

    requests: tuple[int, ...]
    interventions: tuple[int, ...]
    n_packed: int


@dataclass(frozen=True)
class SweepPlan:
    """Batches in order, and the work they are in token-passes through one block.

    Attributes:
        batches: the walks to make.
        token_passes: planned for the prompts (generated tokens come on top).
        brute_force_token_passes: the same for one forward per request and intervention.
    """

    batches: tuple[Batch, ...]
    token_passes: int
    brute_force_token_passes: int

    def __str__(self) -> str:
        lines = [
            f"{len(self.batches)} walks, {self.token_passes:,} token-passes through a block "
            f"against {self.brute_force_token_passes:,} by brute force"
        ]
        lines += [
            f"  walk {i}: {len(b.requests)} requests, {len(b.interventions)} interventions, "
            f"{b.n_packed} packed tokens"
            for i, b in enumerate(self.batches)
        ]
        return "\n".join(lines)


def sequence_of(request: Request) -> Tokens:
    """The tokens that must be run for a request: the last scored token is only read out."""
    if isinstance(request, Generate):
        return request.context
    return request.context + request.continuation[:-1]


def share_key(request: Request) -> tuple[Tokens, Tokens] | None:
    """Requests with one key may share packed tokens.

    A patch position is relative to a context and its source, so only requests that agree in
    both may share a patched token.
    """
    source = getattr(request, "source", None)
    return None if source is None else (request.context, source)


def plan_sweep(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> SweepPlan:
    """Cut a sweep into walks that fit a memory budget.

    Args:
        interventions: what is changed.
        requests: what is asked.
        shape: sizes of the model.
        memory_budget: bytes that activations, keys and values may take.

    Raises:
        UserError: if a layer, a position or a length is out of range.
    """
    _check(interventions, requests, shape)
    order = sorted(range(len(requests)), key=lambda i: (share_key(requests[i]) is not None, i))
    batches: list[Batch] = []
    trie, inside = TokenTrie(), []
    room = _tokens_that_fit(len(interventions), requests, shape, memory_budget)
    for index in order:
        request = requests[index]
        added = _add(trie, request)
        if inside and len(trie) > room:
            batches += _split(
                inside, len(trie) - added, interventions, requests, shape, memory_budget
            )
            trie, inside = TokenTrie(), []
            _add(trie, request)
        inside.append(index)
    if inside:
        batches += _split(inside, len(trie), interventions, requests, shape, memory_budget)
    passes = sum(
        b.n_packed * sum(_layers_run(interventions[i], shape) for i in b.interventions)
        for b in batches
    )
    brute = sum(len(sequence_of(r)) for r in requests) * len(interventions) * shape.n_layers
    return SweepPlan(tuple(batches), passes, brute)


def _add(trie: TokenTrie, request: Request) -> int:
    before = len(trie)
    trie.add(sequence_of(request), share_key(request))
    if isinstance(request, LogLikelihood) and request.source is not None:
        trie.add(request.source, share_key(request))
    return len(trie) - before


def _layers_run(intervention: Intervention, shape: ModelShape) -> int:
    return shape.n_layers - (intervention.layer or 0)


def _bytes_per_token(n_branches: int, generates: bool, shape: ModelShape) -> int:
    """Residual streams of all branches; with generation also the keys and values to decode from."""
    kept = 2 * shape.d_kv * shape.n_layers if generates else 0
    return (n_branches + 2) * (2 * shape.d_model + kept) * shape.itemsize


def _tokens_that_fit(
    n_branches: int, requests: Sequence[Request], shape: ModelShape, budget: int
) -> int:
    generates = any(isinstance(request, Generate) for request in requests)
    return budget // 2 // _bytes_per_token(n_branches, generates, shape)


def _split(
    inside: list[int],
    n_packed: int,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
    budget: int,
) -> list[Batch]:
    """One walk, or several over fewer interventions if one request alone is too large."""
    generates = any(isinstance(requests[index], Generate) for index in inside)
    per_branch = _bytes_per_token(1, generates, shape) * n_packed / 3
    at_once = max(1, min(len(interventions), int(budget / 2 / per_branch) - 2))
    return [
        Batch(
            tuple(inside), tuple(range(start, min(start + at_once, len(interventions)))), n_packed
        )
        for start in range(0, len(interventions), at_once)
    ]


def _check(
    interventions: Sequence[Intervention], requests: Sequence[Request], shape: ModelShape
) -> None:
    for intervention in interventions:
        for edit in intervention.edits:
            if not 0 <= edit.layer < shape.n_layers:
                raise UserError(
                    f"Layer {edit.layer} of intervention {intervention.id!r} is out of range: "
                    f"the model has layers 0 to {shape.n_layers - 1}."
                )
            if getattr(edit, "site", None) == "mlp_out" and not shape.has_mlp:
                raise UserError(
                    f"Intervention {intervention.id!r} changes mlp_out, but the model's blocks "
                    "have no MLP; use attn_out or resid_post."
                )
    patches = [e for i in interventions for e in i.edits if isinstance(e, PatchSite)]
    for number, request in enumerate(requests):
        _check_request(number, request, patches, shape)


def _check_request(
    number: int, request: Request, patches: Sequence[PatchSite], shape: ModelShape
) -> None:
    length = len(sequence_of(request))
    if isinstance(request, Generate):
        length += request.max_tokens
    if not request.context or (isinstance(request, LogLikelihood) and not request.continuation):
        raise UserError(
            f"Request {number} has an empty context or continuation; give each at least one token."
        )
    if length > shape.n_ctx:
        raise UserError(
            f"Request {number} needs {length} tokens, but the model's context is {shape.n_ctx}; "
            "shorten the context, the few-shot examples or the number of tokens to generate."
        )
    if not patches:
        return
    source = getattr(request, "source", None)
    if source is None or len(source) != len(request.context):
        raise UserError(
            f"Request {number} has no source run of the same length as its context, "
            "which patching needs; give both prompts the same number of tokens."
        )
    for edit in patches:
        if not -len(source) <= edit.pos < len(source):
            raise UserError(
                f"Patch position {edit.pos} is out of range for request {number}, "
                f"whose context has {len(source)} tokens."
            )
