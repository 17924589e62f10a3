"""Branches of computation in a sweep: interventions that agree so far are one.

Invariant: up to a layer, a forward pass depends on the edits up to that layer only. So a branch
runs on its own only from its ``first_layer`` on, where its edits first differ from those of its
``parent``; before that it is that branch. Knows no model and no requests.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from layerwise.sweep.changes.edits import BLOCK, Edit, OtherWeights, SwapWeights
from layerwise.sweep.changes.interventions import Intervention


@dataclass(frozen=True)
class Branch:
    """The forward pass of equal interventions, from where it leaves its parent."""

    edits: Mapping[int, tuple[Edit, ...]]  # its edits by layer, in the order given
    first_layer: int  # the first layer that it is pushed through, or skips, on its own
    parent: int | None  # number of the branch that it is the same as before that; None is the trunk
    members: tuple[int, ...]  # the interventions (as indices) whose forward pass it is

    def idle(self, layer: int) -> bool:
        """True if the layer is not run: skipped, or all that leaves it is replaced."""
        return any(edit.replaces_layer for edit in self.edits.get(layer, ()))

    def weights(self, layer: int, place: str = BLOCK) -> OtherWeights | None:
        """The weights that replace the model's in a place of a layer; None if none do."""
        for edit in self.edits.get(layer, ()):
            if isinstance(edit, SwapWeights) and edit.site == place:
                return edit.weights
        return None


@dataclass(frozen=True)
class Branches:
    """All branches of some interventions, in order of opening."""

    branches: tuple[Branch, ...]  # each after the one that it leaves
    trunk_until: int  # the trunk is pushed through the layers before this one
    # The interventions (as indices) that change nothing; they are the trunk.
    intact: tuple[int, ...]
    n_layers: int  # layers of the model

    def block_passes(self) -> int:
        """Number of block runs of one walk, trunk included."""
        return self.trunk_until + sum(
            not branch.idle(layer)
            for branch in self.branches
            for layer in range(branch.first_layer, self.n_layers)
        )


@dataclass
class _Node:
    """Interventions that agree in all edits up to ``layer``."""

    layer: int
    members: list[int] = field(default_factory=list)
    children: dict[Hashable, _Node] = field(default_factory=dict)
    edits: dict[int, tuple[Edit, ...]] = field(default_factory=dict)


def make_branches(
    interventions: Sequence[Intervention],
    n_layers: int,
    *,
    whole_trunk: bool = False,
    only: Sequence[int] | None = None,
) -> Branches:
    """The branches of interventions."""
    root = _Node(-1)
    for index in range(len(interventions)) if only is None else only:
        node = root
        for layer, edits in by_layer(interventions[index]).items():
            key = tuple(edit.identity for edit in edits)
            if key not in node.children:
                node.children[key] = _Node(layer, edits={**node.edits, layer: edits})
            node = node.children[key]
        node.members.append(index)
    ends: list[tuple[int, int | None, _Node]] = []
    last = max((child.layer for child in root.children.values()), default=0)
    _collect(root, None, True, ends)
    order = sorted(range(len(ends)), key=lambda i: (ends[i][0], i))
    number = {old: new for new, old in enumerate(order)}
    branches = []
    for old in order:
        first_layer, parent, node = ends[old]
        left = None if parent is None else number[parent]
        branches.append(Branch(node.edits, first_layer, left, tuple(node.members)))
    until = n_layers if whole_trunk or root.members else last
    return Branches(tuple(branches), until, tuple(root.members), n_layers)


def by_layer(intervention: Intervention) -> dict[int, tuple[Edit, ...]]:
    """An intervention's edits by layer, in ascending order of layers."""
    return {
        layer: tuple(edit for edit in intervention.edits if edit.layer == layer)
        for layer in intervention.layers
    }


def _collect(
    node: _Node, owner: int | None, is_root: bool, ends: list[tuple[int, int | None, _Node]]
) -> None:
    """Give every end its branch; of a node's ends, the longest stays in the node's branch."""
    # ``owner`` is the branch that runs at this node, found[owner][2] its end.
    children = sorted(node.children.values(), key=lambda child: child.layer)
    if not is_root and owner is not None and not node.members:
        heir = children.pop()
        ends[owner] = (ends[owner][0], ends[owner][1], heir)
        _collect(heir, owner, False, ends)
    for child in children:
        ends.append((child.layer, owner, child))
        _collect(child, len(ends) - 1, False, ends)
