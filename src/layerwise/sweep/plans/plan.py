"""The plan of a sweep: which requests and interventions go through the layers together.

A plan is a value made from shapes and token ids alone; it can be printed and tested without a
model. It bounds memory; the engine that follows it decides nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from layerwise.errors import UserError, counted
from layerwise.sweep.changes.edits import (
    BY_HEAD,
    CROSS_SITES,
    END,
    AddSite,
    Edit,
    SetSite,
    SwapWeights,
)
from layerwise.sweep.changes.interventions import Intervention, donors_of
from layerwise.sweep.requests import Generate, LogLikelihood, Request

from .branches import make_branches
from .trie import TokenTrie
from .walk_plan import WalkPlan, plan_walk
from .walk_plan import sequence_of as sequence_of
from .walk_plan import share_key as share_key

DEFAULT_MEMORY_BUDGET = 3 * 2**30


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that determine a sweep's memory and work."""

    n_layers: int  # number of blocks
    d_model: int  # width of the residual stream
    d_kv: int  # key/value heads times their width
    itemsize: int  # bytes of one activation
    n_ctx: int  # longest sequence that the model takes
    has_mlp: bool = True  # whether blocks have an MLP
    n_heads: int = 1  # query heads
    d_vocab: int = 1  # tokens of the vocabulary
    in_parts: bool = True  # whether its blocks can be run in part (``BlockRunner.in_parts``)
    d_mlp: int = 0  # width of the MLP's hidden layer
    group: int = 1  # query heads that share a key/value head
    has_mid: bool = True  # whether blocks have a residual stream between attention and MLP
    d_heads: int = 1  # query heads times their width
    mlp_products: int = 2  # matrix products of an MLP: 3 if it is gated, otherwise 2
    experts: int = 1  # MLPs that a token goes through

    @property
    def passing(self) -> int:
        """Bytes that a block needs per token."""
        return (8 * self.d_model + 3 * self.d_mlp) * self.itemsize


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
            f"{counted(len(self.batches), 'walk')}, {self.token_passes:,} token-passes through a "
            f"block against {self.brute_force_token_passes:,} by brute force"
        ]
        lines += [
            f"  walk {i}: {counted(len(b.requests), 'request')}, "
            f"{counted(len(b.interventions), 'intervention')}, "
            f"{counted(b.n_packed, 'packed token')}"
            for i, b in enumerate(self.batches)
        ]
        return "\n".join(lines)


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
    check_sweep(
        interventions,
        requests,
        shape.n_layers,
        partial(_check_edit, shape),
        partial(_check_request, shape),
    )
    # With all interventions at once a small budget may have room for few requests, which then
    # share little; with fewer at once, for more.
    plans = []
    at_once = max(1, len(interventions))
    while not plans or (at_once > 1 and len(plans[-1]) > 1):
        plans.append(_cut(interventions, requests, shape, memory_budget, at_once))
        at_once = (at_once + 1) // 2
    made = [
        (
            sum(
                walk_of(batch, interventions, requests, shape.n_layers).token_passes(shape.in_parts)
                for batch in batches
            ),
            batches,
        )
        for batches in plans
    ]
    passes, batches = min(made, key=lambda both: both[0])
    brute = sum(len(sequence_of(r)) for r in requests) * len(interventions) * shape.n_layers
    return SweepPlan(tuple(batches), passes, brute)


def _cut(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
    budget: int,
    at_once: int,
) -> list[Batch]:
    """Walks with at most so many interventions and as many requests as then fit."""
    # Half of the budget is for residual streams and kept keys and values; the rest is for what a
    # block makes of the tokens that are pushed through at once, for logits, and for texts' caches.
    # A walk's tokens go through a block in one piece, even if they are of one branch only.
    half, passing = budget // 2, budget // 4 // shape.passing
    longest = max((max(len(sequence_of(r)), len(r.source or ())) for r in requests), default=0)
    generates = any(isinstance(request, Generate) for request in requests)
    per_token = partial(_bytes_per_token, interventions, shape, longest, generates)
    most = min(half // per_token(at_once), passing)

    def walks(inside: list[int], n_packed: int) -> list[Batch]:
        fitting = at_once
        while fitting > 1 and n_packed * per_token(fitting) > half:
            fitting = (fitting + 1) // 2
        return split(inside, n_packed, len(interventions), fitting)

    order = sorted(range(len(requests)), key=lambda i: (share_key(requests[i]) is not None, i))
    batches: list[Batch] = []
    trie, inside = TokenTrie(), []
    for index in order:
        before = len(trie)
        _add(trie, requests[index])
        if inside and len(trie) > most:
            batches += walks(inside, before)
            trie, inside = TokenTrie(), []
            _add(trie, requests[index])
        inside.append(index)
    return batches + walks(inside, len(trie)) if inside else batches


def _bytes_per_token(
    interventions: Sequence[Intervention],
    shape: ModelShape,
    longest: int,
    generates: bool,
    n_branches: int,
) -> int:
    """Bytes that a packed token takes at most, with so many interventions."""
    streams = (n_branches + 3 + donor_streams(interventions)) * shape.d_model
    # Which keys a token may see: a bias and a mask. Its node in the trie: some 400 bytes.
    attended = longest * (shape.group * shape.itemsize + 1) + 400
    kept, n_layers = 0, shape.n_layers
    if generates:
        # The earlier the first change, the more is kept; so these are the worst case.
        earliest = sorted(interventions, key=lambda i: n_layers if i.layer is None else i.layer)
        spread = make_branches(earliest[:n_branches], n_layers)
        kept = 2 * shape.d_kv * (spread.block_passes() + n_layers)
    return (streams + kept) * shape.itemsize + attended


def walk_of(
    batch: Batch,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    n_layers: int,
) -> WalkPlan:
    """The plan of a batch's walk; interventions and requests are the sweep's."""
    return plan_walk(
        [interventions[index] for index in batch.interventions],
        [requests[index] for index in batch.requests],
        n_layers,
    )


def _add(trie: TokenTrie, request: Request) -> None:
    trie.add(sequence_of(request), share_key(request))
    if request.source is not None:
        trie.add(request.source, share_key(request))


def donor_streams(interventions: Sequence[Intervention]) -> int:
    """Memory of donor models, in residual streams."""
    # Of each the stream and what is seen of one layer: before and after it, within it, the outputs
    # of its sublayers and of its heads.
    return 7 * len(donors_of(interventions))


def split(inside: list[int], n_packed: int, n_interventions: int, at_once: int) -> list[Batch]:
    """Walks of some requests, with at most so many interventions each."""
    starts = range(0, n_interventions, at_once)
    parts = (range(start, min(start + at_once, n_interventions)) for start in starts)
    return [Batch(tuple(inside), tuple(part), n_packed) for part in parts]


def check_sweep(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    n_layers: int,
    check_edit: Callable[[str, Edit], None],
    check_request: Callable[[int, Request], None],
    begins: Callable[[Edit], int | None] = lambda edit: None,
) -> None:
    """Refuse changes and requests that do not fit a model, or each other."""
    # ``begins``: how many tokens a decoder begins with, if an edit is one of its layers.
    for intervention in interventions:
        _check_swaps(intervention, n_layers)
        for edit in intervention.edits:
            if not isinstance(edit, SwapWeights):
                check_edit(intervention.id, edit)
    edits = [edit for intervention in interventions for edit in intervention.edits]
    patched = [edit for edit in edits if edit.position is not None]
    resampled = any(edit.resamples for edit in edits)
    for number, request in enumerate(requests):
        if not request.context or (isinstance(request, LogLikelihood) and not request.continuation):
            raise UserError(
                f"Request {number} has an empty context or continuation; give each at least one "
                "token."
            )
        check_request(number, request)
        for edit in patched:
            _check_patch(number, request, edit, begins(edit))
        if resampled and not request.source:
            raise UserError(
                f"Request {number} has no source run, which resampling needs; give it the prompt "
                "of another item as its source."
            )


def _check_swaps(intervention: Intervention, n_layers: int) -> None:
    """Refuse other weights where there is no such place, or twice in one place."""
    swaps = [edit for edit in intervention.edits if isinstance(edit, SwapWeights)]
    for edit in swaps:
        if not 0 <= edit.layer < n_layers + (edit.site == END):
            raise UserError(
                f"Layer {edit.layer} of intervention {intervention.id!r} is out of range: "
                f"the model has layers 0 to {n_layers - 1}."
            )
    if len({(edit.layer, edit.site) for edit in swaps}) < len(swaps):
        raise UserError(
            f"Intervention {intervention.id!r} has other weights twice in one place: expected "
            "one set of weights for each layer; put them together first."
        )


def _check_edit(shape: ModelShape, name: str, edit: Edit) -> None:
    if not 0 <= edit.layer < shape.n_layers:
        raise UserError(
            f"Layer {edit.layer} of intervention {name!r} is out of range: "
            f"the model has layers 0 to {shape.n_layers - 1}."
        )
    for head in edit.heads or ():
        if not 0 <= head < shape.n_heads:
            raise UserError(
                f"Head {head} of intervention {name!r} is "
                f"out of range: the model has heads 0 to {shape.n_heads - 1}."
            )
    if edit.site in CROSS_SITES:
        raise UserError(
            f"Intervention {name!r} changes {edit.site}, but only an encoder-decoder looks from "
            "one stack at another; use attn_out, z or resid_mid."
        )
    if edit.site == "mlp_out" and not shape.has_mlp:
        raise UserError(
            f"Intervention {name!r} changes mlp_out, but the model's blocks "
            "have no MLP; use attn_out or resid_post."
        )
    if edit.site == "resid_mid" and not shape.has_mid:
        raise UserError(
            f"Intervention {name!r} changes resid_mid, but in this model nothing is between "
            "attention and MLP; use resid_pre, attn_out or resid_post."
        )
    width = shape.d_heads // shape.n_heads if edit.site in BY_HEAD else shape.d_model
    given = [*edit.value.shape][-1:] if isinstance(edit, SetSite | AddSite) else []
    if given not in ([], [1], [width]):
        raise UserError(
            f"Intervention {name!r} has vectors of {given[0]} numbers for {edit.site} of layer "
            f"{edit.layer}, where the model's have {width}; give vectors of that width."
        )


def _check_request(shape: ModelShape, number: int, request: Request) -> None:
    length = len(sequence_of(request))
    if isinstance(request, Generate):
        length += request.max_tokens
    if max(length, len(request.source or ())) > shape.n_ctx:
        raise UserError(
            f"Request {number} needs {length} tokens, but the model's context is {shape.n_ctx}; "
            "shorten the context, the few-shot examples or the number of tokens to generate."
        )


def _check_patch(number: int, request: Request, edit: Edit, begins: int | None) -> None:
    """Refuse to patch at positions that a prompt, or what a decoder begins with, does not have."""
    pos, source_pos, source = edit.position, edit.source_position, request.source
    if not source or (source_pos is None and len(source) != len(request.context)):
        raise UserError(
            f"Request {number} has no source run of the same length as its context, "
            "which patching needs; give both prompts the same number of tokens."
        )
    places = [(pos, request.context, "context has"), (source_pos, source, "source run has")]
    for at, tokens, what in places:
        n = len(tokens) if begins is None else begins
        if at is not None and not -n <= at < n:
            raise UserError(
                f"Patch position {at} is out of range for request {number}, whose "
                f"{what if begins is None else 'decoder begins with'} {counted(n, 'token')}."
            )
