"""The plan of a sweep over two stacks: which inputs and sequences, which branches, in what batches.

Values made from token ids and sizes alone; nothing here runs a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from layerwise.errors import UserError, counted
from layerwise.ground.layer_names import layer_name
from layerwise.models.seq2seq import Seq2SeqConfig
from layerwise.sweep.changes.edits import CROSS_SITES, Edit
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.plans.branches import Branch, Branches, make_branches
from layerwise.sweep.plans.plan import Batch, SweepPlan, check_sweep, donor_streams, split
from layerwise.sweep.plans.trie import TokenTrie
from layerwise.sweep.plans.walk_plan import share_key
from layerwise.sweep.requests import Generate, Request, Tokens

from .block import Run, memory_is_cheaper


@dataclass(frozen=True)
class Side:
    """The packed tokens of one stack; those of source runs come last."""

    tokens: tuple[int, ...]  # token ids
    positions: tuple[int, ...]  # in their sequences
    runs: tuple[Run, ...]  # who attends to whom in self-attention
    n_requested: int  # how many tokens are of requests, and not of source runs alone

    def request_runs(self, runs: Sequence[Run]) -> list[Run]:
        """Attention runs of requests, without those of source runs."""
        return [run for run in runs if run.queries[0] < self.n_requested]


@dataclass(frozen=True)
class Seq2SeqPlan:
    """One walk through both stacks."""

    encoder: Side  # the inputs
    decoder: Side  # what the decoder has said, each distinct beginning once
    cross: tuple[Run, ...]  # which decoder tokens look at which input
    inputs: tuple[tuple[int, ...], ...]  # for each request the packed indices of its input
    paths: tuple[tuple[int, ...], ...]  # for each request the packed indices of its decoder tokens
    # For each request the input of its source run, if it has one.
    source_inputs: tuple[tuple[int, ...] | None, ...]
    # For each request the decoder tokens of its source run, if it has one.
    source_paths: tuple[tuple[int, ...] | None, ...]
    read: tuple[int, ...]  # packed decoder tokens whose prediction is read, in ascending order
    branches: tuple[Branch, ...]  # in order of opening; layers are numbered through both stacks
    trunk_until: int  # the trunk is pushed through the layers before this one
    intact: tuple[int, ...]  # interventions (as indices) that change nothing
    n_layers: int  # layers of both stacks
    # For each request, how many decoder tokens are given before the answer.
    n_given: tuple[int, ...]
    # For each request, how many tokens are written at most; None if it writes none.
    n_new: tuple[int | None, ...]

    @property
    def generates(self) -> bool:
        """Whether any request generates."""
        return any(n_new is not None for n_new in self.n_new)

    @cached_property
    def sites_needed(self) -> frozenset[int]:
        """Layers whose intact activations are taken by a change."""
        return frozenset(
            layer
            for branch in self.branches
            for layer, edits in branch.edits.items()
            if any(edit.needs_source for edit in edits)
        )

    def n_early(self, n_encoder: int) -> int:
        """Branches that leave in the encoder and make a memory of their own; they come first."""
        return sum(branch.first_layer < n_encoder for branch in self.branches)

    def memory_of(self, branch: int | None, n_early: int) -> int:
        """Which memory a branch reads: 0 is the trunk's, 1 + i that of branch i."""
        if branch is None:
            return 0
        if branch < n_early:
            return 1 + branch
        return self.memory_of(self.branches[branch].parent, n_early)

    def reads_memory(self, d_head: int) -> bool:
        """True if branches attend to encoder outputs directly, without keys and values."""
        return memory_is_cheaper(self.looks(), d_head)

    def looks(self) -> list[tuple[int, int]]:
        """For each input how many tokens of a branch look at it at most, and its length."""
        written: Counter[tuple[int, ...]] = Counter()
        for span, n_new in zip(self.inputs, self.n_new, strict=True):
            written[span] += n_new or 0
        runs = self.decoder.request_runs(self.cross)
        return [(len(run.queries) + written[run.keys], len(run.keys)) for run in runs]

    def token_passes(self, n_encoder: int) -> int:
        """Tokens pushed through a block of either stack, the texts that are written left out."""
        total = 0
        for layer in range(self.n_layers):
            side = self.encoder if layer < n_encoder else self.decoder
            total += self.pushed(side, layer)
        return total

    def pushed(self, side: Side, layer: int) -> int:
        """Tokens of prompts and options that are pushed through a layer of one side."""
        running = sum(b.first_layer <= layer and not b.idle(layer) for b in self.branches)
        return len(side.tokens) * (layer < self.trunk_until) + side.n_requested * running


def decoder_tokens_of(request: Request, prefix: Tokens) -> Tokens:
    """Decoder input tokens of a request; the last scored token is only read out."""
    return prefix if isinstance(request, Generate) else prefix + request.continuation[:-1]


def plan_seq2seq_walk(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    prefix: Tokens,
    n_layers: int,
) -> Seq2SeqPlan:
    """The plan of a walk that takes all of the requests and interventions."""
    pairs = [
        (request.context, decoder_tokens_of(request, prefix), share_key(request))
        for request in requests
    ]
    sources = list(dict.fromkeys(r.source for r in requests if r.source is not None))
    pairs += [(source, prefix, ("source", source)) for source in sources]
    keys = [(context, key) for context, _, key in pairs]
    inputs = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    begins, tokens = [], []
    for context, _ in inputs:
        begins.append(tuple(range(len(tokens), len(tokens) + len(context))))
        tokens += context
    trie = TokenTrie()
    paths = [
        trie.paths[trie.add(decoded, key=inputs[key])]
        for (_, decoded, _), key in zip(pairs, keys, strict=True)
    ]
    n_requests = len(requests)
    of_source = {
        source: (begins[inputs[keys[n_requests + i]]], paths[n_requests + i])
        for i, source in enumerate(sources)
    }
    source_paths = [None if r.source is None else of_source[r.source] for r in requests]
    request_inputs = {inputs[key] for key in keys[:n_requests]}
    encoder = Side(
        tuple(tokens),
        tuple(position for span in begins for position in range(len(span))),
        tuple(Run(span, span, causal=False) for span in begins),
        sum(len(begins[number]) for number in request_inputs),
    )
    decoder = Side(
        tuple(trie.tokens),
        tuple(trie.positions),
        tuple(Run(s.queries, s.keys, causal=True) for s in trie.segments()),
        len({packed for path in paths[:n_requests] for packed in path}),
    )
    # All decoder tokens of an input look at all of it.
    looking: dict[int, set[int]] = {}
    for key, path in zip(keys, paths, strict=True):
        looking.setdefault(inputs[key], set()).update(path)
    made = _branches(interventions, n_layers)
    return Seq2SeqPlan(
        encoder,
        decoder,
        tuple(
            Run(tuple(sorted(looks)), begins[number], causal=False)
            for number, looks in looking.items()
        ),
        tuple(begins[inputs[key]] for key in keys[:n_requests]),
        tuple(paths[:n_requests]),
        tuple(None if source_path is None else source_path[0] for source_path in source_paths),
        tuple(None if source_path is None else source_path[1] for source_path in source_paths),
        tuple(sorted({p for path in paths[:n_requests] for p in path[len(prefix) - 1 :]})),
        made.branches,
        made.trunk_until,
        made.intact,
        n_layers,
        (len(prefix),) * n_requests,
        tuple(r.max_tokens if isinstance(r, Generate) else None for r in requests),
    )


def _branches(interventions: Sequence[Intervention], n_layers: int) -> Branches:
    edits = [edit for intervention in interventions for edit in intervention.edits]
    taking = any(edit.needs_source for edit in edits)
    return make_branches(interventions, n_layers, whole_trunk=taking)


def plan_seq2seq_sweep(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    cfg: Seq2SeqConfig,
    prefix: Tokens,
    itemsize: int,
    memory_budget: int,
) -> SweepPlan:
    """Cut a sweep into walks that fit a memory budget."""
    n_encoder, n_decoder = cfg.n_encoder_layers, cfg.n_decoder_layers
    check_sweep(
        interventions,
        requests,
        cfg.n_layers,
        partial(_check_edit, cfg),
        partial(_check_request, cfg, prefix),
        lambda edit: None if edit.layer < n_encoder else len(prefix),
    )
    groups: dict[object, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault((request.context, request.source), []).append(index)
    sizes = [_tokens_of([requests[i] for i in group], prefix) for group in groups.values()]
    generates = any(isinstance(request, Generate) for request in requests)
    at_once = max(1, len(interventions))

    def room() -> float:
        spread = _branches(interventions[:at_once], cfg.n_layers).branches
        early = sum(branch.first_layer < n_encoder for branch in spread)
        streams = len(spread) + 4 + donor_streams(interventions)
        # Of each encoder branch the keys and values of one decoder layer, or, to write, of all;
        # while rows are decoded there is a second copy of them.
        kept = 2 * (early + 1) * (2 * n_decoder if generates else 1)
        width = cfg.n_heads * cfg.d_head
        passing = 8 * cfg.d_model + 3 * cfg.d_mlp
        return memory_budget / 2 / itemsize / (streams * cfg.d_model + kept * width + passing)

    while at_once > 1 and max(sizes, default=0) > room():
        at_once = (at_once + 1) // 2
    batches: list[Batch] = []
    inside, used, limit = [], 0, room()
    for group, size in zip(groups.values(), sizes, strict=True):
        if inside and used + size > limit:
            batches += split(inside, used, len(interventions), at_once)
            inside, used = [], 0
        inside, used = inside + group, used + size
    if inside:
        batches += split(inside, used, len(interventions), at_once)
    passes = sum(
        plan_seq2seq_walk(
            [interventions[i] for i in batch.interventions],
            [requests[i] for i in batch.requests], prefix, cfg.n_layers,
        ).token_passes(n_encoder)
        for batch in batches
    )  # fmt: skip
    brute = len(interventions) * sum(
        n_encoder * len(r.context) + n_decoder * len(decoder_tokens_of(r, prefix)) for r in requests
    )
    return SweepPlan(tuple(batches), passes, brute)


def _tokens_of(requests: Sequence[Request], prefix: Tokens) -> int:
    """Tokens of both stacks, of requests with one input; texts that are written at their most."""
    total = len(requests[0].context) + len(requests[0].source or ())
    for request in requests:
        more = request.max_tokens if isinstance(request, Generate) else 0
        total += len(decoder_tokens_of(request, prefix)) + more
    return total


def _check_edit(cfg: Seq2SeqConfig, name: str, edit: Edit) -> None:
    n_encoder, last = cfg.n_encoder_layers, cfg.n_layers - 1
    if not 0 <= edit.layer <= last:
        raise UserError(
            f"Layer {edit.layer} of intervention {name!r} is out of range: the model has layers 0 "
            f"to {last}, of which {n_encoder} to {last} are the decoder's."
        )
    if edit.site in CROSS_SITES and edit.layer < n_encoder:
        raise UserError(
            f"Intervention {name!r} changes {edit.site} of {layer_name(edit.layer, n_encoder)}, "
            "but only decoder layers look at the encoder; name layers of the decoder."
        )
    n_heads = cfg.heads_of(edit.layer)
    for head in edit.heads or ():
        if not 0 <= head < n_heads:
            raise UserError(
                f"Head {head} of intervention {name!r} is out of range: "
                f"{layer_name(edit.layer, n_encoder)} has heads 0 to {n_heads - 1}."
            )


def _check_request(cfg: Seq2SeqConfig, prefix: Tokens, number: int, request: Request) -> None:
    answer = len(decoder_tokens_of(request, prefix)) + (
        request.max_tokens if isinstance(request, Generate) else 0
    )
    if max(len(request.context), len(request.source or ()), answer) > cfg.n_ctx:
        raise UserError(
            f"Request {number} has {counted(len(request.context), 'input token')} and {answer} "
            f"of the answer, but the model takes {cfg.n_ctx} each; shorten the context, the "
            "few-shot examples or the number of tokens to generate."
        )
