"""The plan of one walk: which tokens, which branches, what is read out at the end.

A value made from token ids and interventions alone; it can be tested without a model. The walk
in ``engine`` follows it and decides nothing more.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerwise.sweep.changes.edits import Edit
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import Generate, Request, Tokens

from .branches import Branch, make_branches
from .trie import TokenTrie

# Sites of a block behind its attention's scores: a change there leaves what is before it as it was.
INSIDE = ("z", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True)
class GroupPlan:
    """Branches that carry the same tokens."""

    # Packed indices of the tokens that their changes can reach; None if all.
    carried: frozenset[int] | None
    branches: tuple[Branch, ...]  # in order of opening
    trunk_until: int  # the trunk is pushed through the layers before this one

    def n_tokens(self, n_packed: int) -> int:
        """How many tokens each branch carries."""
        return n_packed if self.carried is None else len(self.carried)


@dataclass(frozen=True)
class WalkPlan:
    """One walk through the layers."""

    trie: TokenTrie  # the packed tokens
    paths: tuple[tuple[int, ...], ...]  # for each request the packed indices of its tokens
    # For each request those of its source run, if it has one.
    sources: tuple[tuple[int, ...] | None, ...]
    # Packed indices of the tokens whose prediction is read, in ascending order.
    read: tuple[int, ...]
    # Interventions (as indices) that change nothing, or only what is the same in the source run.
    intact: tuple[int, ...]
    groups: tuple[GroupPlan, ...]  # all other interventions
    n_layers: int  # layers of the model
    generates: bool  # whether any request generates
    n_given: tuple[int, ...]  # for each request, how many tokens are given before the answer

    @cached_property
    def trunk_until(self) -> int:
        """The trunk is pushed through the layers before this one."""
        if self.intact:
            return self.n_layers
        return max((group.trunk_until for group in self.groups), default=0)

    @cached_property
    def sites_needed(self) -> tuple[bool, ...]:
        """By layer, whether the trunk's activations within the block are asked for."""
        needed = [False] * self.n_layers
        for group in self.groups:
            for branch in group.branches:
                for layer, edits in branch.edits.items():
                    if any(edit.needs_source for edit in edits):
                        needed[layer] = True
                if self.starts_inside(branch):
                    needed[branch.first_layer] = True
        return tuple(needed)

    def starts_inside(self, branch: Branch) -> bool:
        """Whether a branch can begin with the trunk's attention instead of its own."""
        # It must leave the trunk in a layer that the trunk runs, and change nothing before that.
        if branch.parent is not None or branch.first_layer >= self.trunk_until:
            return False
        edits = branch.edits.get(branch.first_layer, ())
        return not branch.idle(branch.first_layer) and all(edit.site in INSIDE for edit in edits)

    def block_passes(self, in_parts: bool = True) -> int:
        """Number of block runs, trunk included."""
        return sum(blocks for blocks, _ in self._passes(in_parts))

    def token_passes(self, in_parts: bool = True) -> int:
        """Tokens pushed through a block; in the last layer only those that leave it."""
        return sum(tokens for _, tokens in self._passes(in_parts))

    def _passes(self, in_parts: bool) -> list[tuple[int, int]]:
        """(block passes, token-passes) of the trunk and of each branch."""
        passes = []
        for layer in range(self.trunk_until):
            passes.append((1, self.trunk_tokens(layer, in_parts)))
        for group in self.groups:
            whole = group.n_tokens(len(self.trie))
            for branch in group.branches:
                for layer in range(branch.first_layer, self.n_layers):
                    inside = layer == branch.first_layer and self.starts_inside(branch)
                    if branch.idle(layer) or (inside and in_parts):
                        continue
                    last = in_parts and layer == self.n_layers - 1
                    passes.append((1, len(self.read) if last else whole))
        return passes

    def trunk_tokens(self, layer: int, in_parts: bool = True) -> int:
        """How many tokens of the trunk leave a layer."""
        if not in_parts or layer < self.n_layers - 1 or self.sites_needed[layer]:
            return len(self.trie)
        return len(self.read) if self.intact or self.opens_at_end else 0

    @cached_property
    def opens_at_end(self) -> bool:
        """True if branches leave the trunk behind its last layer."""
        return any(
            branch.parent is None and branch.first_layer == self.n_layers
            for group in self.groups
            for branch in group.branches
        )


def plan_walk(
    interventions: Sequence[Intervention], requests: Sequence[Request], n_layers: int
) -> WalkPlan:
    """The plan of a walk that takes all of the requests and interventions."""
    trie = TokenTrie()
    paths: list[tuple[int, ...]] = []
    sources: list[tuple[int, ...] | None] = []
    for request in requests:
        paths.append(trie.paths[trie.add(sequence_of(request), share_key(request))])
        source = request.source
        sources.append(None if source is None else trie.paths[trie.add(source, share_key(request))])
    generates = any(isinstance(request, Generate) for request in requests)
    # Of source runs no branch needs anything but what the trunk makes of them.
    wanted = frozenset[int]().union(*paths)
    everywhere = None if len(wanted) == len(trie) else wanted
    by_carried: dict[frozenset[int] | None, list[int]] = {}
    reached: dict[Hashable, frozenset[int]] = {}
    intact: list[int] = []
    for index, intervention in enumerate(interventions):
        carried, edits = everywhere, intervention.edits
        # Texts are decoded from one group of branches.
        if all(edit.needs_source for edit in edits) and not (edits and generates):
            positions = tuple((edit.position, edit.source_position) for edit in edits)
            if positions not in reached:
                reached[positions] = _reached(edits, paths, sources, requests)
            carried = reached[positions]
        if carried is None or carried:
            by_carried.setdefault(carried, []).append(index)
        else:
            intact.append(index)
    groups = []
    for carried, members in by_carried.items():
        # The trunk goes all the way where branches carry a part of the tokens, and so may attend to
        # the trunk's; and where they take its activations.
        taking = any(e.needs_source for index in members for e in interventions[index].edits)
        whole = taking or carried is not None
        made = make_branches(interventions, n_layers, whole_trunk=whole, only=members)
        groups.append(GroupPlan(carried, made.branches, made.trunk_until))
    ends = zip(paths, requests, strict=True)
    read = {packed for path, request in ends for packed in path[len(request.context) - 1 :]}
    return WalkPlan(
        trie,
        tuple(paths),
        tuple(sources),
        tuple(sorted(read)),
        tuple(intact),
        tuple(groups),
        n_layers,
        generates,
        tuple(len(request.context) for request in requests),
    )


def _reached(
    edits: Sequence[Edit],
    paths: Sequence[tuple[int, ...]],
    sources: Sequence[tuple[int, ...] | None],
    requests: Sequence[Request],
) -> frozenset[int]:
    """Packed tokens that activations taken from source runs can change."""
    # What both runs begin with is one packed token: its activation is the same in both.
    firsts = [
        min(
            (
                pos
                for edit in edits
                for pos, place in edit.taken(len(path), len(request.context), len(source or ()))
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


def sequence_of(request: Request) -> Tokens:
    """The tokens that must be run for a request: the last scored token is only read out."""
    if isinstance(request, Generate):
        return request.context
    return request.context + request.continuation[:-1]


def share_key(request: Request) -> tuple[Tokens, Tokens] | None:
    """Requests with one key may share packed tokens."""
    # A patch position is relative to a context and its source, so only requests that agree in both
    # may share a patched token.
    return None if request.source is None else (request.context, request.source)
