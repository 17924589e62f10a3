"""The fast sweep: one walk through the layers with a trunk and the branches opened so far.

Invariant: at layer k the trunk holds the intact residual stream of every packed token, and each
open branch that of one intervention for the tokens which that intervention can have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

from ._edits import LayerEdits, Replacement
from .blocks import BlockRunner
from .interventions import Edit, Intervention, PatchSite, SetSite, SkipLayer
from .layout import KeysValues, Layout, make_layout
from .plan import Batch, sequence_of, share_key
from .requests import Generate, LogLikelihood, Request
from .trie import TokenTrie

# Tokens pushed through a block at once: enough for the matrix products to run at full rate,
# few enough for their activations to stay in cache.
TOKENS_AT_ONCE = 2048


@dataclass
class Work:
    """What the engine has done so far.

    Attributes:
        block_passes: (walk, branch, layer) triples pushed through a block.
        token_passes: tokens pushed through a block, generated ones included.
    """

    block_passes: int = 0
    token_passes: int = 0


@dataclass
class Group:
    """Branches that carry the same tokens.

    Attributes:
        layout: where those tokens lie.
        members: the interventions (as indices into the walk's) in order of opening.
        resid: their residual streams; the first ``open`` rows are in use.
        open: how many are open.
    """

    layout: Layout
    members: list[int]
    resid: Float[torch.Tensor, "branch token d_model"]
    open: int = 0


@dataclass
class Walk:
    """One batch on its way through the layers, and what is left of it at the end."""

    model: HookedTransformer
    runners: Sequence[BlockRunner]
    interventions: Sequence[Intervention]
    requests: Sequence[Request]
    keep_keys_values: bool
    work: Work
    trie: TokenTrie = field(init=False)
    paths: list[tuple[int, ...]] = field(init=False)
    sources: list[tuple[int, ...] | None] = field(init=False)
    trunk_layout: Layout = field(init=False)
    trunk: Float[torch.Tensor, "1 token d_model"] = field(init=False)
    groups: list[Group] = field(init=False)
    kept: list[dict[int, KeysValues]] = field(init=False)

    def __post_init__(self) -> None:
        self.trie, self.paths, self.sources = _pack(self.requests)
        self.device = self.model.W_E.device
        self.trunk_layout = self._layout(None)
        self.trunk = embed(self.model, self.trie, self.device)
        self.groups = self._make_groups()
        self.kept = []

    def _layout(self, carried: frozenset[int] | None) -> Layout:
        runner = self.runners[0]
        return make_layout(
            self.trie, carried, exact=runner.exact, like=self.model.W_E, group=runner.group
        )

    def _make_groups(self) -> list[Group]:
        """Group the changed interventions by the tokens that they can change."""
        by_carried: dict[frozenset[int] | None, list[int]] = {}
        for index, intervention in enumerate(self.interventions):
            if intervention.edits:
                by_carried.setdefault(self._carried(intervention), []).append(index)
        groups = []
        for carried, members in by_carried.items():
            layout = self.trunk_layout if carried is None else self._layout(carried)
            members.sort(key=lambda index: (self.interventions[index].layer or 0, index))
            shape = (len(members), layout.n_tokens, self.trunk.shape[-1])
            groups.append(Group(layout, members, self.trunk.new_empty(shape)))
        return groups

    def _carried(self, intervention: Intervention) -> frozenset[int] | None:
        """Packed tokens that an intervention can change; None if all."""
        positions = [edit.pos for edit in intervention.edits if isinstance(edit, PatchSite)]
        if len(positions) < len(intervention.edits):
            return None
        changed: set[int] = set()
        for path, request in zip(self.paths, self.requests, strict=True):
            first = min(pos % len(request.context) for pos in positions)
            changed.update(path[first:])
        for path in self.trie.paths:
            begin = next((i for i, index in enumerate(path) if index in changed), len(path))
            changed.update(path[begin:])
        return frozenset(changed)

    def run(self, on_layer: Callable[[int], None] | None = None) -> None:
        """Push everything through all layers."""
        for layer in range(len(self.runners)):
            self._layer(layer)
            if on_layer is not None:
                on_layer(layer)

    def _layer(self, layer: int) -> None:
        before, seen = self.trunk, {"resid_pre": self.trunk}
        self.trunk, trunk_kv = self.runners[layer].packed(
            before, self.trunk_layout, observe=seen.__setitem__
        )
        seen["resid_post"] = self.trunk
        self._count(1, self.trunk_layout)
        kept: dict[int, KeysValues] = {}
        if self.keep_keys_values and trunk_kv is not None:
            kept[-1] = trunk_kv
        for group in self.groups:
            self._open(group, layer, before)
            self._push(group, layer, trunk_kv, seen, kept)
        self.kept.append(kept)

    def _open(self, group: Group, layer: int, before: torch.Tensor) -> None:
        """Start the branches whose first change is in this layer."""
        while (
            group.open < len(group.members)
            and self.interventions[group.members[group.open]].layer == layer
        ):
            carried = group.layout.carried
            group.resid[group.open] = before[0] if carried is None else before[0, carried]
            group.open += 1

    def _push(
        self,
        group: Group,
        layer: int,
        outside: KeysValues | None,
        seen: dict[str, torch.Tensor],
        kept: dict[int, KeysValues],
    ) -> None:
        """Push a group's open branches through the layer, the changed ones one by one."""
        plain: list[int] = []
        for row in range(group.open):
            edits = [e for e in self.interventions[group.members[row]].edits if e.layer == layer]
            first = [e for e in edits if _site(e) == "resid_pre"]
            for edit in first:
                change = self._layer_edits([edit], group.layout, seen)
                group.resid[row] = change.changed("resid_pre", group.resid[row][None])[0]
            if len(edits) == len(first):
                plain.append(row)
            else:
                rest = [e for e in edits if _site(e) != "resid_pre"]
                change = self._layer_edits(rest, group.layout, seen)
                self._through(group, [row], layer, outside, change, kept)
        at_once = max(1, TOKENS_AT_ONCE // group.layout.n_tokens)
        for start in range(0, len(plain), at_once):
            rows = plain[start : start + at_once]
            self._through(group, rows, layer, outside, LayerEdits(), kept)

    def _through(
        self,
        group: Group,
        rows: list[int],
        layer: int,
        outside: KeysValues | None,
        edits: LayerEdits,
        kept: dict[int, KeysValues],
    ) -> None:
        # Neighbouring rows are a view, any others a copy.
        together = rows[-1] - rows[0] == len(rows) - 1
        at = slice(rows[0], rows[-1] + 1) if together else rows
        out, own = self.runners[layer].packed(group.resid[at], group.layout, outside, edits)
        group.resid[at] = out
        if edits.skip is not True:
            self._count(len(rows), group.layout)
        if self.keep_keys_values and own is not None:
            keys, values = group.layout.full(own, outside)
            for i, row in enumerate(rows):
                kept[group.members[row]] = KeysValues(keys[i : i + 1], values[i : i + 1])

    def _count(self, branches: int, layout: Layout) -> None:
        self.work.block_passes += branches
        self.work.token_passes += branches * layout.n_tokens

    def _layer_edits(
        self, edits: Sequence[Edit], layout: Layout, seen: dict[str, torch.Tensor]
    ) -> LayerEdits:
        """The edits of one layer for one branch, on this layout's tokens."""
        sites: dict[str, tuple[Replacement, ...]] = {}
        skip = False
        for edit in edits:
            if isinstance(edit, SkipLayer):
                skip = True
            elif isinstance(edit, SetSite):
                value = edit.value.to(self.device)
                sites[edit.site] = (*sites.get(edit.site, ()), Replacement(value))
            else:
                patch = self._patch(edit, layout, seen[edit.site])
                sites[edit.site] = (*sites.get(edit.site, ()), patch)
        return LayerEdits(sites, skip)

    def _patch(
        self, edit: PatchSite, layout: Layout, activation: Float[torch.Tensor, "1 token d_model"]
    ) -> Replacement:
        """The source runs' activations, at the patched tokens."""
        source_of = torch.full((layout.n_packed,), -1, dtype=torch.long)
        for path, source, request in zip(self.paths, self.sources, self.requests, strict=True):
            assert source is not None, "the plan refuses patches without a source"
            pos = edit.pos % len(request.context)
            source_of[path[pos]] = source[pos]
        source_of = source_of.to(self.device)
        if layout.carried is not None:
            source_of = source_of[layout.carried]
        return Replacement(activation[:, source_of.clamp(min=0)], (source_of >= 0)[None])

    def final(self, branch: int) -> tuple[torch.Tensor, Layout]:
        """Final residual stream of a branch (index of its intervention), and its layout."""
        for group in self.groups:
            if branch in group.members:
                return group.resid[group.members.index(branch)], group.layout
        return self.trunk[0], self.trunk_layout

    def keys_values(self, branch: int, layer: int) -> KeysValues | None:
        """A branch's keys and values in a layer: its own once it is open, else the trunk's."""
        opened = self.interventions[branch].layer
        if opened is None or layer < opened:
            return self.kept[layer].get(-1)
        return self.kept[layer].get(branch)


def _site(edit: Edit) -> str:
    return "layer" if isinstance(edit, SkipLayer) else edit.site


def _pack(
    requests: Sequence[Request],
) -> tuple[TokenTrie, list[tuple[int, ...]], list[tuple[int, ...] | None]]:
    """Pack a batch's sequences: for each request its path, and its source's."""
    trie = TokenTrie()
    paths: list[tuple[int, ...]] = []
    sources: list[tuple[int, ...] | None] = []
    for request in requests:
        paths.append(trie.paths[trie.add(sequence_of(request), share_key(request))])
        source = request.source if isinstance(request, LogLikelihood) else None
        sources.append(None if source is None else trie.paths[trie.add(source, share_key(request))])
    return trie, paths, sources


def embed(
    model: HookedTransformer, trie: TokenTrie, device: Any
) -> Float[torch.Tensor, "1 token d_model"]:
    """The residual stream that enters the first block."""
    return embed_tokens(
        model,
        torch.tensor(trie.tokens, dtype=torch.long, device=device),
        torch.tensor(trie.positions, dtype=torch.long, device=device),
    )[None]


def embed_tokens(
    model: HookedTransformer,
    tokens: Int[torch.Tensor, " token"],
    positions: Int[torch.Tensor, " token"],
) -> Float[torch.Tensor, "token d_model"]:
    """Token and, where the model adds them, position embeddings."""
    resid = model.embed(tokens[None])[0]
    if model.cfg.positional_embedding_type == "standard":
        resid = resid + model.pos_embed.W_pos[positions]
    return resid


def make_walk(
    model: HookedTransformer,
    runners: Sequence[BlockRunner],
    batch: Batch,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    work: Work,
) -> Walk:
    """The walk of a planned batch, ready to run."""
    inside = [requests[index] for index in batch.requests]
    return Walk(
        model,
        runners,
        [interventions[index] for index in batch.interventions],
        inside,
        any(isinstance(request, Generate) for request in inside),
        work,
    )
