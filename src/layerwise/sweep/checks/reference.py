"""The sweep by brute force: one plain hooked forward per intervention, request and new token.

Slow and obvious on purpose: it defines what the engine must compute. No caches, no batches, and
it works out for each class of edit anew what is put where, rather than ask the edit as the engine
does: a mistake there shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float

from layerwise.errors import UserError
from layerwise.models.instance.kinds import (
    Model,
    before_answer,
    hook_name,
    model_inputs,
    n_encoder_layers,
)
from layerwise.sweep.changes.edits import (
    AddSite,
    ApplySite,
    CopySite,
    DonorSite,
    Edit,
    PatchSite,
    SetSite,
    SiteEdit,
    SkipLayer,
    SwapWeights,
    source_position,
)
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import (
    Generate,
    Generated,
    LogLikelihood,
    Outcome,
    Request,
    Scored,
    Stopper,
    Tokens,
)

Hooks = list[tuple[str | Callable[..., Any], Callable[..., Any]]]


def reference_outcome(
    model: Model, intervention: Intervention, request: Request, stopper: Stopper
) -> Outcome:
    """The outcome of one request under one intervention."""
    if isinstance(request, Generate):
        return _generate(model, intervention, request, stopper)
    logits = intervened_logits(model, intervention, request, request.continuation[:-1])
    return _score(logits, request, len(before_answer(model, request.context)))


def _score(
    logits: Float[torch.Tensor, "pos d_vocab"], request: LogLikelihood, n_given: int
) -> Scored:
    # Summing tens of thousands of exponentials in float32 would be the largest error here.
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    begin = n_given - 1
    rows = [logprobs[begin + i] for i in range(len(request.continuation))]
    scored = [float(row[token]) for row, token in zip(rows, request.continuation, strict=True)]
    greedy = [
        _first_best(row) == token for row, token in zip(rows, request.continuation, strict=True)
    ]
    return Scored(tuple(scored), tuple(greedy))


def _generate(
    model: Model, intervention: Intervention, request: Generate, stopper: Stopper
) -> Generated:
    tokens: list[int] = []
    while not tokens or not stopper.stops(tokens, request):
        logits = intervened_logits(model, intervention, request, tuple(tokens))
        tokens.append(_first_best(logits[-1]))
    return stopper.outcome(tokens, request)


def _first_best(row: Float[torch.Tensor, " d_vocab"]) -> int:
    """The most likely token; of exactly equal ones that with the smallest id."""
    return int((row == row.max()).nonzero()[0, 0])


def intervened_logits(
    model: Model, intervention: Intervention, request: Request, answer: Tokens = ()
) -> Float[torch.Tensor, "pos d_vocab"]:
    """Logits at every position of a prompt and the answer so far, under an intervention."""
    hooks: Hooks = []
    swaps = (edit.weights for edit in intervention.edits if isinstance(edit, SwapWeights))
    for edit in sorted(intervention.edits, key=_order):
        if not isinstance(edit, SwapWeights):
            hooks += _hooks(model, edit, request, answer)
    with ExitStack() as exchanged:
        for weights in dict.fromkeys(swaps):
            exchanged.enter_context(weights.in_place())
        return model_logits(model, request, answer, hooks)


def model_logits(
    model: Model, request: Request, answer: Tokens, hooks: Hooks | None = None
) -> Float[torch.Tensor, "pos d_vocab"]:
    """Logits that the model itself gives after a prompt and the answer so far."""
    # Not run_with_hooks, which passes by what is hung on the model as a whole.
    with model.hooks(fwd_hooks=hooks) if hooks else nullcontext():
        return model(*model_inputs(model, [request.context], answer))[0]


def _order(edit: Edit) -> int:
    """Order of edits within a layer: its input first, then skips, then the rest."""
    return {"resid_pre": 0, "layer": 1}.get(edit.site, 2)


def _hooks(model: Model, edit: SkipLayer | SiteEdit, request: Request, answer: Tokens) -> Hooks:
    """The hooks that make one edit."""
    if isinstance(edit, SkipLayer):
        store: dict[str, torch.Tensor] = {}
        return [
            (hook_name(model, edit.layer, "resid_pre"), partial(_remember, store=store)),
            (hook_name(model, edit.layer, "resid_post"), partial(_recall, store=store)),
        ]
    name = hook_name(model, edit.layer, edit.site)
    if isinstance(edit, ApplySite):
        return [(name, partial(_apply, edit=edit))]
    if isinstance(edit, DonorSite):
        given = _record_site(edit.donor, name, request.context, answer)
        return [(name, partial(_put_value, value=given, heads=edit.heads))]
    source = None
    if edit.needs_source:
        assert request.source is not None, "such an edit needs a source run"
        source = _record_site(model, name, request.source)[0]
    in_encoder = edit.layer < n_encoder_layers(model)
    given = request.context if in_encoder else before_answer(model, request.context)
    return [(name, partial(_change, edit=edit, n_given=len(given), source=source))]


def _record_site(model: Any, name: str, prompt: Tokens, answer: Tokens = ()) -> torch.Tensor:
    """The activation at a hook of a model on a prompt and the answer so far."""
    store: dict[str, torch.Tensor] = {}
    with model.hooks(fwd_hooks=[(name, partial(_remember, store=store))]):
        model(*model_inputs(model, [prompt], answer))
    return store["site"]


def _put_value(
    tensor: torch.Tensor, hook: Any, value: torch.Tensor, heads: tuple[int, ...] | None
) -> torch.Tensor:
    if heads is None:
        return value
    changed = tensor.clone()
    changed[:, :, list(heads)] = value[:, :, list(heads)]
    return changed


def _apply(tensor: torch.Tensor, hook: Any, edit: ApplySite) -> torch.Tensor:
    """The outcome of a user's own function of a site's activation."""
    changed = edit.function(tensor[0].clone())
    if not isinstance(changed, torch.Tensor) or changed.shape != tensor.shape[1:]:
        given = [*changed.shape] if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise UserError(
            f"The function of {edit.site} in layer {edit.layer} gave {given}: expected a tensor of "
            f"the shape that it was given, {[*tensor.shape[1:]]}; return the whole activation."
        )
    return changed.to(tensor)[None]


def _remember(tensor: torch.Tensor, hook: Any, store: dict[str, torch.Tensor]) -> None:
    store["site"] = tensor


def _recall(tensor: torch.Tensor, hook: Any, store: dict[str, torch.Tensor]) -> torch.Tensor:
    return store["site"]


def _change(
    tensor: Float[torch.Tensor, "1 pos ..."],
    hook: Any,
    edit: SetSite | AddSite | CopySite | PatchSite,
    n_given: int,
    source: Float[torch.Tensor, "source_pos ..."] | None,
) -> torch.Tensor:
    changed = tensor.clone()
    if isinstance(edit, PatchSite):
        assert source is not None
        pos = edit.pos % n_given
        taken = pos if edit.source_pos is None else edit.source_pos
        of_head = () if edit.head is None else (edit.head,)
        changed[0, pos, *of_head] = source[taken, *of_head]
        return changed
    heads = slice(None) if edit.heads is None else list(edit.heads)
    for pos in range(tensor.shape[1]):
        value = _value(edit, pos, n_given, source).to(tensor).expand_as(tensor[0, pos])
        if edit.adds:
            value = tensor[0, pos] + value
        changed[0, pos][heads] = value[heads]
    return changed


def _value(
    edit: SetSite | AddSite | CopySite, pos: int, n_given: int, source: torch.Tensor | None
) -> torch.Tensor:
    """The vector that an edit puts, or adds, at a position."""
    if isinstance(edit, CopySite):
        assert source is not None
        return source[source_position(pos, n_given, len(source))]
    if isinstance(edit, AddSite):
        return edit.value[pos % len(edit.value)]
    return edit.value[min(pos, len(edit.value) - 1)] if edit.by_position else edit.value


def reference_outcomes(
    model: Model,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    stopper: Stopper,
) -> list[list[Outcome]]:
    """Outcomes by intervention, then request."""
    return [
        [reference_outcome(model, intervention, request, stopper) for request in requests]
        for intervention in interventions
    ]
