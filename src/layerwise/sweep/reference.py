"""The sweep by brute force: one plain hooked forward per intervention, request and new token.

Slow and obvious on purpose: it defines what the engine must compute. No caches, no batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from .interventions import Edit, Intervention, PatchSite, SetSite, SkipLayer
from .requests import Generate, Generated, LogLikelihood, Outcome, Request, Scored, Tokens
from .stopping import Stopper

Hooks = list[tuple[str | Callable[..., Any], Callable[..., Any]]]


def reference_outcome(
    model: HookedTransformer, intervention: Intervention, request: Request, stopper: Stopper
) -> Outcome:
    """The outcome of one request under one intervention."""
    if isinstance(request, Generate):
        return _generate(model, intervention, request, stopper)
    logits = _logits(model, intervention, request, request.context + request.continuation[:-1])
    return _score(logits, request)


def _score(logits: Float[torch.Tensor, "pos d_vocab"], request: LogLikelihood) -> Scored:
    # Summing tens of thousands of exponentials in float32 would be the largest error here.
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    begin = len(request.context) - 1
    rows = [logprobs[begin + i] for i in range(len(request.continuation))]
    scored = [float(row[token]) for row, token in zip(rows, request.continuation, strict=True)]
    greedy = [
        _first_best(row) == token for row, token in zip(rows, request.continuation, strict=True)
    ]
    return Scored(tuple(scored), all(greedy))


def _generate(
    model: HookedTransformer, intervention: Intervention, request: Generate, stopper: Stopper
) -> Generated:
    tokens: list[int] = []
    while not tokens or not stopper.ended(tokens, request):
        logits = _logits(model, intervention, request, request.context + tuple(tokens))
        tokens.append(_first_best(logits[-1]))
    return stopper.outcome(tokens, request)


def _first_best(row: Float[torch.Tensor, " d_vocab"]) -> int:
    """The most likely token; of exactly equal ones that with the smallest id."""
    return int((row == row.max()).nonzero()[0, 0])


def _logits(
    model: HookedTransformer, intervention: Intervention, request: Request, tokens: Tokens
) -> Float[torch.Tensor, "pos d_vocab"]:
    hooks: Hooks = []
    for edit in sorted(intervention.edits, key=_order):
        hooks += _hooks(model, edit, request)
    return model.run_with_hooks(_input(model, tokens), fwd_hooks=hooks)[0]


def _order(edit: Edit) -> int:
    """Within a layer: what enters it first, then a skip of what has entered, then the rest."""
    if isinstance(edit, SkipLayer):
        return 1
    return 0 if edit.site == "resid_pre" else 2


def _input(model: HookedTransformer, tokens: Tokens) -> torch.Tensor:
    return torch.tensor([tokens], device=model.W_E.device)


def _hooks(model: HookedTransformer, edit: Edit, request: Request) -> Hooks:
    """The hooks that make one edit."""
    block = f"blocks.{edit.layer}"
    if isinstance(edit, SkipLayer):
        store: dict[str, torch.Tensor] = {}
        return [
            (f"{block}.hook_resid_pre", partial(_remember, store=store)),
            (f"{block}.hook_resid_post", partial(_recall, store=store)),
        ]
    name = f"{block}.attn.hook_z" if edit.site == "z" else f"{block}.hook_{edit.site}"
    if isinstance(edit, SetSite):
        return [(name, partial(_set, value=edit.value))]
    return [(name, partial(_put, edit=edit, request=request, value=_source(model, name, request)))]


def _source(model: HookedTransformer, name: str, request: Request) -> torch.Tensor:
    assert isinstance(request, LogLikelihood)
    assert request.source is not None, "a patch needs a source run"
    _, cache = model.run_with_cache(_input(model, request.source), names_filter=name)
    return cache[name]


def _remember(tensor: torch.Tensor, hook: Any, store: dict[str, torch.Tensor]) -> None:
    store["resid_pre"] = tensor


def _recall(tensor: torch.Tensor, hook: Any, store: dict[str, torch.Tensor]) -> torch.Tensor:
    return store["resid_pre"]


def _set(tensor: torch.Tensor, hook: Any, value: torch.Tensor) -> torch.Tensor:
    return value.to(tensor).expand_as(tensor)


def _put(
    tensor: torch.Tensor, hook: Any, edit: PatchSite, request: Request, value: torch.Tensor
) -> torch.Tensor:
    pos = edit.pos % len(request.context)
    patched = tensor.clone()
    at = (slice(None), pos) if edit.head is None else (slice(None), pos, edit.head)
    patched[at] = value[at]
    return patched


def reference_outcomes(
    model: HookedTransformer,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    stopper: Stopper,
) -> list[list[Outcome]]:
    """Outcomes by intervention, then request."""
    return [
        [reference_outcome(model, intervention, request, stopper) for request in requests]
        for intervention in interventions
    ]
