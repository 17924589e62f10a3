"""The plan of one walk: which tokens, which branches, what is read out at the end.

A value made from token ids and interventions alone; it can be tested without a model. The walk
in ``engine`` follows it and decides nothing more.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerwise.sweep.changes.edits import CROSS_SITES, Edit
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import Generate, Request, Tokens

from .branches import Branch, make_branches
from .packing import PackedStack, Packing, Path

# Sites of a block behind its attention's scores: a change there leaves what is before it as it was.
INSIDE = ("z", "attn_out", "resid_mid", *CROSS_SITES, "mlp_out", "resid_post")


@dataclass(frozen=True)
class GroupPlan:
    """Branches that carry the same tokens."""

    # By stack, packed indices of the tokens that their changes can reach; None if all.
    carried: tuple[frozenset[int] | None, ...]
    branches: tuple[Branch, ...]  # in order of opening
    trunk_until: int  # the trunk is pushed through the layers before this one


@dataclass(frozen=True)
class WalkPlan:
    """One walk through the layers of a model's stacks."""

    sides: tuple[PackedStack, ...]  # the packed tokens of each stack
    # Packed indices, in the last stack, of the tokens whose prediction is read, in ascending order.
    read: tuple[int, ...]
    # Interventions (as indices) that change nothing, or only what is the same in the source run.
    intact: tuple[int, ...]
    groups: tuple[GroupPlan, ...]  # all other interventions; of two stacks at most one
    n_layers: int  # layers of all stacks
    n_encoder: int  # of these the encoder's
    generates: bool  # whether any request generates

    def stack_index(self, layer: int) -> int:
        """Number of a layer's stack."""
        return int(0 < self.n_encoder <= layer)

    def n_carried_tokens(self, group: int | None, side: int) -> int:
        """Number of tokens of a stack that each branch of a group carries, or the trunk."""
        carried = None if group is None else self.groups[group].carried[side]
        return len(self.sides[side].trie if carried is None else carried)

    @cached_property
    def trunk_until(self) -> int:
        """The trunk is pushed through the layers before this one."""
        if self.intact:
            return self.n_layers
        return max((group.trunk_until for group in self.groups), default=0)

    @cached_property
    def branches(self) -> list[Branch]:
        """The branches of all groups."""
        return [branch for group in self.groups for branch in group.branches]

    def followed_branch(self, branch: int | None, layer: int) -> int:
        """Forward pass that a branch of the one group still is: 0 the trunk's, 1 + i branch i."""
        while branch is not None and layer < self.branches[branch].first_layer:
            branch = self.branches[branch].parent
        return 0 if branch is None else 1 + branch

    def encoder_output_index(self, branch: int | None) -> int:
        """Encoder output that a branch of two stacks reads, numbered as in ``followed_branch``."""
        return self.followed_branch(branch, self.n_encoder - 1) if self.n_encoder else 0

    @cached_property
    def layers_with_sites(self) -> tuple[bool, ...]:
        """By layer, whether the trunk's activations within the block are asked for."""
        needed = [False] * self.n_layers
        for branch in self.branches:
            for layer, edits in branch.edits.items():
                if any(edit.needs_source for edit in edits):
                    needed[layer] = True
            if self.starts_inside(branch):
                needed[branch.first_layer] = True
        return tuple(needed)

    def starts_inside(self, branch: Branch) -> bool:
        """True if a branch can begin with the trunk's attention instead of its own."""
        # It must leave the trunk in a layer that the trunk runs, and change nothing before that.
        if branch.parent is not None or branch.first_layer >= self.trunk_until:
            return False
        edits = branch.edits.get(branch.first_layer, ())
        return not branch.idle(branch.first_layer) and all(edit.site in INSIDE for edit in edits)

    def block_passes(self, in_parts: bool = True) -> int:
        """Number of block runs, trunk included."""
        return sum(1 for _ in self.passes(in_parts))

    def token_passes(self, in_parts: bool = True) -> int:
        """Tokens pushed through a block; in the last layer only those that leave it."""
        return sum(tokens for *_, tokens in self.passes(in_parts))

    def passes(self, in_parts: bool = True) -> Iterator[tuple[int, int | None, int]]:
        """Layer, number of the group (None is the trunk) and tokens of each block run."""
        for layer in range(self.trunk_until):
            yield layer, None, self.trunk_tokens(layer, in_parts)
        for number, group in enumerate(self.groups):
            for branch in group.branches:
                for layer in range(branch.first_layer, self.n_layers):
                    inside = layer == branch.first_layer and self.starts_inside(branch)
                    if branch.idle(layer) or (inside and in_parts):
                        continue
                    last = in_parts and layer == self.n_layers - 1
                    whole = self.n_carried_tokens(number, self.stack_index(layer))
                    yield layer, number, len(self.read) if last else whole

    def trunk_tokens(self, layer: int, in_parts: bool = True) -> int:
        """Number of tokens of the trunk that leave a layer."""
        if not in_parts or layer < self.n_layers - 1 or self.layers_with_sites[layer]:
            return len(self.sides[self.stack_index(layer)].trie)
        return len(self.read) if self.intact or self.opens_at_end else 0

    @cached_property
    def opens_at_end(self) -> bool:
        """True if branches leave the trunk behind its last layer."""
        return any(b.parent is None and b.first_layer == self.n_layers for b in self.branches)

    def looks(self, carried: bool) -> dict[Path, set[int]]:
        """By encoder input which decoder tokens look at it: all of its texts'."""
        # Those that branches carry are of requests, others of source runs, too.
        encoder, decoder = self.sides
        inputs, outputs = [*encoder.paths], [*decoder.paths]
        if not carried:
            inputs += [path for path in encoder.sources if path is not None]
            outputs += [path for path in decoder.sources if path is not None]
        looking: dict[Path, set[int]] = {}
        for tokens, path in zip(inputs, outputs, strict=True):
            looking.setdefault(tokens, set()).update(path)
        return looking

    def reads_outputs(self, d_head: int) -> bool:
        """True if reading encoder outputs takes half of the work of their keys and values."""
        # Keys and values are two products for each input token. Without them there are two for each
        # query, and scores and mixtures as wide as the stream. Texts look too often.
        looks = [(len(path), len(tokens)) for path, tokens in self.looks(carried=True).items()]
        work = sum(n_queries * (1 + n_keys / d_head) for n_keys, n_queries in looks)
        return not self.generates and 2 * work <= sum(n_keys for n_keys, _ in looks)


def plan_walk(
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    n_layers: int,
    n_encoder: int = 0,
    prefix: Tokens = (),
) -> WalkPlan:
    """The plan of a walk that takes all of the requests and interventions."""
    packing = Packing(prefix)
    for request in requests:
        packing.add(request)
    sides = packing.sides()
    generates = any(isinstance(request, Generate) for request in requests)
    # Of source runs no branch needs anything but what the trunk makes of them.
    wanted = [frozenset[int]().union(*side.paths) for side in sides]
    everywhere = tuple(
        None if len(tokens) == len(side.trie) else tokens
        for tokens, side in zip(wanted, sides, strict=True)
    )
    by_carried: dict[tuple[frozenset[int] | None, ...], list[int]] = {}
    reached: dict[Hashable, frozenset[int]] = {}
    intact: list[int] = []
    for index, intervention in enumerate(interventions):
        carried, edits = everywhere, intervention.edits
        # Texts are decoded from one group of branches, and an encoder carries a change everywhere.
        in_part = not (edits and (generates or n_encoder))
        if in_part and all(edit.needs_source for edit in edits):
            positions = tuple((edit.position, edit.source_position) for edit in edits)
            if positions not in reached:
                reached[positions] = _changeable_tokens(edits, sides[0], requests)
            carried = (reached[positions],)
        if carried == (frozenset(),):
            intact.append(index)
        else:
            by_carried.setdefault(carried, []).append(index)
    groups = []
    for carried, members in by_carried.items():
        # The trunk goes all the way where branches carry a part of the tokens, and so may attend to
        # the trunk's; and where they take its activations.
        taking = any(e.needs_source for index in members for e in interventions[index].edits)
        whole = taking or carried[0] is not None
        made = make_branches(interventions, n_layers, whole_trunk=whole, only=members)
        groups.append(GroupPlan(carried, made.branches, made.trunk_until))
    last = sides[-1]
    ends = zip(last.paths, last.n_given, strict=True)
    read = {packed for path, n_given in ends for packed in path[n_given - 1 :]}
    return WalkPlan(
        sides, tuple(sorted(read)), tuple(intact), tuple(groups), n_layers, n_encoder, generates
    )


def _changeable_tokens(
    edits: Sequence[Edit], side: PackedStack, requests: Sequence[Request]
) -> frozenset[int]:
    """Packed tokens that activations taken from source runs can change."""
    # What both runs begin with is one packed token: its activation is the same in both.
    paths, sources = side.paths, side.sources
    firsts = [
        min(
            (
                pos
                for edit in edits
                for pos, place in edit.source_positions(
                    len(path), len(request.context), len(source or ())
                )
                if source is None or path[pos] != source[place]
            ),
            default=len(path),
        )
        for path, source, request in zip(paths, sources, requests, strict=True)
    ]
    changed: set[int] = set()
    if any(first < len(path) for first, path in zip(firsts, paths, strict=True)):
        for first, path, request in zip(firsts, paths, requests, strict=True):
            # What is read is carried, changed or not.
            first = min(first, len(request.context) - 1)
            changed.update(path[first:])
    return frozenset(changed)
