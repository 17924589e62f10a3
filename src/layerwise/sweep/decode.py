"""One decode for all: every (branch, prompt) is a row of one batch with its own changes.

Invariants:

- the cache holds, for each unfinished row, the keys and values of exactly the tokens before its
  position that are not in a shared beginning, and nothing behind it is ever attended to;
- two rows are computed as one in a layer exactly if they are the same branch there and have the
  same tokens so far.

Prompts were run by the walk, whose keys and values of shared beginnings are attended to in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformer_lens import HookedTransformer

from ._runner import BlockRunner, KeptKeysValues, SharedKeys, StepLayout
from .branches import Branch
from .drafts import Drafter
from .edits import SITES, SiteEdit, heads_of
from .embedding import embed_tokens
from .engine import Walk
from .layer_edits import NO_EDITS, LayerEdits, Replacement
from .layout import KeysValues
from .readout import CHUNK, first_argmax, logits_of
from .requests import Generate, Generated
from .row_edits import head_mask
from .stopping import Stopper

# A beginning must be so long to be worth attending to apart.
SHORTEST_BEGINNING = 32
# So many new tokens in one step cost little more than one, since the weights are read for all.
STEP_ROOM = 16


@dataclass
class Job:
    """One text being generated.

    Attributes:
        branch: the branch (row of the walk's group); None is the trunk.
        request: index of the request in the walk.
        asked: the request.
        tokens: new tokens so far; the first comes from the prompt's last position.
        slot: its place in the cache.
    """

    branch: int | None
    request: int
    asked: Generate
    tokens: list[int]
    slot: int = -1

    @property
    def position(self) -> int:
        """Position of the last new token."""
        return len(self.asked.context) + len(self.tokens) - 1


@dataclass(frozen=True)
class Beginning:
    """The tokens with which several prompts begin.

    Attributes:
        start: packed index of the first.
        length: how many; they are packed one after the other.
    """

    start: int
    length: int


def beginnings(paths: Sequence[Sequence[int]], shortest: int) -> list[Beginning | None]:
    """For each prompt the beginning that it shares with others, if it is long enough.

    Args:
        paths: packed indices of each prompt's tokens.
        shortest: in tokens.
    """
    by_first: dict[int, list[int]] = {}
    for index, path in enumerate(paths):
        by_first.setdefault(path[0], []).append(index)
    found: list[Beginning | None] = [None] * len(paths)
    for members in by_first.values():
        if len(members) < 2:
            continue
        # The last token of a prompt is predicted from, so that it may be in the beginning, too.
        longest = min(len(paths[index]) for index in members)
        length = next(
            (i for i in range(longest) if len({paths[index][i] for index in members}) > 1), longest
        )
        first = paths[members[0]]
        run = next((i for i in range(length) if first[i] != first[0] + i), length)
        if run >= shortest:
            for index in members:
                found[index] = Beginning(first[0], run)
    return found


def begins_of(walk: Walk, requests: Sequence[int]) -> dict[int, Beginning | None]:
    """The beginnings of a walk's prompts that are attended to where the walk has kept them."""
    paths = [walk.plan.paths[index] for index in requests]
    if not walk.in_parts:
        return dict.fromkeys(requests)
    return dict(zip(requests, beginnings(paths, SHORTEST_BEGINNING), strict=True))


@dataclass
class Decoder:
    """A batch of rows being decoded, refilled from a queue as rows finish.

    Attributes:
        walk: which ran the prompts.
        stopper: decides where texts end.
        waiting: texts that are not in the batch yet.
        capacity: rows of the batch.
        done: told of each finished text.
        step_room: new tokens in one step; what rows leave of it is used for drafts.
        logit_rows: so many rows' logits exist at once.
    """

    walk: Walk
    stopper: Stopper
    waiting: deque[Job]
    capacity: int
    done: Callable[[Job, Generated], None]
    step_room: int = field(default_factory=lambda: STEP_ROOM)
    logit_rows: int = CHUNK
    rows: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        walk, plan = self.walk, self.walk.plan
        self.in_parts = walk.in_parts
        self.begins = begins_of(walk, sorted({job.request for job in self.waiting}))
        self.capacity = min(self.capacity, len(self.waiting))
        self.free = list(range(self.capacity))[::-1]
        own = max((self._n_own(job) + job.asked.max_tokens for job in self.waiting), default=0)
        self.drafter = Drafter()
        cfg, room = walk.model.cfg, own + self.drafter.longest
        self.caches = [
            KeptKeysValues.empty(self.capacity, room, cfg, like=walk.trunk) for _ in walk.runners
        ]
        branches = [None, *range(sum(len(group.branches.branches) for group in walk.groups))]
        # For each layer and branch (0 is the trunk): where its keys and values are kept; and whose
        # forward pass it still is, which parts from that where a branch begins inside a block.
        self.sources = np.array(
            [[walk.source(branch, layer) for branch in branches] for layer in range(plan.n_layers)]
        )
        self.state = np.array(
            [[_state(walk, branch, layer) for branch in branches] for layer in range(plan.n_layers)]
        )

    def _branch(self, job: Job) -> Branch | None:
        if job.branch is None:
            return None
        return self.walk.groups[0].branches.branches[job.branch]

    def _n_own(self, job: Job) -> int:
        """How many of the prompt's tokens are the row's own."""
        begin = self.begins[job.request]
        return len(job.asked.context) - (begin.length if begin else 0)

    def run(self) -> None:
        """Decode until every text has ended."""
        self._refill()
        while self.rows:
            self._step()
            self._refill()

    def _refill(self) -> None:
        """Let finished rows leave and waiting ones take their places."""
        staying: list[Job] = []
        for job in self.rows:
            if not self._ended(job):
                staying.append(job)
            else:
                self.free.append(job.slot)
        new: list[Job] = []
        while self.waiting and self.free:
            job = self.waiting.popleft()
            if not self._ended(job):
                job.slot = self.free.pop()
                new.append(job)
        self.rows = staying + new
        if new:
            self._prompts_into(new)

    def _ended(self, job: Job) -> bool:
        if not self.stopper.ended(job.tokens, job.asked):
            return False
        self.drafter.learn(job.request, job.tokens)
        self.done(job, self.stopper.outcome(job.tokens, job.asked))
        return True

    def _prompts_into(self, new: list[Job]) -> None:
        """Copy the rows' own part of their prompts to the cache, rows of one length at once."""
        by_length: dict[int, list[Job]] = {}
        for job in new:
            by_length.setdefault(self._n_own(job), []).append(job)
        for length, jobs in by_length.items():
            if not length:
                continue
            device = self.walk.device
            paths = torch.tensor([self.walk.plan.paths[j.request][-length:] for j in jobs])
            paths = paths.to(device)[:, None]
            slots = torch.tensor([j.slot for j in jobs], device=device)
            branches = np.array([0 if j.branch is None else 1 + j.branch for j in jobs])
            for layer, cache in enumerate(self.caches):
                kept = self.walk.kept[layer]
                assert kept is not None, "the walk keeps keys and values where texts are asked for"
                sources = torch.from_numpy(self.sources[layer, branches]).to(device)
                at = (sources[:, None, None], torch.arange(kept.keys.shape[1])[:, None], paths)
                cache.keys[slots, :, :length] = kept.keys[at]
                cache.values[slots, :, :length] = kept.values[at]

    def _step(self) -> None:
        """Push the last token of every row, and its draft, through all layers."""
        model, device = self.walk.model, self.walk.device
        n_rows = len(self.rows)
        n_new = max(1, self.step_room // n_rows) if self.in_parts else 1
        drafts = [
            self.drafter.draft(j.branch, j.request, j.tokens, j.asked, n_new - 1) for j in self.rows
        ]
        n_new = 1 + max(len(draft) for draft in drafts)
        asked = np.array(
            [
                (job.tokens[-1], *draft, *[0] * (n_new - 1 - len(draft)))
                for job, draft in zip(self.rows, drafts, strict=True)
            ]
        )
        positions = np.array([job.position for job in self.rows])[:, None] + np.arange(n_new)
        begun = np.array([self._n_own(job) - len(job.asked.context) for job in self.rows])
        # What stands behind a draft is never read; its place need only exist.
        known = np.minimum(positions, model.cfg.n_ctx - 1)
        step = _Step(self, known, positions + begun[:, None], self._texts(asked))
        tokens = torch.from_numpy(asked).to(device)
        flat = torch.from_numpy(known.ravel()).to(device)
        resid = embed_tokens(model, tokens.flatten(), flat).unflatten(0, (n_rows, n_new))
        for layer, runner in enumerate(self.walk.runners):
            resid = step.through(layer, runner, resid)
        self.walk.work.token_passes += step.token_passes
        self.walk.work.row_passes += n_rows
        best = greedy_tokens(model, resid.flatten(0, 1), self.logit_rows).reshape(n_rows, n_new)
        for job, draft, found in zip(self.rows, drafts, best.tolist(), strict=True):
            self._accept(job, draft, found)

    def _accept(self, job: Job, draft: Sequence[int], found: Sequence[int]) -> None:
        """Take over the greedy tokens up to the first that the draft did not foresee."""
        accepted = 0
        for i, token in enumerate(found):
            job.tokens.append(token)
            self.walk.work.new_tokens += 1
            if i >= len(draft) or draft[i] != token or self.stopper.ended(job.tokens, job.asked):
                break
            accepted += 1
        self.drafter.measured(job.branch, len(draft), accepted)

    def _texts(self, asked: np.ndarray) -> np.ndarray:
        """A number for each row, the same for rows with the same tokens, drafts included."""
        numbers: dict[tuple[object, ...], int] = {}
        return np.array(
            [
                numbers.setdefault((job.request, *job.tokens[:-1], -1, *new), len(numbers))
                for job, new in zip(self.rows, asked.tolist(), strict=True)
            ]
        )


class _Step:
    """One decoding step on its way through the layers."""

    def __init__(
        self, decoder: Decoder, positions: np.ndarray, index: np.ndarray, texts: np.ndarray
    ) -> None:
        self.decoder, self.texts = decoder, texts
        self.positions, self.index = positions, index
        self.longest, self.n_own = int(positions.max()) + 1, int(index.max()) + 1
        rows = decoder.rows
        self.branches = np.array([0 if job.branch is None else 1 + job.branch for job in rows])
        self.slots = np.array([job.slot for job in rows])
        self.token_passes = 0

    def through(self, layer: int, runner: BlockRunner, resid: torch.Tensor) -> torch.Tensor:
        """All rows through a layer, those that are the same computation as one."""
        decoder = self.decoder
        device = resid.device
        branches = [decoder._branch(job) for job in decoder.rows]
        idle = np.array([b is not None and b.idle(layer) for b in branches])
        running = np.flatnonzero(~idle)
        if len(running):
            state = decoder.state[layer, self.branches[running]]
            _, first, same = np.unique(
                self.texts[running] * (1 + decoder.state.max()) + state,
                return_index=True,
                return_inverse=True,
            )
            # In the order of the rows, in which they lie in the cache.
            order = np.argsort(first)
            first, same = first[order], np.argsort(order)[same]
            one_each = running[first]
            everyone = len(one_each) == len(decoder.rows)
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
                    self._keep_for_others(layer, own, running, same, first)
        if idle.any():
            rows = np.flatnonzero(idle)
            edits = self._edits(layer, rows, ("resid_pre", "resid_post"), device)
            if edits is not NO_EDITS:
                at = torch.from_numpy(rows).to(device)
                entered = edits.changed("resid_pre", resid[at])
                resid[at] = edits.changed("resid_post", entered)
        return resid

    def _keep_for_others(
        self, layer: int, own: KeysValues, running: np.ndarray, same: np.ndarray, first: np.ndarray
    ) -> None:
        """Rows that were computed as another one keep its keys and values, for when they part."""
        others = np.setdiff1d(np.arange(len(running)), first)
        if not len(others):
            return
        cache = self.decoder.caches[layer]
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
        return StepLayout(
            torch.from_numpy(self.positions[rows]).to(device),
            self.longest,
            torch.from_numpy(self.index[rows]).to(device),
            self.n_own,
            torch.from_numpy(slots).to(device),
            span,
            self.decoder.caches[layer],
            tuple(self._shared(layer, rows, device)),
        )

    def _shared(self, layer: int, rows: np.ndarray, device: torch.device) -> list[SharedKeys]:
        """The beginnings that rows attend to, the trunk's apart from the branches'."""
        decoder = self.decoder
        kept = decoder.walk.kept[layer]
        begins = [decoder.begins[decoder.rows[row].request] for row in rows]
        sources = decoder.sources[layer, self.branches[rows]]
        found = []
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
                found.append(
                    SharedKeys(
                        kept.keys[low:high, :, tokens],
                        kept.values[low:high, :, tokens],
                        torch.from_numpy(table).to(device),
                        torch.from_numpy(place).to(device),
                        torch.from_numpy(members).to(device),
                    )
                )
        return found

    def _edits(
        self, layer: int, rows: np.ndarray, sites: Sequence[str], device: torch.device
    ) -> LayerEdits:
        """The edits of a layer at newly generated positions, each on its branch's rows.

        A replacement or noise holds at generated positions as it does in the prompt, and a copy
        goes on with the source's last position; a patch changes the prompt only.
        """
        found: dict[str, tuple[Replacement, ...]] = {}
        of_branch = self.branches[rows]
        for number in np.unique(of_branch):
            if not number:
                continue
            branch = self.decoder.walk.groups[0].branches.branches[number - 1]
            here = torch.from_numpy(of_branch == number).to(device)[:, None]
            for edit in branch.edits.get(layer, ()):
                if edit.site not in sites or edit.position is not None:
                    continue
                mask = here
                if edit.site == "z":
                    n_heads = self.decoder.walk.model.cfg.n_heads
                    mask = here[..., None] & head_mask(heads_of(edit, n_heads), n_heads, device)
                value = self._value(edit, layer, rows, device)
                change = Replacement(value, mask, edit.adds)
                found[edit.site] = (*found.get(edit.site, ()), change)
        return LayerEdits(found) if found else NO_EDITS

    def _value(
        self,
        edit: SiteEdit,
        layer: int,
        rows: np.ndarray,
        device: torch.device,
    ) -> torch.Tensor:
        """What an edit puts, or adds, at the new tokens of some rows."""
        given = edit.value_at(torch.from_numpy(self.positions[rows]).to(device))
        if given is not None:
            return given
        requests = torch.tensor([self.decoder.rows[row].request for row in rows])
        ends = self.decoder.walk.source_ends[layer, edit.site]
        return ends[requests.to(device)][:, None]


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


def _state(walk: Walk, branch: int | None, layer: int) -> int:
    """Whose forward pass a branch's is in a layer: 0 the trunk's, else the branch's number + 1."""
    while branch is not None:
        known = walk.groups[0].branches.branches[branch]
        if layer >= known.opens:
            return 1 + branch
        branch = known.leaves
    return 0


def greedy_tokens(model: HookedTransformer, resid: torch.Tensor, chunk: int) -> np.ndarray:
    """The greedy token of each row of final residual streams."""
    parts = [
        first_argmax(logits_of(model, resid[start : start + chunk]))
        for start in range(0, len(resid), chunk)
    ]
    return torch.cat(parts).cpu().numpy()


def capacity_for(walk: Walk, requests: Sequence[int], budget: int) -> int:
    """How many rows fit a byte budget, at least one.

    Args:
        walk: which ran the prompts.
        requests: the requests (as indices) that generate.
        budget: bytes for the rows' own keys and values.
    """
    begins = begins_of(walk, requests)
    longest = max(
        len(asked.context) + asked.max_tokens - (begin.length if begin else 0)
        for begin, asked in ((begins[index], walk.requests[index]) for index in requests)
        if isinstance(asked, Generate)
    )
    cfg = walk.model.cfg
    n_kv = cfg.n_key_value_heads or cfg.n_heads
    per_row = longest * cfg.n_layers * 2 * n_kv * cfg.d_head * walk.trunk.element_size()
    return max(1, budget // per_row)
