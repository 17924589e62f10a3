"""The fast sweep: one walk through the layers with a trunk and the branches opened so far.

Invariant: at layer k the trunk holds the intact residual stream of every packed token, and each
open branch that of its interventions for the tokens which they can have changed. In the last
layer only what is read out leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import DecoderOnly, heads_per_key
from layerwise.sweep.changes.edits import EMBED, OtherWeights, SiteEdit
from layerwise.sweep.changes.layer_edits import NO_EDITS, LayerEdits, Value, edits_of, taken_from
from layerwise.sweep.packed.blocks import BlockRunner, runner_with
from layerwise.sweep.packed.layout import SCRATCH, KeptKeysValues, KeysValues, Layout, make_layout
from layerwise.sweep.plans.branches import Branch
from layerwise.sweep.plans.walk_plan import INSIDE, WalkPlan
from layerwise.sweep.requests import Request

from .readout import embed_tokens

# Tokens pushed through a block at once: enough for the matrix products to run at full rate, few
# enough for their activations to stay in cache. How it was chosen is in docs/planning.md.
TOKENS_AT_ONCE = 1024


Seen = dict[str, torch.Tensor]
"""Activations of one layer by site."""


@dataclass
class Work:
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

    model: DecoderOnly
    runners: Sequence[BlockRunner]
    plan: WalkPlan
    requests: Sequence[Request]
    work: Work
    tokens_at_once: int = TOKENS_AT_ONCE
    scratch: int = SCRATCH
    donors: Mapping[int, Iterator[Seen]] = field(default_factory=dict)
    trunk: Float[torch.Tensor, "1 token d_model"] = field(init=False)
    trunk_layout: Layout = field(init=False)
    groups: list[Group] = field(init=False)
    kept: list[KeptKeysValues | None] = field(init=False)
    seen: Seen = field(init=False)  # the trunk's activations in the layer, where they are needed
    # The blocks of branches that have other weights than the model.
    own_blocks: dict[OtherWeights, BlockRunner] = field(default_factory=dict, init=False)
    # By layer and site that is copied: each request's source run at its last position.
    source_ends: dict[tuple[int, str], Float[torch.Tensor, "request ..."]] = field(init=False)

    def __post_init__(self) -> None:
        runner = self.runners[0]
        self.exact, self.in_parts = runner.exact, runner.in_parts
        self.device = self.model.W_E.device
        self.trunk = self._embedded()[None]
        self.trunk_layout = self._layout(None)
        self.groups, self.kept, self.source_ends = [], [], {}
        for group in self.plan.groups:
            layout = self.trunk_layout if group.carried is None else self._layout(group.carried)
            last = self._layout(group.carried, self.plan.read) if self.in_parts else layout
            n_branches, width = len(group.branches), self.trunk.shape[-1]
            resid = self.trunk.new_empty(n_branches, layout.n_tokens, width)
            read = resid
            if last.outputs is not None:
                read = self.trunk.new_empty(n_branches, len(self.plan.read), width)
            self.groups.append(Group(group.branches, layout, last, resid, read))

    def _embedded(self) -> Float[torch.Tensor, "token d_model"]:
        """The residual stream that enters the first block."""
        trie = self.plan.trie
        tokens, positions = (
            torch.tensor(numbers, dtype=torch.long, device=self.device)
            for numbers in (trie.tokens, trie.positions)
        )
        return embed_tokens(self.model, tokens, positions)

    def _layout(
        self, carried: frozenset[int] | None, outputs: Sequence[int] | None = None
    ) -> Layout:
        return make_layout(
            self.plan.trie,
            carried,
            exact=self.exact,
            like=self.model.W_E,
            outputs=outputs,
            scratch=self.scratch,
            group=heads_per_key(self.model.cfg),
        )

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
            self._layer(layer, observe)
            yield layer, self.seen

    def _layer(self, layer: int, observe: bool) -> None:
        runner = self.runners[layer]
        for group in self.groups:
            self._open(group, layer, group.resid)
        kept = None
        if self.plan.generates:  # room for keys and values of the trunk, then the open branches
            n_sources = 1 + sum(group.open for group in self.groups)
            n_packed = len(self.plan.trie)
            kept = KeptKeysValues.empty(n_sources, n_packed, self.model.cfg, like=self.trunk)
        self.seen = {}
        self.donated = {donor: next(layers) for donor, layers in self.donors.items()}
        outside = None
        if layer < self.plan.trunk_until:
            outside = self._push_trunk(runner, layer, observe)
            if kept is not None and outside is not None:
                kept.put([0], outside)
                self._keep_source_ends(layer)
        plain = [self._push(runner, group, layer, outside, kept) for group in self.groups]
        if len(self.groups) == 1:
            (group,), (rows,) = self.groups, plain
            layout, into = self._ends(group, layer)
            for chunk in self._chunks(rows, layout):
                self._through(runner, group, chunk, layout, into, outside, NO_EDITS, kept)
        else:
            self._push_together(runner, layer, outside, plain)
        self.kept.append(kept)

    def _push_trunk(self, runner: BlockRunner, layer: int, observe: bool) -> KeysValues | None:
        layout = self.trunk_layout
        n_tokens = layout.n_tokens if observe else self.plan.trunk_tokens(layer, self.in_parts)
        if n_tokens < layout.n_tokens:
            layout = self._layout(None, self.plan.read if n_tokens else ())
        observing = observe or self.plan.sites_needed[layer]
        edits = LayerEdits(observe=self.seen.__setitem__) if observing else NO_EDITS
        self.trunk, own = runner.packed(self.trunk, layout, edits=edits, overwrite=True)
        self._count(1, n_tokens)
        return own

    def _keep_source_ends(self, layer: int) -> None:
        """Keep source activations for copies at generated positions."""
        copied = {
            edit.site
            for group in self.groups
            for branch in group.branches
            for edit in branch.edits.get(layer, ())
            if edit.resamples
        }
        if copied:
            last = torch.tensor([0 if path is None else path[-1] for path in self.plan.sources])
            for site in copied:
                self.source_ends[layer, site] = self.seen[site][0, last.to(self.device)]

    def _open(self, group: Group, layer: int, streams: torch.Tensor) -> None:
        """Start the branches whose first own layer this is, in their group's streams."""
        branches = group.branches
        while group.open < len(branches) and branches[group.open].first_layer == layer:
            row, parent = group.open, branches[group.open].parent
            carried = group.layout.carried if streams is group.resid else None
            weights = branches[row].weights(layer, EMBED)
            if weights is not None:
                with weights.in_place():
                    left = self._embedded()
            else:
                left = self.trunk[0] if parent is None else streams[parent]
            whole = parent is None or weights is not None
            streams[row] = left if carried is None or not whole else left[carried]
            group.open += 1

    def runner_of(self, layer: int, weights: OtherWeights | None) -> BlockRunner:
        """The runner of a layer with replaced weights; kept for decoding."""
        if weights is None:
            return self.runners[layer]
        if weights in self.own_blocks:
            return self.own_blocks[weights]
        runner = runner_with(self.model, layer, weights)
        if self.plan.generates:
            self.own_blocks[weights] = runner
        return runner

    def _push(
        self,
        runner: BlockRunner,
        group: Group,
        layer: int,
        outside: KeysValues | None,
        kept: KeptKeysValues | None,
    ) -> list[int]:
        """Push a group's branches with edits in this layer through; the others are returned."""
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
        layout, into = self._ends(group, layer)
        if before:
            edits = self._edits(group, before, layer, ("resid_pre",), group.layout)
            group.resid[before] = edits.changed("resid_pre", group.resid[before])
        for weights, of_block in edited.items():
            block = runner if weights is None else self.runner_of(layer, weights)
            for rows in self._chunks(of_block, layout):
                edits = self._edits(group, rows, layer, INSIDE, layout)
                self._through(block, group, rows, layout, into, outside, edits, kept)
        for rows in self._chunks(ways["inside"], layout):
            edits = self._edits(group, rows, layer, INSIDE, layout)
            sites = {name: layout.of_trunk(x) for name, x in self.seen.items()}
            into[rows] = runner.from_sites(layout.leaving(group.resid[rows]), sites, edits)
        for rows in self._chunks(ways["idle"], layout):
            edits = self._edits(group, rows, layer, ("resid_post",), layout)
            if edits.changes("resid_post") or layout.outputs is not None:
                leaving = layout.leaving(group.resid[rows])
                into[rows] = edits.changed("resid_post", leaving)
        return ways["plain"]

    def _ends(self, group: Group, layer: int) -> tuple[Layout, torch.Tensor]:
        """The layout and output buffer of a group in a layer."""
        if layer == self.plan.n_layers - 1:
            return group.last, group.read
        return group.layout, group.resid

    def _push_together(
        self,
        runner: BlockRunner,
        layer: int,
        outside: KeysValues | None,
        plain: Sequence[Sequence[int]],
    ) -> None:
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
                    self._several(runner, layer, outside, batch)
                    batch, room = [], self.tokens_at_once
        if batch:
            self._several(runner, layer, outside, batch)

    def _several(
        self,
        runner: BlockRunner,
        layer: int,
        outside: KeysValues | None,
        batch: Sequence[tuple[Group, list[int]]],
    ) -> None:
        ends = [self._ends(group, layer) for group, _ in batch]
        parts = [
            (group.resid[rows], layout)
            for (group, rows), (layout, _) in zip(batch, ends, strict=True)
        ]
        outputs = runner.packed_several(parts, outside)
        for (_, rows), (layout, into), out in zip(batch, ends, outputs, strict=True):
            into[rows] = out
            self._count(len(rows), layout.n_outputs)

    def starts_inside(self, group: Group, row: int) -> bool:
        """Whether a branch begins with the trunk's attention."""
        return self.in_parts and self.plan.starts_inside(group.branches[row])

    def _chunks(self, rows: list[int], layout: Layout) -> Iterator[list[int]]:
        at_once = max(1, self.tokens_at_once // max(1, layout.n_tokens))
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]

    def _through(
        self,
        runner: BlockRunner,
        group: Group,
        rows: list[int],
        layout: Layout,
        into: torch.Tensor,
        outside: KeysValues | None,
        edits: LayerEdits,
        kept: KeptKeysValues | None,
    ) -> None:
        # Neighbouring rows are a view, any others a copy.
        together = rows[-1] - rows[0] == len(rows) - 1
        at = slice(rows[0], rows[-1] + 1) if together else rows
        resid = group.resid[at]
        out, own = runner.packed(resid, layout, outside, edits, overwrite=True)
        if out is not resid or not together:
            into[at] = out
        self._count(len(rows), layout.n_outputs)
        if kept is not None and own is not None:
            kept.put([1 + row for row in rows], own, group.layout.carried)

    def _count(self, branches: int, n_tokens: int) -> None:
        self.work.block_passes += branches
        self.work.token_passes += branches * n_tokens

    def _edits(
        self,
        group: Group,
        rows: list[int],
        layer: int,
        sites: Sequence[str],
        layout: Layout,
    ) -> LayerEdits:
        """The edits at some sites of a layer, each on the rows of its own branch."""
        entering = sites == ("resid_pre",)
        of_rows = (group.branches[row].edits.get(layer, ()) for row in rows)
        changes = ([edit for edit in edits if edit.site in sites] for edits in of_rows)
        return edits_of(
            enumerate(changes),
            len(rows),
            layout.n_tokens if entering else layout.n_outputs,
            self.model.cfg.n_heads,
            lambda edit: self._value(edit, layout, entering),
            self.device,
        )

    def _value(self, edit: SiteEdit, layout: Layout, entering: bool) -> Value:
        """The vectors that an edit puts at tokens of a layout, and their mask (None: all)."""
        positions = layout.positions if entering else layout.leaving_positions
        given = edit.value_at(positions[None])
        if given is not None:
            return given, None
        plan, sources, activations = self.plan, self.plan.sources, self.seen
        if edit.donor is not None:
            sources, activations = plan.paths, self.donated[id(edit.donor)]
        source_of = taken_from(edit, layout.n_packed, plan.paths, sources, plan.n_given)
        source_of = source_of.to(self.device)
        if layout.carried is not None:
            source_of = source_of[layout.carried]
        if layout.outputs is not None and not entering:
            source_of = source_of[layout.outputs]
        value = activations[edit.site][:, source_of.clamp(min=0)]
        return value, None if edit.resamples or edit.donor is not None else source_of >= 0

    def source(self, row: int | None, layer: int) -> int:
        """Where the keys and values of a branch are kept in a layer; None is the trunk."""
        if row is None:
            return 0
        (group,) = self.groups
        branch = group.branches[row]
        own = layer > branch.first_layer or (
            layer == branch.first_layer and not self.starts_inside(group, row)
        )
        return 1 + row if own else self.source(branch.parent, layer)
