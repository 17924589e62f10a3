"""The fast sweep: one walk through the layers with a trunk and the branches opened so far.

Invariant: at layer k the trunk holds the intact residual stream of every packed token of the
stack, and each open branch that of its interventions for the tokens which they can have changed.
In the last layer only what is read out leaves. Between the stacks of an encoder-decoder the trunk
and each branch that is open make the encoder output that their decoder looks at; a branch that
opens later looks at that of the forward pass which it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import Model, key_heads, n_layer_heads
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.edits import EMBED, MEMORY_NORM, OtherWeights, SiteEdit
from layerwise.sweep.changes.layer_edits import (
    NO_EDITS,
    LayerEdits,
    Value,
    layer_edits,
    source_tokens,
)
from layerwise.sweep.packed.blocks import BlockRunner, runner_with_weights
from layerwise.sweep.packed.layout import SCRATCH, KeptKeysValues, KeysValues, Layout, span
from layerwise.sweep.packed.stack_block import EncoderOutputs, StackBlock
from layerwise.sweep.plans.branches import Branch
from layerwise.sweep.plans.walk_plan import INSIDE, WalkPlan
from layerwise.sweep.requests import Request

from .stack import Stack

# Tokens pushed through a block at once: enough for the matrix products to run at full rate, few
# enough for their activations to stay in cache. How it was chosen is in docs/planning.md.
TOKENS_AT_ONCE = 1024

Seen = dict[str, torch.Tensor]  # activations of one layer by site


@dataclass
class SweepWork:
    """Counters of the engine's work."""

    block_passes: int = 0  # (walk, branch, layer) triples pushed through a block
    token_passes: int = 0  # tokens pushed through a block, generated ones included
    new_tokens: int = 0  # tokens generated, the first of each text left out: the prompt gives it
    row_passes: int = 0  # rows of decoding steps, each of which gives one new token or more


@dataclass
class Group:
    """Branches that carry the same tokens, with their residual streams."""

    branches: tuple[Branch, ...]  # in order of opening
    layout: Layout  # where their tokens lie
    last: Layout  # the same for the last layer, out of which comes only what is read
    # Their residual streams; the first ``open`` rows are in use.
    resid: Float[torch.Tensor, "branch token d_model"]
    # After the last layer, the residual streams at the tokens that are read.
    read: Float[torch.Tensor, "branch output d_model"]
    open: int = 0


@dataclass
class Walk:
    """The walk of one batch through the layers, and its final streams."""

    model: Model
    runners: Sequence[BlockRunner]
    plan: WalkPlan
    requests: Sequence[Request]
    work: SweepWork
    tokens_at_once: int = TOKENS_AT_ONCE
    scratch: int = SCRATCH
    donors: Mapping[int, Iterator[Seen]] = field(default_factory=dict)
    trunk: Float[torch.Tensor, "1 token d_model"] = field(init=False)
    trunk_layout: Layout = field(init=False)
    groups: list[Group] = field(default_factory=list, init=False)
    # Keys and values by layer, where texts are written: of the trunk, then of the branches.
    kept: list[KeptKeysValues | None] = field(default_factory=list, init=False)
    # Encoder outputs, of the trunk and of the branches that were open then.
    encoder_outputs: Float[torch.Tensor, "memory token d_model"] = field(init=False)
    # By layer their keys and values, made with the model's weights or with others.
    looked_at: list[dict[OtherWeights | None, KeysValues]] = field(default_factory=list, init=False)
    seen: Seen = field(init=False)  # the trunk's activations in the layer, where they are needed
    # The blocks of branches that have other weights than the model.
    own_blocks: dict[OtherWeights, BlockRunner] = field(default_factory=dict, init=False)
    # By layer and site that is copied: each request's source run at its last position.
    source_ends: dict[tuple[int, str], Float[torch.Tensor, "request ..."]] = field(init=False)

    def __post_init__(self) -> None:
        runner = self.runners[0]
        self.exact, self.in_parts = runner.exact, runner.in_parts
        self.device, self.source_ends = self.model.W_E.device, {}
        self._enter(0)

    def _enter(self, number: int) -> None:
        """Embed a stack's tokens, for the trunk and the branches that are open."""
        self.stack = Stack(self.model, self.plan, number, self.exact, self.scratch)
        self.side = self.stack.side
        self.trunk = self.stack.embed_inputs(None)[None]
        self.trunk_layout = self.stack.layout(None)
        opened = [group.open for group in self.groups] or [0] * len(self.plan.groups)
        self.groups = []
        for plan, n_open in zip(self.plan.groups, opened, strict=True):
            carried = plan.carried[number]
            layout = self.trunk_layout if carried is None else self.stack.layout(carried)
            last = self.stack.layout(carried, self.plan.read) if self.in_parts else layout
            n_branches, width = len(plan.branches), self.trunk.shape[-1]
            resid = self.trunk.new_empty(n_branches, layout.n_tokens, width)
            for row, branch in enumerate(plan.branches[:n_open]):
                weights = branch.weights(0, EMBED)
                embedded = self.trunk if weights is None else self.stack.embed_inputs(weights)[None]
                resid[row] = layout.select_trunk(embedded)[0]
            read = resid
            if last.outputs is not None:
                read = self.trunk.new_empty(n_branches, len(self.plan.read), width)
            self.groups.append(Group(plan.branches, layout, last, resid, read, n_open))

    def run(self, on_layer: Callable[[int], None] | None = None) -> None:
        """Push everything through all layers."""
        for layer, _ in self.layers():
            if on_layer is not None:
                on_layer(layer)
        self.seen = {}
        read = torch.tensor(self.plan.read, dtype=torch.long, device=self.device)
        if self.trunk.shape[1] == self.trunk_layout.n_tokens:
            self.trunk = self.trunk[:, read]
        for group in self.groups:
            if group.last.outputs is None:
                carried = group.layout.carried
                at = read if carried is None else torch.searchsorted(carried, read)
                group.read = group.resid[:, at]
            self._open(group, self.plan.n_layers, group.read)

    def layers(self, observe: bool = False) -> Iterator[tuple[int, Seen]]:
        """Push everything through layer by layer; with the trunk's sites if asked for."""
        for layer in range(self.plan.n_layers):
            if self.plan.stack_index(layer) > self.stack.number:
                self._encode_branches()
                self._enter(self.stack.number + 1)
            self._layer(layer, observe)
            yield layer, self.seen

    def _encode_branches(self) -> None:
        """Make the encoder outputs that decoders look at, that of the trunk first."""
        assert isinstance(self.model, Seq2SeqModel)
        self.bare = self.plan.reads_outputs(self.model.cfg.decoder_d_head)
        norm, memories = self.model.parts.encoder.final_norm, [self.trunk]
        for group in self.groups:
            resid, carried = group.resid[: group.open], group.layout.carried
            if carried is not None:  # no branch looks at what is of source runs alone
                resid = self.trunk.repeat(len(resid), 1, 1).index_copy_(1, carried, resid)
            memories.append(resid)
        streams = torch.cat(memories)
        self.encoder_outputs = norm(streams)
        for row, branch in enumerate(self.plan.branches[: len(streams) - 1]):
            weights = branch.weights(self.plan.n_encoder - 1, MEMORY_NORM)
            if weights is not None:
                with weights.in_place():
                    self.encoder_outputs[1 + row] = norm(streams[1 + row : 2 + row])[0]

    def _layer(self, layer: int, observe: bool) -> None:
        self.layer, runner, self.seen = layer, self.runners[layer], {}
        for group in self.groups:
            self._open(group, layer, group.resid)
        self.donated = {donor: next(layers) for donor, layers in self.donors.items()}
        kept, self.outside = None, None
        # Keys and values of encoder outputs, made with the model's weights or with others.
        self.looks: dict[OtherWeights | None, KeysValues] = {}
        if self.plan.generates and not self.stack.encodes:
            # Room for keys and values of the trunk, then the open branches.
            n_sources = 1 + sum(group.open for group in self.groups)
            heads = key_heads(self.model)
            kept = KeptKeysValues.empty(n_sources, len(self.side.trie), *heads, like=self.trunk)
        self.kept.append(kept)
        if layer < self.plan.trunk_until:
            self.outside = self._push_trunk(runner, observe)
            if kept is not None and self.outside is not None:
                kept.put([0], self.outside)
                self._keep_source_ends()
        plain = [self._push(group) for group in self.groups]
        if len(self.groups) == 1:
            (group,), (rows,) = self.groups, plain
            for chunk in self._chunks(rows, self._ends(group)[0]):
                self._push_block(None, group, chunk, NO_EDITS)
        else:
            self._push_plain_branches(plain)
        self.looked_at.append(self.looks if kept is not None else {})
        self.outside, self.looks = None, {}

    def _push_trunk(self, runner: BlockRunner, observe: bool) -> KeysValues | None:
        layer, layout = self.layer, self.trunk_layout
        n_tokens = layout.n_tokens if observe else self.plan.trunk_tokens(layer, self.in_parts)
        if n_tokens < layout.n_tokens:
            layout = self.stack.layout(None, self.plan.read if n_tokens else ())
        observing = observe or self.plan.layers_with_sites[layer]
        edits = LayerEdits(observe=self.seen.__setitem__) if observing else NO_EDITS
        beside = self._outside_keys_values(runner, None, [None])
        self.trunk, own = runner.run_packed(self.trunk, layout, beside, edits, overwrite=True)
        self._count(1, n_tokens)
        return own

    def _outside_keys_values(
        self, runner: BlockRunner, weights: OtherWeights | None, rows: Sequence[int | None]
    ) -> KeysValues | None:
        """Keys and values that rows attend to beside their own: encoder outputs or the trunk."""
        if not isinstance(runner, StackBlock) or self.stack.encodes:
            return self.outside
        memories = [self.plan.encoder_output_index(row) for row in rows]
        if self.bare and memories[0]:
            outputs = self.encoder_outputs[span(memories)][:, :, None]
            return EncoderOutputs(outputs, outputs)
        if weights not in self.looks:
            outputs = self.encoder_outputs[:1] if self.bare else self.encoder_outputs
            self.looks[weights] = runner.cross_keys_values(outputs)
        alike = len(set(memories)) == 1
        return self.looks[weights].select_members(span(memories[:1] if alike else memories))

    def _keep_source_ends(self) -> None:
        """Keep source activations for copies at generated positions."""
        edits = (edit for b in self.plan.branches for edit in b.edits.get(self.layer, ()))
        copied = {edit.site for edit in edits if edit.resamples}
        if copied:
            last = torch.tensor([0 if path is None else path[-1] for path in self.side.sources])
            for site in copied:
                self.source_ends[self.layer, site] = self.seen[site][0, last.to(self.device)]

    def _open(self, group: Group, layer: int, streams: torch.Tensor) -> None:
        """Start the branches whose first own layer this is, in their group's streams."""
        branches = group.branches
        while group.open < len(branches) and branches[group.open].first_layer == layer:
            row, parent = group.open, branches[group.open].parent
            carried = group.layout.carried if streams is group.resid else None
            weights = branches[row].weights(layer, EMBED)
            left = self.trunk[0] if parent is None else streams[parent]
            if weights is not None:
                left, parent = self.stack.embed_inputs(weights), None
            streams[row] = left if carried is None or parent is not None else left[carried]
            group.open += 1

    def layer_runner(self, layer: int, weights: OtherWeights | None) -> BlockRunner:
        """The runner of a layer with replaced weights; kept for decoding."""
        if weights is None:
            return self.runners[layer]
        if weights in self.own_blocks:
            return self.own_blocks[weights]
        runner = runner_with_weights(self.model, layer, weights)
        if self.plan.generates:
            self.own_blocks[weights] = runner
        return runner

    def _push(self, group: Group) -> list[int]:
        """Push a group's branches with edits in this layer through; the others are returned."""
        layer = self.layer
        ways: dict[str, list[int]] = {"plain": [], "inside": [], "idle": []}
        edited: dict[OtherWeights | None, list[int]] = {}
        before: list[int] = []
        for row, branch in enumerate(group.branches[: group.open]):
            edits = branch.edits.get(layer, ())
            if any(edit.site == "resid_pre" for edit in edits):
                before.append(row)
            if branch.idle(layer):
                ways["idle"].append(row)
            elif branch.weights(layer) is None and not any(e.site in INSIDE for e in edits):
                ways["plain"].append(row)
            elif layer == branch.first_layer and self.starts_inside(group, row):
                ways["inside"].append(row)
            else:
                edited.setdefault(branch.weights(layer), []).append(row)
        layout, into = self._ends(group)
        if before:
            edits = self._edits(group, before, ("resid_pre",), group.layout)
            group.resid[before] = edits.apply_to("resid_pre", group.resid[before])
        for weights, of_block in edited.items():
            for rows in self._chunks(of_block, layout):
                self._push_block(weights, group, rows, self._edits(group, rows, INSIDE, layout))
        for rows in self._chunks(ways["inside"], layout):
            edits = self._edits(group, rows, INSIDE, layout)
            sites = {name: layout.select_trunk(x) for name, x in self.seen.items()}
            leaving = layout.select_outputs(group.resid[rows])
            into[rows] = self.runners[layer].from_sites(leaving, sites, edits)
        for rows in self._chunks(ways["idle"], layout):
            edits = self._edits(group, rows, ("resid_post",), layout)
            if edits.changes("resid_post") or layout.outputs is not None:
                leaving = layout.select_outputs(group.resid[rows])
                into[rows] = edits.apply_to("resid_post", leaving)
        return ways["plain"]

    def _ends(self, group: Group) -> tuple[Layout, torch.Tensor]:
        """The layout and output buffer of a group in the layer."""
        if self.layer == self.plan.n_layers - 1:
            return group.last, group.read
        return group.layout, group.resid

    def _push_plain_branches(self, plain: Sequence[Sequence[int]]) -> None:
        """Push the unchanged branches of several groups through, as many at once as may be."""
        batch: list[tuple[Group, list[int]]] = []
        room = self.tokens_at_once
        for group, of_group in zip(self.groups, plain, strict=True):
            rows, n_tokens = list(of_group), max(1, group.layout.n_tokens)
            while rows:
                fitting = max(0 if batch else 1, room // n_tokens)
                if fitting:
                    batch.append((group, rows[:fitting]))
                    room -= n_tokens * len(rows[:fitting])
                    rows = rows[fitting:]
                if rows:
                    self._several(batch)
                    batch, room = [], self.tokens_at_once
        if batch:
            self._several(batch)

    def _several(self, batch: Sequence[tuple[Group, list[int]]]) -> None:
        ends = [self._ends(group) for group, _ in batch]
        parts = [
            (group.resid[rows], layout)
            for (group, rows), (layout, _) in zip(batch, ends, strict=True)
        ]
        outputs = self.runners[self.layer].packed_several(parts, self.outside)
        for (_, rows), (layout, into), out in zip(batch, ends, outputs, strict=True):
            into[rows] = out
            self._count(len(rows), layout.n_outputs)

    def starts_inside(self, group: Group, row: int) -> bool:
        """True if a branch begins with the trunk's attention."""
        return self.in_parts and self.plan.starts_inside(group.branches[row])

    def _chunks(self, rows: list[int], layout: Layout) -> Iterator[list[int]]:
        at_once = max(1, self.tokens_at_once // max(1, layout.n_tokens))
        # Decoders that look at the intact encoder output share its keys and values.
        for intact in (True, False):
            part = [row for row in rows if (self.plan.encoder_output_index(row) == 0) is intact]
            for start in range(0, len(part), at_once):
                yield part[start : start + at_once]

    def _push_block(
        self, weights: OtherWeights | None, group: Group, rows: list[int], edits: LayerEdits
    ) -> None:
        """Push some branches of a group through the layer's block, or one with other weights."""
        runner = self.layer_runner(self.layer, weights)
        (layout, into), at = self._ends(group), span(rows)
        resid = group.resid[at]
        beside = self._outside_keys_values(runner, weights, rows)
        out, own = runner.run_packed(resid, layout, beside, edits, overwrite=True)
        if out is not resid or isinstance(at, list):
            into[at] = out
        self._count(len(rows), layout.n_outputs)
        kept = self.kept[-1]
        if kept is not None and own is not None:
            kept.put([1 + row for row in rows], own, group.layout.carried)

    def _count(self, branches: int, n_tokens: int) -> None:
        self.work.block_passes += branches
        self.work.token_passes += branches * n_tokens

    def _edits(
        self, group: Group, rows: list[int], sites: Sequence[str], layout: Layout
    ) -> LayerEdits:
        """The edits at some sites of the layer, each on the rows of its own branch."""
        entering = sites == ("resid_pre",)
        of_rows = (group.branches[row].edits.get(self.layer, ()) for row in rows)
        changes = ([edit for edit in edits if edit.site in sites] for edits in of_rows)
        return layer_edits(
            enumerate(changes),
            len(rows),
            layout.n_tokens if entering else layout.n_outputs,
            n_layer_heads(self.model, self.layer),
            lambda edit: self._value(edit, layout, entering),
            self.device,
        )

    def _value(self, edit: SiteEdit, layout: Layout, entering: bool) -> Value:
        """The vectors that an edit puts at tokens of a layout, and their mask (None: all)."""
        positions = layout.positions if entering else layout.leaving_positions
        given = edit.position_values(positions[None])
        if given is not None:
            return given, None
        side, sources, activations = self.side, self.side.sources, self.seen
        if edit.donor is not None:
            sources, activations = side.paths, self.donated[id(edit.donor)]
        tokens = source_tokens(edit, layout.n_packed, side.paths, sources, side.n_given)
        source_of = tokens.to(self.device)
        if layout.carried is not None:
            source_of = source_of[layout.carried]
        if layout.outputs is not None and not entering:
            source_of = source_of[layout.outputs]
        value = activations[edit.site][:, source_of.clamp(min=0)]
        return value, None if edit.resamples or edit.donor is not None else source_of >= 0

    def source(self, row: int | None, layer: int) -> int:
        """Place of the keys and values of a branch in a layer; None is the trunk."""
        number = self.plan.followed_branch(row, layer)
        opened = number and layer == self.plan.branches[number - 1].first_layer
        inside = opened and self.starts_inside(self.groups[0], number - 1)
        return 0 if inside else number
