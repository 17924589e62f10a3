"""One decode for all: every (intervention, prompt) is a row of one batch with its own change.

Invariant: rows ``0 .. len(rows) - 1`` of the cache are the unfinished ones, each with the keys
and values of exactly the tokens before its position. Prompts were run by the walk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from ._edits import LayerEdits, Replacement
from .blocks import BlockRunner, Cache
from .engine import Walk, embed_tokens
from .interventions import Edit, Intervention, SetSite, SkipLayer
from .layout import KeysValues
from .readout import first_argmax, logits_of
from .requests import Generate, Generated
from .stopping import Stopper


@dataclass
class Job:
    """One text being generated.

    Attributes:
        branch: index of the intervention in the walk.
        request: index of the request in the walk.
        asked: the request.
        position: position of the last new token.
        tokens: new tokens so far; the first comes from the prompt's last position.
    """

    branch: int
    request: int
    asked: Generate
    position: int
    tokens: list[int]


class Decoder:
    """A batch of rows being decoded, refilled from a queue as rows finish."""

    def __init__(
        self,
        walk: Walk,
        stopper: Stopper,
        jobs: Iterable[Job],
        capacity: int,
        done: Callable[[Job, Generated], None],
    ) -> None:
        self.walk, self.stopper, self.done = walk, stopper, done
        self.waiting = deque(jobs)
        length = max((j.position + j.asked.max_tokens for j in self.waiting), default=0) + 1
        self.capacity = min(capacity, len(self.waiting))
        self.rows: list[Job] = []
        self.caches = [self._cache(length) for _ in walk.runners]

    def _cache(self, length: int) -> Cache:
        cfg, like = self.walk.model.cfg, self.walk.trunk
        n_kv = cfg.n_key_value_heads or cfg.n_heads
        shape = (self.capacity, length, n_kv, cfg.d_head)
        # Zeros, not empty: masked keys still enter the products, and NaN times zero is NaN.
        return KeysValues(like.new_zeros(shape), like.new_zeros(shape))

    def run(self) -> None:
        """Decode until every text has ended."""
        self._refill()
        while self.rows:
            self._step()
            self._leave()
            self._refill()

    def _refill(self) -> None:
        while self.waiting and len(self.rows) < self.capacity:
            job = self.waiting.popleft()
            if self.stopper.ended(job.tokens, job.asked):
                self.done(job, self.stopper.outcome(job.tokens, job.asked))
                continue
            self._prompt_into(len(self.rows), job)
            self.rows.append(job)

    def _prompt_into(self, row: int, job: Job) -> None:
        path = torch.tensor(self.walk.paths[job.request], device=self.walk.device)
        for layer, cache in enumerate(self.caches):
            prompt = self.walk.keys_values(job.branch, layer)
            if prompt is not None:
                cache.keys[row, : len(path)] = prompt.keys[0, path]
                cache.values[row, : len(path)] = prompt.values[0, path]

    def _step(self) -> None:
        model, device = self.walk.model, self.walk.device
        tokens = torch.tensor([job.tokens[-1] for job in self.rows], device=device)
        positions = torch.tensor([job.position for job in self.rows], device=device)
        branches = torch.tensor([job.branch for job in self.rows], device=device)
        present = sorted({job.branch for job in self.rows})
        resid = embed_tokens(model, tokens, positions)
        for layer, (runner, cache) in enumerate(zip(self.walk.runners, self.caches, strict=True)):
            edits = decode_edits(self.walk.interventions, present, branches, layer)
            used = KeysValues(cache.keys[: len(self.rows)], cache.values[: len(self.rows)])
            resid = runner.step(resid, positions, used, edits)
        self.walk.work.token_passes += len(self.rows) * len(self.caches)
        for job, token in zip(self.rows, greedy_tokens(model, resid), strict=True):
            job.tokens.append(token)
            job.position += 1

    def _leave(self) -> None:
        """Take finished rows out; the last row moves into the gap."""
        for row in range(len(self.rows) - 1, -1, -1):
            job = self.rows[row]
            if not self.stopper.ended(job.tokens, job.asked):
                continue
            self.done(job, self.stopper.outcome(job.tokens, job.asked))
            last = self.rows.pop()
            if last is not job:
                self._move(len(self.rows), row, last.position)
                self.rows[row] = last

    def _move(self, origin: int, row: int, length: int) -> None:
        for cache in self.caches:
            cache.keys[row, :length] = cache.keys[origin, :length]
            cache.values[row, :length] = cache.values[origin, :length]


def greedy_tokens(model: HookedTransformer, resid: torch.Tensor, chunk: int = 256) -> list[int]:
    """The greedy token of each row of final residual streams."""
    found: list[int] = []
    for start in range(0, len(resid), chunk):
        found += first_argmax(logits_of(model, resid[start : start + chunk])).tolist()
    return found


def decode_edits(
    interventions: Sequence[Intervention],
    present: Sequence[int],
    branches: torch.Tensor,
    layer: int,
) -> LayerEdits:
    """The edits of a layer at newly generated positions, each on its intervention's rows.

    A skip, zero or mean holds at generated positions as it does in the prompt; a patch changes
    the prompt only.
    """
    skip: torch.Tensor | bool = False
    sites: dict[str, tuple[Replacement, ...]] = {}
    for branch in present:
        here: list[Edit] = [e for e in interventions[branch].edits if e.layer == layer]
        for edit in here:
            mask = (branches == branch)[None]
            if isinstance(edit, SkipLayer):
                skip = mask if skip is False else skip | mask
            elif isinstance(edit, SetSite):
                value = edit.value.to(branches.device)
                sites[edit.site] = (*sites.get(edit.site, ()), Replacement(value, mask))
    return LayerEdits(sites, skip)


def capacity_for(walk: Walk, runners: Sequence[BlockRunner], budget: int) -> int:
    """How many rows of the longest text fit a byte budget; at least eight."""
    lengths = [len(r.context) + r.max_tokens + 1 for r in walk.requests if isinstance(r, Generate)]
    cfg = walk.model.cfg
    n_kv = cfg.n_key_value_heads or cfg.n_heads
    per_row = max(lengths) * len(runners) * 2 * n_kv * cfg.d_head * walk.trunk.element_size()
    return max(8, budget // per_row)
