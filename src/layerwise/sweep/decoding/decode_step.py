"""One step of decoding: the last token of every row, and its draft, through all layers.

Invariant: two rows are computed as one in a layer exactly if they are the same branch there and
have the same tokens so far. Which rows there are, and what becomes of their tokens, is decided in
``decode``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from layerwise.models.instance.kinds import n_layer_heads
from layerwise.sweep.changes.edits import BLOCK, SITES, OtherWeights, SiteEdit, SwapWeights
from layerwise.sweep.changes.layer_edits import NO_EDITS, LayerEdits, Value, layer_edits
from layerwise.sweep.packed.blocks import BlockRunner
from layerwise.sweep.packed.layout import KeptKeysValues, KeysValues, SharedKeys, StepLayout
from layerwise.sweep.plans.branches import Branch
from layerwise.sweep.requests import Generate
from layerwise.sweep.walk.engine import Walk


@dataclass
class DecodedText:
    """One text being generated."""

    branch: int | None  # the branch (row of the walk's group); None is the trunk
    request: int  # index of the request in the walk
    generate: Generate  # the request
    n_given: int  # tokens before its answer
    tokens: list[int]  # new tokens so far; the first comes from the prompt's last position
    slot: int = -1  # its place in the cache

    @property
    def position(self) -> int:
        """Position of the last new token."""
        return self.n_given + len(self.tokens) - 1


@dataclass(frozen=True)
class SharedPrefix:
    """The tokens with which several prompts begin."""

    start: int  # packed index of the first
    length: int  # how many; they are packed one after the other


@dataclass(frozen=True)
class DecodingState:
    """State shared by all steps of a decode."""

    walk: Walk  # which ran the prompts
    begins: Mapping[
        int, SharedPrefix | None
    ]  # by request, the beginning that it shares with others
    caches: Mapping[int, KeptKeysValues]  # by layer, the rows' own keys and values
    # By layer, those of the encoder outputs that rows look at; and how many tokens these have.
    across: Mapping[int, KeptKeysValues]
    lengths: np.ndarray  # by request

    @cached_property
    def sources(self) -> np.ndarray:
        """By layer and branch (0 is the trunk), where its keys and values are kept."""
        return self._by_branch(self.walk.source)

    @cached_property
    def state(self) -> np.ndarray:
        """By layer and branch, whose forward pass it still is."""
        # It parts from ``sources`` where a branch begins inside a block.
        return self._by_branch(self.walk.plan.followed_branch)

    def _by_branch(self, number: Callable[[int | None, int], int]) -> np.ndarray:
        branches = [None, *range(len(self.branches))]
        layers = range(self.walk.plan.n_layers)
        return np.array([[number(branch, layer) for branch in branches] for layer in layers])

    def group_by_weights(
        self, jobs: Sequence[DecodedText], layer: int, place: str = BLOCK
    ) -> dict[OtherWeights | None, np.ndarray]:
        """Numbers of the texts, by the weights that they use in a place of a layer."""
        if (layer, place) not in self.swapped_places:
            return {None: np.arange(len(jobs))}
        numbers_by_weights: dict[OtherWeights | None, list[int]] = {}
        for number, job in enumerate(jobs):
            branch = self.job_branch(job)
            weights = None if branch is None else branch.weights(layer, place)
            numbers_by_weights.setdefault(weights, []).append(number)
        return {weights: np.array(numbers) for weights, numbers in numbers_by_weights.items()}

    @cached_property
    def swapped_places(self) -> frozenset[tuple[int, str]]:
        """Layers and places in which any branch has other weights than the model."""
        return frozenset(
            (layer, edit.site)
            for branch in self.branches
            for layer, edits in branch.edits.items()
            for edit in edits
            if isinstance(edit, SwapWeights)
        )

    def job_branch(self, job: DecodedText) -> Branch | None:
        """The branch of a text; None is the trunk."""
        return None if job.branch is None else self.branches[job.branch]

    @property
    def branches(self) -> list[Branch]:
        """The branches of the walk's one group, if there are any."""
        return self.walk.plan.branches


class Step:
    """One decoding step on its way through the layers."""

    def __init__(
        self,
        batch: DecodingState,
        rows: Sequence[DecodedText],
        positions: np.ndarray,
        index: np.ndarray,
        texts: np.ndarray,
    ) -> None:
        self.batch, self.rows, self.texts = batch, rows, texts
        self.positions, self.index = positions, index
        self.longest, self.n_own = int(positions.max()) + 1, int(index.max()) + 1
        self.branches = np.array([0 if job.branch is None else 1 + job.branch for job in rows])
        self.slots = np.array([job.slot for job in rows])
        self.token_passes = 0

    def run_layer(self, layer: int, runner: BlockRunner, resid: torch.Tensor) -> torch.Tensor:
        """Run one layer for all rows; identical rows are computed once."""
        batch = self.batch
        device = resid.device
        branches = [batch.job_branch(job) for job in self.rows]
        idle = np.array([b is not None and b.idle(layer) for b in branches])
        for weights, rows in batch.group_by_weights(self.rows, layer).items():
            running = rows[~idle[rows]]
            if len(running):
                block = runner if weights is None else batch.walk.layer_runner(layer, weights)
                resid = self._run(layer, block, running, resid)
        if idle.any():
            rows = np.flatnonzero(idle)
            edits = self._edits(layer, rows, ("resid_pre", "resid_post"), device)
            if edits is not NO_EDITS:
                at = torch.from_numpy(rows).to(device)
                entered = edits.apply_to("resid_pre", resid[at])
                resid[at] = edits.apply_to("resid_post", entered)
        return resid

    def _run(
        self, layer: int, runner: BlockRunner, running: np.ndarray, resid: torch.Tensor
    ) -> torch.Tensor:
        """Run one block for some rows; identical rows are computed once."""
        batch, device = self.batch, resid.device
        state = batch.state[layer, self.branches[running]]
        _, first, same = np.unique(
            self.texts[running] * (1 + batch.state.max()) + state,
            return_index=True,
            return_inverse=True,
        )
        # In the order of the rows, in which they lie in the cache.
        order = np.argsort(first)
        first, same = first[order], np.argsort(order)[same]
        one_each = running[first]
        everyone = len(one_each) == len(self.rows)
        at = torch.from_numpy(one_each).to(device)
        if everyone:
            one_each, same, at = running, np.arange(len(running)), slice(None)
        layout = self._layout(layer, one_each, device)
        edits = self._edits(layer, one_each, SITES, device)
        out, own = runner.step(resid[at], layout, edits)
        self.token_passes += out.shape[0] * out.shape[1]
        if everyone:
            resid = out
        else:
            inverse = torch.from_numpy(same).to(device)
            resid = resid.clone()
            resid[torch.from_numpy(running).to(device)] = out[inverse]
            if own is not None:
                self._copy_to_duplicates(layer, own, running, same, first)
        return resid

    def _copy_to_duplicates(
        self, layer: int, own: KeysValues, running: np.ndarray, same: np.ndarray, first: np.ndarray
    ) -> None:
        """Copy keys and values to the rows that shared a computation, for when they diverge."""
        others = np.setdiff1d(np.arange(len(running)), first)
        if not len(others):
            return
        cache = self.batch.caches[layer]
        device = cache.keys.device
        slots = torch.from_numpy(self.slots[running[others]]).to(device)[:, None]
        index = torch.from_numpy(self.index[running[others]]).to(device)
        of = torch.from_numpy(same[others]).to(device)
        cache.keys[slots, :, index] = own.keys[of]
        cache.values[slots, :, index] = own.values[of]

    def _layout(self, layer: int, rows: np.ndarray, device: torch.device) -> StepLayout:
        slots = self.slots[rows]
        low, high = int(slots.min()), int(slots.max()) + 1
        # Rows that fill their part of the cache in order are a view of it; so are rows with few
        # others between them.
        in_order = bool((np.diff(slots) > 0).all())
        filled = len(slots) == high - low
        viewed = in_order or not filled
        span = slice(low, high) if viewed and 2 * len(rows) >= high - low else None
        lengths = self.batch.lengths[[job.request for job in map(self.rows.__getitem__, rows)]]
        return StepLayout(
            torch.from_numpy(self.positions[rows]).to(device),
            self.longest,
            torch.from_numpy(self.index[rows]).to(device),
            self.n_own,
            torch.from_numpy(slots).to(device),
            span,
            self.batch.caches[layer],
            tuple(self._shared_keys(layer, rows, device)),
            self.batch.across.get(layer),
            torch.from_numpy(lengths).to(device),
            int(lengths.max()),
        )

    def _shared_keys(self, layer: int, rows: np.ndarray, device: torch.device) -> list[SharedKeys]:
        """The beginnings that rows attend to, the trunk's apart from the branches'."""
        batch = self.batch
        kept = batch.walk.kept[layer]
        begins = [batch.begins[self.rows[row].request] for row in rows]
        sources = batch.sources[layer, self.branches[rows]]
        shared = []
        for begin in sorted({b for b in begins if b is not None}, key=lambda b: b.start):
            assert kept is not None
            here = np.array([b == begin for b in begins])
            for part in (here & (sources == 0), here & (sources > 0)):
                members = np.flatnonzero(part)
                if not len(members):
                    continue
                low, high = int(sources[members].min()), int(sources[members].max()) + 1
                table, place = _by_source(members, sources[members] - low, high - low)
                tokens = slice(begin.start, begin.start + begin.length)
                shared.append(
                    SharedKeys(
                        kept.keys[low:high, :, tokens],
                        kept.values[low:high, :, tokens],
                        torch.from_numpy(table).to(device),
                        torch.from_numpy(place).to(device),
                        torch.from_numpy(members).to(device),
                    )
                )
        return shared

    def _edits(
        self, layer: int, rows: np.ndarray, sites: Sequence[str], device: torch.device
    ) -> LayerEdits:
        """The edits of a layer at newly generated positions, each on its branch's rows."""
        # A replacement or noise holds at generated positions as it does in the prompt, and a copy
        # goes on with the source's last position; a patch changes the prompt only.
        branches, of_branch = self.batch.branches, self.branches[rows]
        changes = [
            (
                np.flatnonzero(of_branch == number),
                [
                    edit
                    for edit in branches[number - 1].edits.get(layer, ())
                    if edit.site in sites and edit.position is None
                ],
            )
            for number in np.unique(of_branch[of_branch > 0])
        ]

        def value_of(edit: SiteEdit) -> Value:
            """The vectors that an edit puts, or adds, at the new tokens."""
            given = edit.position_values(torch.from_numpy(self.positions[rows]).to(device))
            if given is not None:
                return given, None
            requests = torch.tensor([self.rows[row].request for row in rows])
            ends = self.batch.walk.source_ends[layer, edit.site]
            return ends[requests.to(device)][:, None], None

        n_heads = n_layer_heads(self.batch.walk.model, layer)
        return layer_edits(changes, len(rows), 1, n_heads, value_of, device)


def _by_source(
    members: np.ndarray, sources: np.ndarray, n_sources: int
) -> tuple[np.ndarray, np.ndarray]:
    """Members in a table with a row for each source, and where each is in it."""
    counts = np.bincount(sources, minlength=n_sources)
    order = np.argsort(sources, kind="stable")
    column = np.arange(len(members)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n_sources, counts.max()), members[0])
    table[sources[order], column] = members[order]
    place = np.empty(len(members), dtype=np.int64)
    place[order] = sources[order] * counts.max() + column
    return table, place
