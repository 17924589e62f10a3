"""The plan of a sweep: which requests and interventions go through the layers together.

A plan is a value made from shapes and token ids alone; it can be printed and tested without a
model. It bounds memory; the engine that follows it decides nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from layerwise.errors import UserError, count_noun
from layerwise.ground.layer_names import layer_name
from layerwise.sweep.changes.edits import (
    BY_HEAD,
    CROSS_SITES,
    END,
    AddSite,
    Edit,
    SetSite,
    SwapWeights,
)
from layerwise.sweep.changes.interventions import Intervention, distinct_donors
from layerwise.sweep.requests import Generate, LogLikelihood, Request, Tokens

from .branches import make_branches
from .packing import Packing, run_sequences, share_key
from .walk_plan import WalkPlan, plan_walk

DEFAULT_MEMORY_BUDGET = 3 * 2**30


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of a model's encoder, beside those of its decoder."""

    n_layers: int  # of the encoder
    n_heads: int  # heads of one of them
    d_heads: int  # these heads times their width
    prefix: Tokens  # what the decoder begins with


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that determine a sweep's memory and work."""

    n_layers: int  # number of blocks, of both stacks
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
    encoder: EncoderShape | None = None

    @property
    def n_encoder(self) -> int:
        """Layers of the encoder."""
        return 0 if self.encoder is None else self.encoder.n_layers

    @property
    def prefix(self) -> Tokens:
        """Tokens that a decoder behind an encoder begins with."""
        return () if self.encoder is None else self.encoder.prefix

    def layer_heads(self, layer: int) -> tuple[int, int]:
        """Query heads of a layer, and these times their width."""
        if self.encoder is not None and layer < self.n_encoder:
            return self.encoder.n_heads, self.encoder.d_heads
        return self.n_heads, self.d_heads

    def forward_passes(self, request: Request) -> int:
        """Tokens pushed through a block by one forward of a request, without its text."""
        *encoded, decoded = map(len, self.request_tokens(request))
        return self.n_encoder * sum(encoded) + (self.n_layers - self.n_encoder) * decoded

    def request_tokens(self, request: Request) -> tuple[Tokens, ...]:
        """The tokens that each stack reads of a request."""
        return run_sequences(request, self.prefix)

    @property
    def block_bytes_per_token(self) -> int:
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
            f"{count_noun(len(self.batches), 'walk')}, {self.token_passes:,} token-passes "
            f"through a "
            f"block against {self.brute_force_token_passes:,} by brute force"
        ]
        lines += [
            f"  walk {i}: {count_noun(len(b.requests), 'request')}, "
            f"{count_noun(len(b.interventions), 'intervention')}, "
            f"{count_noun(b.n_packed, 'packed token')}"
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
    _check_sweep(interventions, requests, shape)
    # With all interventions at once a small budget may have room for few requests, which then
    # share little; with fewer at once, for more.
    plans = []
    at_once = max(1, len(interventions))
    while not plans or (at_once > 1 and len(plans[-1]) > 1):
        plans.append(_cut_into_batches(interventions, requests, shape, memory_budget, at_once))
        at_once = (at_once + 1) // 2

    def passes(batches: list[Batch]) -> int:
        walks = (batch_walk(batch, interventions, requests, shape) for batch in batches)
        return sum(walk.token_passes(shape.in_parts) for walk in walks)

    token_passes, batches = min(((passes(cut), cut) for cut in plans), key=lambda both: both[0])
    brute = sum(map(shape.forward_passes, requests)) * len(interventions)
    return SweepPlan(tuple(batches), token_passes, brute)


def _cut_into_batches(
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
    half, passing = budget // 2, budget // 4 // shape.block_bytes_per_token
    longest = max(
        (len(t) for r in requests for t in (*shape.request_tokens(r), r.source or ())), default=0
    )
    generates = any(isinstance(request, Generate) for request in requests)
    per_token = partial(_bytes_per_token, interventions, shape, longest, generates)
    most = min(half // per_token(at_once), passing)

    def walks(inside: list[int], n_packed: int) -> list[Batch]:
        fitting = at_once
        while fitting > 1 and n_packed * per_token(fitting) > half:
            fitting = (fitting + 1) // 2
        starts = range(0, len(interventions), fitting)
        parts = (range(start, min(start + fitting, len(interventions))) for start in starts)
        return [Batch(tuple(inside), tuple(part), n_packed) for part in parts]

    batches: list[Batch] = []
    packing, inside = Packing(shape.prefix), list[int]()
    for index in _order(requests, shape):
        before = len(packing)
        packing.add(requests[index])
        if inside and len(packing) > most:
            batches += walks(inside, before)
            packing, inside = Packing(shape.prefix), []
            packing.add(requests[index])
        inside.append(index)
    return batches + walks(inside, len(packing)) if inside else batches


def _order(requests: Sequence[Request], shape: ModelShape) -> list[int]:
    """Requests in the order in which walks take them: of an encoder, by their inputs."""
    keys = [(r.context, r.source) if shape.encoder else i for i, r in enumerate(requests)]
    first = {key: i for i, key in reversed([*enumerate(keys)])}
    return sorted(
        range(len(requests)), key=lambda i: (share_key(requests[i]) is not None, first[keys[i]], i)
    )


def _bytes_per_token(
    interventions: Sequence[Intervention],
    shape: ModelShape,
    longest: int,
    generates: bool,
    n_branches: int,
) -> int:
    """Bytes that a packed token takes at most, with so many interventions."""
    # Of a donor the stream and what is seen of one layer: before and after it, within it, the
    # outputs of its sublayers and of its heads.
    streams = (n_branches + 3 + 7 * len(distinct_donors(interventions))) * shape.d_model
    # Which keys a token may see: a bias and a mask. Its node in the trie: some 400 bytes.
    attended = longest * (shape.group * shape.itemsize + 1) + 400
    kept, n_layers = 0, shape.n_layers
    if generates or shape.encoder:
        # The earlier the first change, the more is kept; so these are the worst case.
        earliest = sorted(interventions, key=lambda i: n_layers if i.layer is None else i.layer)
        spread = make_branches(earliest[:n_branches], n_layers)
        if not shape.encoder:
            kept = spread.block_passes() + n_layers
        else:
            # Own keys and values, and those of encoder outputs; these of one layer without texts.
            early = sum(branch.first_layer < shape.n_encoder for branch in spread.branches)
            in_layers = n_layers - shape.n_encoder if generates else 1
            kept = in_layers * (2 + early + generates * len(spread.branches))
    return (streams + 2 * shape.d_kv * kept) * shape.itemsize + attended


def batch_walk(
    batch: Batch,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
) -> WalkPlan:
    """The plan of a batch's walk; interventions and requests are the sweep's."""
    return plan_walk(
        [interventions[index] for index in batch.interventions],
        [requests[index] for index in batch.requests],
        shape.n_layers,
        shape.n_encoder,
        shape.prefix,
    )


def _check_sweep(
    interventions: Sequence[Intervention], requests: Sequence[Request], shape: ModelShape
) -> None:
    """Refuse changes and requests that do not fit a model, or each other."""
    for intervention in interventions:
        _check_swaps(intervention, shape.n_layers)
        for edit in intervention.edits:
            if not isinstance(edit, SwapWeights):
                _check_edit(shape, intervention.id, edit)
    edits = [edit for intervention in interventions for edit in intervention.edits]
    patched = [edit for edit in edits if edit.position is not None]
    resampled = any(edit.resamples for edit in edits)
    for number, request in enumerate(requests):
        if not request.context or (isinstance(request, LogLikelihood) and not request.continuation):
            raise UserError(
                f"Request {number} has an empty context or continuation; give each at least one "
                "token."
            )
        _check_request(shape, number, request)
        for edit in patched:
            _check_patch(shape, number, request, edit)
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
    last, n_encoder = shape.n_layers - 1, shape.n_encoder
    if not 0 <= edit.layer <= last:
        stacks = f", of which {n_encoder} to {last} are the decoder's" if n_encoder else ""
        raise UserError(
            f"Layer {edit.layer} of intervention {name!r} is out of range: "
            f"the model has layers 0 to {last}{stacks}."
        )
    n_heads, d_heads = shape.layer_heads(edit.layer)
    layer = layer_name(edit.layer, n_encoder) if n_encoder else "the model"
    for head in edit.heads or ():
        if not 0 <= head < n_heads:
            raise UserError(
                f"Head {head} of intervention {name!r} is "
                f"out of range: {layer} has heads 0 to {n_heads - 1}."
            )
    if edit.site in CROSS_SITES and not n_encoder:
        raise UserError(
            f"Intervention {name!r} changes {edit.site}, but only an encoder-decoder looks from "
            "one stack at another; use attn_out, z or resid_mid."
        )
    if edit.site in CROSS_SITES and edit.layer < n_encoder:
        raise UserError(
            f"Intervention {name!r} changes {edit.site} of {layer}, "
            "but only decoder layers look at the encoder; name layers of the decoder."
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
    width = d_heads // n_heads if edit.site in BY_HEAD else shape.d_model
    given = [*edit.value.shape][-1:] if isinstance(edit, SetSite | AddSite) else []
    if given not in ([], [1], [width]):
        raise UserError(
            f"Intervention {name!r} has vectors of {given[0]} numbers for {edit.site} of layer "
            f"{edit.layer}, where the model's have {width}; give vectors of that width."
        )


def _check_request(shape: ModelShape, number: int, request: Request) -> None:
    *inputs, length = map(len, shape.request_tokens(request))
    if isinstance(request, Generate):
        length += request.max_tokens
    if max(*inputs, length, len(request.source or ())) <= shape.n_ctx:
        return
    needed = f"needs {length} tokens, but the model's context is {shape.n_ctx}"
    if inputs:
        needed = (
            f"has {count_noun(inputs[0], 'input token')} and {length} of the answer, but the model "
            f"takes {shape.n_ctx} each"
        )
    raise UserError(
        f"Request {number} {needed}; shorten the context, the few-shot examples or the number of "
        "tokens to generate."
    )


def _check_patch(shape: ModelShape, number: int, request: Request, edit: Edit) -> None:
    """Refuse to patch at positions that a prompt, or what a decoder begins with, does not have."""
    pos, source_pos, source = edit.position, edit.source_position, request.source
    if not source or (source_pos is None and len(source) != len(request.context)):
        raise UserError(
            f"Request {number} has no source run of the same length as its context, "
            "which patching needs; give both prompts the same number of tokens."
        )
    answers = shape.prefix if edit.layer >= shape.n_encoder else ()
    places = [(pos, request.context, "context has"), (source_pos, source, "source run has")]
    for at, tokens, what in places:
        n = len(answers or tokens)
        if at is not None and not -n <= at < n:
            raise UserError(
                f"Patch position {at} is out of range for request {number}, whose "
                f"{'decoder begins with' if answers else what} {count_noun(n, 'token')}."
            )
