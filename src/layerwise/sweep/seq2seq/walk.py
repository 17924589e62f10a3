"""The walk through both stacks with a trunk and the branches opened so far.

Invariant: at each layer the trunk holds the intact residual stream of every packed token of the
stack, and each open branch that of its interventions, for the tokens of requests. Between the
stacks the trunk and each branch that is open make the memory that their decoder reads; a branch
that opens later reads that of the forward pass which it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts, StackParts
from layerwise.sweep.changes.edits import EMBED, MEMORY_NORM, OtherWeights, SiteEdit, in_place
from layerwise.sweep.changes.layer_edits import NO_EDITS, LayerEdits, Value, edits_of, taken_from
from layerwise.sweep.packed.layout import KeysValues
from layerwise.sweep.plans.branches import Branch
from layerwise.sweep.requests import Request
from layerwise.sweep.walk.engine import TOKENS_AT_ONCE, Seen, Work

from .block import AttentionLayout, Block, attention_layout, in_a_row, keys_values
from .plan import Seq2SeqPlan, Side


@dataclass
class Group:
    """All branches, in the form that readers of a walk expect."""

    branches: tuple[Branch, ...]  # in order of opening
    # After the last layer, their residual streams at the tokens that are read.
    read: Float[torch.Tensor, "branch output d_model"]


@dataclass(frozen=True)
class Cross:
    """Keys and values of memories that one decoder layer's cross-attention looks at."""

    keys_values: KeysValues  # by place and input token
    # The place of each memory; None where places are memories.
    places: Mapping[int, int] | None = None

    def at(self, memories: Sequence[int]) -> list[int]:
        """The places of some memories."""
        return [m if self.places is None else self.places[m] for m in memories]


@dataclass
class LayerMemory:
    """Keys and values of one decoder layer, kept for decoding."""

    own: KeysValues  # of self-attention, by slot (0 is the trunk, 1 + i branch i) and decoder token
    # Of cross-attention with the model's weights, and with others; of the trunk's memory alone,
    # where branches read theirs without keys and values.
    cross: dict[OtherWeights | None, Cross | None]


class _Stack(NamedTuple):
    """Layouts of one stack."""

    side: Side
    whole: AttentionLayout  # of all tokens, for the trunk
    queried: AttentionLayout  # of requests' tokens, for branches


def _stack(parts: StackParts, side: Side, like: torch.Tensor) -> _Stack:
    whole = attention_layout(side.runs, len(side.tokens), parts.relative, like)
    if side.n_requested == len(side.tokens):
        return _Stack(side, whole, whole)
    runs = side.request_runs(side.runs)
    return _Stack(side, whole, attention_layout(runs, side.n_requested, parts.relative, like))


@dataclass
class Seq2SeqWalk:
    """The walk of one batch through both stacks, and its final streams."""

    model: Seq2SeqModel
    plan: Seq2SeqPlan
    requests: Sequence[Request]
    work: Work
    tokens_at_once: int = TOKENS_AT_ONCE
    donors: Mapping[int, Iterator[Seen]] = field(default_factory=dict)
    trunk: torch.Tensor = field(init=False)
    resid: torch.Tensor = field(init=False)
    groups: list[Group] = field(init=False)
    kept: list[LayerMemory] = field(init=False)
    # By layer and site that is taken: each request's source run at its last decoder position.
    source_ends: dict[tuple[int, str], torch.Tensor] = field(init=False)
    seen: Seen = field(init=False)
    # The blocks of branches that have other weights than the model.
    own_blocks: dict[OtherWeights, BlockParts] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.device, self.kept, self.source_ends = self.model.W_E.device, [], {}
        self.n_encoder = self.model.cfg.n_encoder_layers
        self.branches = self.plan.branches
        like = self.model.W_E
        parts = self.model.parts
        self.stacks = (
            _stack(parts.encoder, self.plan.encoder, like),
            _stack(parts.decoder, self.plan.decoder, like),
        )
        n_decoder = len(self.plan.decoder.tokens)
        self.cross = attention_layout(self.plan.cross, n_decoder, None, like)
        runs = self.plan.decoder.request_runs(self.plan.cross)
        self.request_cross = attention_layout(runs, self.plan.decoder.n_requested, None, like)
        self.from_memory = self.plan.reads_memory(self.model.cfg.decoder_d_head)
        self.open, self.n_early = 0, self.plan.n_early(self.n_encoder)
        self._enter(parts.encoder, self.plan.encoder, self.n_early)

    def _enter(self, stack: StackParts, side: Side, n_branches: int) -> None:
        """Embed a stack's tokens, and make room for branches."""
        self.trunk = self._embedded(stack, side, None)
        self.resid = self.trunk[:, : side.n_requested].repeat(n_branches, 1, 1)
        for row, branch in enumerate(self.branches[:n_branches]):
            weights = branch.weights(0, EMBED)
            if weights is not None:
                self.resid[row] = self._embedded(stack, side, weights)[0, : side.n_requested]

    def _embedded(
        self, stack: StackParts, side: Side, weights: OtherWeights | None
    ) -> Float[torch.Tensor, "1 token d_model"]:
        """A stack's tokens, by the model's embeddings or by others."""
        tokens = torch.tensor([side.tokens], device=self.device)
        with in_place(weights):
            return stack.embed(tokens, torch.tensor(side.positions, device=self.device))

    def run(self, on_layer: Callable[[int], None] | None = None) -> None:
        """Push everything through all layers, and keep what is read."""
        for layer, _ in self.layers():
            if on_layer is not None:
                on_layer(layer)
        read = torch.tensor(self.plan.read, dtype=torch.long, device=self.device)
        self._open(self.model.cfg.n_layers)
        self.trunk = self.trunk[:, read]
        self.groups = [Group(self.branches, self.resid[:, read])]

    def layers(self, observe: bool = False) -> Iterator[tuple[int, Seen]]:
        """Push everything through layer by layer; with the trunk's sites if asked for."""
        for layer in range(self.model.cfg.n_layers):
            if layer == self.n_encoder:
                self._enter_decoder()
            self._layer(layer, observe)
            yield layer, self.seen

    def _enter_decoder(self) -> None:
        """Make the memories, that of the trunk first, and begin the decoder's streams."""
        parts = self.model.parts
        trunk, branches = (parts.encoder.final_norm(resid) for resid in (self.trunk, self.resid))
        for row in range(len(branches)):
            weights = self.branches[row].weights(self.n_encoder - 1, MEMORY_NORM)
            if weights is not None:
                with weights.in_place():
                    branches[row] = parts.encoder.final_norm(self.resid[row : row + 1])[0]
        unasked = trunk.shape[1] - branches.shape[1]
        self.memories = torch.cat([trunk, F.pad(branches, (0, 0, 0, unasked))])
        self._enter(parts.decoder, self.plan.decoder, len(self.branches))

    def _cross_keys(self, block: Block, rows: Sequence[int] | None = None) -> Cross:
        """Keys and values of the memories, once for all branches that read them."""
        # Of the trunk's alone, where branches read what their encoders made without them; of what
        # some branches read alone, if their block is no other branch's.
        assert block.parts.cross_attn is not None
        wanted = range(1) if self.from_memory else range(len(self.memories))
        if rows is None:
            places, read = None, self.memories[: len(wanted)]
        else:
            read_here = sorted({self.memory_of(row) for row in rows} & set(wanted))
            places, read = (
                {memory: i for i, memory in enumerate(read_here)},
                self.memories[read_here],
            )
        return Cross(keys_values(block.parts.cross_attn, read), places)

    def block_of(self, layer: int, weights: OtherWeights | None = None) -> Block:
        """A block, with other weights if there are any; kept for texts, which come again."""
        in_decoder = layer >= self.n_encoder
        stack = self.model.parts.decoder if in_decoder else self.model.parts.encoder
        parts = stack.blocks[layer - self.n_encoder * in_decoder]
        if weights is not None:
            twin = self.own_blocks.get(weights) or weights.twin(parts)
            if in_decoder and self.plan.generates:
                self.own_blocks[weights] = twin
            parts = twin
        return Block(parts, stack.post_norm)

    def memory_of(self, branch: int | None) -> int:
        """Which memory a branch reads: 0 is the trunk's, 1 + i that of branch i."""
        return self.plan.memory_of(branch, self.n_early)

    def slot_of(self, branch: int | None, layer: int) -> int:
        """Where a branch's keys and values of a layer are: those of what it still is there."""
        if branch is None:
            return 0
        known = self.branches[branch]
        return 1 + branch if layer >= known.first_layer else self.slot_of(known.parent, layer)

    def _layer(self, layer: int, observe: bool) -> None:
        in_decoder, block = layer >= self.n_encoder, self.block_of(layer)
        self._open(layer)
        self.seen = {}
        self.donated = {donor: next(layers) for donor, layers in self.donors.items()}
        cross = self._cross_keys(block) if in_decoder else None
        own: list[tuple[list[int], KeysValues]] = []
        if observe or layer < self.plan.trunk_until:
            observing = observe or layer in self.plan.sites_needed
            edits = LayerEdits(observe=self.seen.__setitem__) if observing else NO_EDITS
            self._push(block, None, cross, edits, own)
            if in_decoder and layer in self.plan.sites_needed:
                last = [0 if path is None else path[-1] for path in self.plan.source_paths]
                for site, activations in self.seen.items():
                    self.source_ends[layer, site] = activations[0, last]
        of_weights: dict[OtherWeights | None, Cross | None] = {None: cross}
        self._push_branches(block, layer, of_weights, own)
        if in_decoder and self.plan.generates:
            self.kept.append(LayerMemory(self._together(own, block), of_weights))

    def _together(self, own: list[tuple[list[int], KeysValues]], block: Block) -> KeysValues:
        """Keys and values by slot; nothing where a slot computed none."""
        attn, n_tokens = block.parts.attn, len(self.plan.decoder.tokens)
        shape = (1 + len(self.branches), n_tokens, attn.n_heads, attn.d_head)
        keys, values = self.trunk.new_zeros(shape), self.trunk.new_zeros(shape)
        for slots, kept in own:
            n_kept = kept.keys.shape[1]
            keys[slots, :n_kept], values[slots, :n_kept] = kept.keys, kept.values
        return KeysValues(keys, values)

    def _open(self, layer: int) -> None:
        """Start the branches whose first own layer this is."""
        n_requested = self.resid.shape[1]
        while self.open < len(self.branches) and self.branches[self.open].first_layer == layer:
            branch = self.branches[self.open]
            if branch.parent is not None:
                self.resid[self.open] = self.resid[branch.parent]
            elif branch.weights(0, EMBED) is None:  # else it has entered with its own
                self.resid[self.open] = self.trunk[0, :n_requested]
            self.open += 1

    def _push_branches(
        self,
        block: Block,
        layer: int,
        cross: dict[OtherWeights | None, Cross | None],
        own: list[tuple[list[int], KeysValues]],
    ) -> None:
        """Push all open branches through, each with its own changes."""
        # What those with other weights look at is put beside what the model's block looks at.
        plain: dict[bool, list[int]] = {True: [], False: []}
        swapped: dict[OtherWeights, dict[bool, list[int]]] = {}
        for row in range(self.open):
            branch = self.branches[row]
            weights = branch.weights(layer)
            if branch.idle(layer):
                # Passed over: the layer is skipped, or its output replaced.
                edits = self._edits([row], layer)
                entered = edits.changed("resid_pre", self.resid[row : row + 1])
                self.resid[row : row + 1] = edits.changed("resid_post", entered)
            elif weights is not None:
                alike = swapped.setdefault(weights, {True: [], False: []})
                alike[self.memory_of(row) == 0].append(row)
            elif branch.edits.get(layer):
                edits = self._edits([row], layer)
                self._push(block, [row], cross[None], edits, own)
            else:
                # Branches that read the intact memory look at the same keys.
                plain[self.memory_of(row) == 0].append(row)
        for rows in plain.values():
            for chunk in self._chunks(rows):
                self._push(block, chunk, cross[None], NO_EDITS, own)
        for weights, alike in swapped.items():
            other, every = self.block_of(layer, weights), [*alike[True], *alike[False]]
            cross[weights] = None if cross[None] is None else self._cross_keys(other, every)
            for chunk in (*self._chunks(alike[True]), *self._chunks(alike[False])):
                edits = self._edits(chunk, layer)
                self._push(other, chunk, cross[weights], edits, own)

    def _chunks(self, rows: list[int]) -> Iterator[list[int]]:
        at_once = max(1, self.tokens_at_once // max(1, self.resid.shape[1]))
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]

    def _push(
        self,
        block: Block,
        rows: list[int] | None,
        cross: Cross | None,
        edits: LayerEdits,
        own: list[tuple[list[int], KeysValues]],
    ) -> None:
        """Push the trunk (rows is None) or some branches through a block."""
        layouts = self.stacks[cross is not None]
        layout: AttentionLayout = layouts.whole if rows is None else layouts.queried
        # Keys and values of a decoder's tokens are kept for texts.
        keep = None if cross is None or not self.plan.generates else own
        attend = partial(self._attend, block, layout, rows, keep)
        look = None if cross is None else partial(self._look, block, cross, rows)
        resid = self.trunk if rows is None else self.resid[_rows(rows)]
        out = block.run(resid, attend, look, edits)
        if rows is None:
            self.trunk = out
        else:
            self.resid[rows] = out
        self.work.block_passes += len(out)
        self.work.token_passes += out.shape[0] * out.shape[1]

    def _attend(
        self,
        block: Block,
        layout: AttentionLayout,
        rows: list[int] | None,
        keep: list[tuple[list[int], KeysValues]] | None,
        queries: torch.Tensor,
        new: KeysValues,
    ) -> torch.Tensor:
        """Outputs of self-attention heads."""
        if keep is not None:
            keep.append(([0] if rows is None else [1 + row for row in rows], new))
        return layout.read(queries, new.keys, new.values, block.parts.attn.scale)

    def _look(
        self, block: Block, cross: Cross, rows: list[int] | None, queries: torch.Tensor
    ) -> torch.Tensor:
        """Outputs of cross-attention heads."""
        attention = block.parts.cross_attn
        assert attention is not None
        memories = [0] if rows is None else [self.memory_of(row) for row in rows]
        reading = self.cross if rows is None else self.request_cross
        if self.from_memory and memories[0]:
            memory = self.memories[_rows(memories)]
            return reading.read_memory(queries, memory, attention)
        places = cross.at(memories[:1] if len(set(memories)) == 1 else memories)
        of = cross.keys_values.of(_rows(places))
        return reading.read(queries, of.keys, of.values, attention.scale)

    def _edits(self, rows: Sequence[int], layer: int) -> LayerEdits:
        """The changes to a layer, each on the rows of its own branch."""
        side = self.stacks[layer >= self.n_encoder].side
        positions = torch.tensor(side.positions[: side.n_requested], device=self.device)
        return edits_of(
            enumerate(self.branches[row].edits.get(layer, ()) for row in rows),
            len(rows),
            len(positions),
            self.model.cfg.heads_of(layer),
            lambda edit: self._value(edit, layer, positions),
            self.device,
        )

    def _value(self, edit: SiteEdit, layer: int, positions: torch.Tensor) -> Value:
        """The vectors that an edit puts at tokens of requests, and their mask (None: all)."""
        given = edit.value_at(positions[None])
        if given is not None:
            return given, None
        plan, seen = self.plan, self.seen
        if layer >= self.n_encoder:
            paths, sources, n_given = plan.paths, plan.source_paths, plan.n_given
        else:
            paths, sources = plan.inputs, plan.source_inputs
            n_given = [len(path) for path in paths]
        if edit.donor is not None:
            sources, seen = paths, self.donated[id(edit.donor)]
        source_of = taken_from(edit, len(positions), paths, sources, n_given).to(self.device)
        value = seen[edit.site][:, source_of.clamp(min=0)]
        return value, None if edit.resamples or edit.donor is not None else source_of >= 0


def _rows(numbers: list[int]) -> slice | list[int]:
    """Rows by number, as a slice where that takes them."""
    return in_a_row(numbers) or numbers
