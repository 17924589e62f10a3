"""One decode for all: every (branch, prompt) is a row of one batch with its own changes.

Invariant: the cache holds, for each unfinished row, the keys and values of exactly the tokens
before its position that are not in a shared beginning, and nothing behind it is ever attended to.

Prompts were run by the walk, whose keys and values of shared beginnings are attended to in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int

from layerwise.models.instance.kinds import Model, key_heads
from layerwise.sweep.changes.edits import EMBED, END, in_place
from layerwise.sweep.packed.layout import KeptKeysValues
from layerwise.sweep.requests import Generate, Generated, Stopper, Tokens
from layerwise.sweep.walk.engine import Walk
from layerwise.sweep.walk.readout import CHUNK, embed_tokens, final_logits, first_argmax

from .decode_step import DecodedText, DecodingState, SharedPrefix, Step

# A branch whose drafts are confirmed more rarely than this, after so many guesses, gets no more.
LEAST_CONFIRMED, TRIAL = 0.2, 12


@dataclass
class Drafter:
    """Drafts of the next tokens from earlier texts, and how often they were confirmed."""

    # The guess goes on as another finished text of the same prompt did that begins like this one (a
    # neighbouring branch's, often the intact model's); else as the prompt or the text itself went
    # on after its last two tokens (prompt look-up).

    longest: int = 7  # tokens of a draft, at most
    # By branch, how many tokens were guessed and how many confirmed.
    measures: dict[int | None, tuple[int, int]] = field(default_factory=dict)
    finished: dict[int, list[Tokens]] = field(default_factory=dict)

    def draft(
        self, branch: int | None, request: int, tokens: Sequence[int], generate: Generate, room: int
    ) -> Tokens:
        """The guessed next tokens of a text; none if there is no room or no good guess."""
        room = min(room, self.longest, generate.max_tokens - len(tokens) - 1)
        offered, confirmed = self.measures.get(branch, (0, 0))
        if room < 1 or (offered >= TRIAL and confirmed < LEAST_CONFIRMED * offered):
            return ()
        text = tuple(tokens)
        for other in self.finished.get(request, ()):
            if len(other) > len(text) and other[: len(text)] == text:
                return other[len(text) : len(text) + room]
        sequence = generate.context + text
        last = sequence[-2:]
        for end in range(len(sequence) - 1, 1, -1):
            if sequence[end - 2 : end] == last:
                return sequence[end : end + room]
        return ()

    def learn(self, request: int, tokens: Sequence[int]) -> None:
        """Remember a finished text."""
        texts = self.finished.setdefault(request, [])
        if tuple(tokens) not in texts:
            texts.append(tuple(tokens))

    def count_confirmed(self, branch: int | None, offered: int, confirmed: int) -> None:
        """Count the confirmed tokens of a draft."""
        before = self.measures.get(branch, (0, 0))
        self.measures[branch] = (before[0] + offered, before[1] + confirmed)


# A beginning must be so long to be worth attending to apart.
SHORTEST_BEGINNING = 32
# So many new tokens in one step cost little more than one, since the weights are read for all.
STEP_ROOM = 16


def beginnings(paths: Sequence[Sequence[int]], shortest: int) -> list[SharedPrefix | None]:
    """For each prompt the beginning that it shares with others, if it is long enough."""
    by_first: dict[int, list[int]] = {}
    for index, path in enumerate(paths):
        by_first.setdefault(path[0], []).append(index)
    shared: list[SharedPrefix | None] = [None] * len(paths)
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
                shared[index] = SharedPrefix(first[0], run)
    return shared


def shared_beginnings(walk: Walk, requests: Sequence[int]) -> dict[int, SharedPrefix | None]:
    """Shared beginnings of a walk's prompts whose keys and values stay in the walk's cache."""
    if not walk.in_parts:
        return dict.fromkeys(requests)
    paths = [walk.side.paths[index] for index in requests]
    return dict(zip(requests, beginnings(paths, SHORTEST_BEGINNING), strict=True))


@dataclass
class Decoder:
    """A batch of rows being decoded, refilled from a queue as rows finish."""

    walk: Walk  # which ran the prompts
    stopper: Stopper  # decides where texts end
    waiting: deque[DecodedText]  # texts that are not in the batch yet
    capacity: int  # rows of the batch
    done: Callable[[DecodedText, Generated], None]  # told of each finished text
    # New tokens in one step; what rows leave of it is used for drafts.
    step_room: int = field(default_factory=lambda: STEP_ROOM)
    logit_rows: int = CHUNK  # so many rows' logits exist at once
    rows: list[DecodedText] = field(default_factory=list)

    def __post_init__(self) -> None:
        walk = self.walk
        self.in_parts = walk.in_parts
        self.begins = shared_beginnings(walk, sorted({job.request for job in self.waiting}))
        self.capacity = min(self.capacity, len(self.waiting))
        self.free = list(range(self.capacity))[::-1]
        own = max((self._n_own(job) + job.generate.max_tokens for job in self.waiting), default=0)
        self.drafter = Drafter()
        self.layers = range(walk.plan.n_encoder, walk.plan.n_layers)
        self.inputs = walk.plan.sides[0].paths if walk.plan.n_encoder else ()
        lengths = np.array([len(path) for path in self.inputs] or [0] * len(walk.requests))
        caches = self._caches(own + self.drafter.longest)
        across = self._caches(int(lengths.max())) if self.inputs else {}
        self.batch = DecodingState(walk, self.begins, caches, across, lengths)

    def _caches(self, n_tokens: int) -> dict[int, KeptKeysValues]:
        """Empty caches of all layers, for so many tokens of a row."""
        heads, like = key_heads(self.walk.model), self.walk.trunk
        return {
            layer: KeptKeysValues.empty(self.capacity, n_tokens, *heads, like)
            for layer in self.layers
        }

    def _n_own(self, job: DecodedText) -> int:
        """Number of prompt tokens behind the shared beginning."""
        begin = self.begins[job.request]
        return job.n_given - (begin.length if begin else 0)

    def run(self) -> None:
        """Decode until every text has ended."""
        self._refill()
        while self.rows:
            self._step()
            self._refill()

    def _refill(self) -> None:
        """Replace finished rows by waiting ones."""
        staying: list[DecodedText] = []
        for job in self.rows:
            if not self._finish_if_ended(job):
                staying.append(job)
            else:
                self.free.append(job.slot)
        new: list[DecodedText] = []
        while self.waiting and self.free:
            job = self.waiting.popleft()
            if not self._finish_if_ended(job):
                job.slot = self.free.pop()
                new.append(job)
        self.rows = staying + new
        if new:
            self._copy_prompts(new)

    def _finish_if_ended(self, job: DecodedText) -> bool:
        if not self.stopper.stops(job.tokens, job.generate):
            return False
        self.drafter.learn(job.request, job.tokens)
        self.done(job, self.stopper.outcome(job.tokens, job.generate))
        return True

    def _copy_prompts(self, new: list[DecodedText]) -> None:
        """Copy the rows' own part of their prompts to the cache, and what they look at."""
        walk, device, side = self.walk, self.walk.device, self.walk.side
        own = {job.slot: side.paths[job.request][-n:] for job in new if (n := self._n_own(job))}
        for jobs, slots, paths in self._equal_length_groups(new, own):
            branches = np.array([0 if j.branch is None else 1 + j.branch for j in jobs])
            for layer, cache in self.batch.caches.items():
                kept = walk.kept[layer]
                assert kept is not None, "the walk keeps keys and values where texts are asked for"
                sources = torch.from_numpy(self.batch.sources[layer, branches]).to(device)
                heads = torch.arange(kept.keys.shape[1])[:, None]
                at = (sources[:, None, None], heads, paths[:, None])
                cache.keys[slots, :, : paths.shape[1]] = kept.keys[at]
                cache.values[slots, :, : paths.shape[1]] = kept.values[at]
        for layer, cache in self.batch.across.items():
            for weights, numbers in self.batch.group_by_weights(new, layer).items():
                look = walk.looked_at[layer].get(weights)
                if look is None:  # all pass the layer by
                    continue
                rows = [new[number] for number in numbers]
                inputs = {job.slot: self.inputs[job.request] for job in rows}
                for jobs, slots, paths in self._equal_length_groups(rows, inputs):
                    memories = [walk.plan.encoder_output_index(job.branch) for job in jobs]
                    at = torch.tensor(memories, device=device)[:, None]
                    cache.keys[slots, :, : paths.shape[1]] = look.keys[at, paths].transpose(1, 2)
                    cache.values[slots, :, : paths.shape[1]] = look.values[at, paths].transpose(
                        1, 2
                    )

    def _equal_length_groups(
        self, jobs: Sequence[DecodedText], paths: Mapping[int, Sequence[int]]
    ) -> Iterator[tuple[list[DecodedText], torch.Tensor, torch.Tensor]]:
        """Texts whose packed tokens, by slot, are equally many; their slots and these tokens."""
        by_length: dict[int, list[DecodedText]] = {}
        for job in jobs:
            if job.slot in paths:
                by_length.setdefault(len(paths[job.slot]), []).append(job)
        for alike in by_length.values():
            slots = [job.slot for job in alike]
            tokens = torch.tensor([paths[slot] for slot in slots], device=self.walk.device)
            yield alike, torch.tensor(slots, device=self.walk.device), tokens

    def _step(self) -> None:
        """Push the last token of every row, and its draft, through all layers."""
        model, device = self.walk.model, self.walk.device
        n_rows = len(self.rows)
        n_new = max(1, self.step_room // n_rows) if self.in_parts else 1
        drafts = [
            self.drafter.draft(j.branch, j.request, j.tokens, j.generate, n_new - 1)
            for j in self.rows
        ]
        n_new = 1 + max(len(draft) for draft in drafts)
        last_tokens = np.array(
            [
                (job.tokens[-1], *draft, *[0] * (n_new - 1 - len(draft)))
                for job, draft in zip(self.rows, drafts, strict=True)
            ]
        )
        positions = np.array([job.position for job in self.rows])[:, None] + np.arange(n_new)
        begun = np.array([self._n_own(job) - job.n_given for job in self.rows])
        # What stands behind a draft is never read; its place need only exist.
        known = np.minimum(positions, model.cfg.n_ctx - 1)
        texts = self._texts(last_tokens)
        step = Step(self.batch, self.rows, known, positions + begun[:, None], texts)
        tokens = torch.from_numpy(last_tokens).to(device)
        flat = torch.from_numpy(known.ravel()).to(device)
        resid = self._embed_tokens(tokens, flat)
        for layer in self.layers:
            resid = step.run_layer(layer, self.walk.runners[layer], resid)
        self.walk.work.token_passes += step.token_passes
        self.walk.work.row_passes += n_rows
        best = self._greedy(resid)
        for job, draft, confirmed in zip(self.rows, drafts, best.tolist(), strict=True):
            self._accept(job, draft, confirmed)

    def _embed_tokens(
        self, tokens: Int[torch.Tensor, "row new"], positions: Int[torch.Tensor, " flat"]
    ) -> Float[torch.Tensor, "row new d_model"]:
        """New tokens embedded, each row's by the embeddings of its branch."""
        resid = None
        for weights, rows in self.batch.group_by_weights(self.rows, 0, EMBED).items():
            with in_place(weights):
                flat = embed_tokens(self.walk.model, tokens.flatten(), positions)
            embedded = flat.unflatten(0, tokens.shape)
            resid = embedded if resid is None else resid
            if resid is not embedded:
                resid[rows] = embedded[rows]
        assert resid is not None
        return resid

    def _greedy(self, resid: Float[torch.Tensor, "row new d_model"]) -> np.ndarray:
        """Greedy tokens, by the norm and unembedding of each row's branch."""
        model, best = self.walk.model, np.zeros(resid.shape[:2], dtype=np.int64)
        apart = self.batch.group_by_weights(self.rows, model.cfg.n_layers, END)
        for weights, rows in apart.items():
            own_resid = resid if len(rows) == len(resid) else resid[rows]
            with in_place(weights):
                tokens = greedy_tokens(model, own_resid.flatten(0, 1), self.logit_rows)
            best[rows] = tokens.reshape(len(rows), -1)
        return best

    def _accept(self, job: DecodedText, draft: Sequence[int], greedy: Sequence[int]) -> None:
        """Accept greedy tokens up to the first that differs from the draft."""
        accepted = 0
        for i, token in enumerate(greedy):
            job.tokens.append(token)
            self.walk.work.new_tokens += 1
            if i >= len(draft) or draft[i] != token or self.stopper.stops(job.tokens, job.generate):
                break
            accepted += 1
        self.drafter.count_confirmed(job.branch, len(draft), accepted)

    def _texts(self, last_tokens: np.ndarray) -> np.ndarray:
        """A number for each row, the same for rows with the same tokens, drafts included."""
        numbers: dict[tuple[object, ...], int] = {}
        return np.array(
            [
                numbers.setdefault((job.request, *job.tokens[:-1], -1, *new), len(numbers))
                for job, new in zip(self.rows, last_tokens.tolist(), strict=True)
            ]
        )


def greedy_tokens(model: Model, resid: torch.Tensor, chunk: int) -> np.ndarray:
    """The greedy token of each row of final residual streams."""
    parts = [
        first_argmax(final_logits(model, resid[start : start + chunk]))
        for start in range(0, len(resid), chunk)
    ]
    return torch.cat(parts).cpu().numpy()


def row_capacity(walk: Walk, requests: Sequence[int], budget: int) -> int:
    """Number of rows that fit a byte budget, at least one."""
    begins = shared_beginnings(walk, requests)
    n_encoder, sides = walk.plan.n_encoder, walk.plan.sides
    longest = 0
    for index in requests:
        begin, request = begins[index], walk.requests[index]
        assert isinstance(request, Generate)
        looked_at = len(sides[0].paths[index]) if n_encoder else 0
        own = walk.side.n_given[index] + request.max_tokens - (begin.length if begin else 0)
        longest = max(longest, own + looked_at)
    n_kv, d_head = key_heads(walk.model)
    n_layers = walk.plan.n_layers - n_encoder
    per_row = longest * n_layers * 2 * n_kv * d_head * walk.trunk.element_size()
    return max(1, budget // per_row)
