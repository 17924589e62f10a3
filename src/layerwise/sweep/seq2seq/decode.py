"""One decode for all: every (branch, request) is a row, and all rows take a step together.

All decoders begin with the same number of tokens, so that all rows are always at one position.
Invariant: the caches hold exactly the tokens before it, and rows that read the same input through
the same memory read its keys and values together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from layerwise.sweep.changes.edits import EMBED, END, OtherWeights, SiteEdit, in_place
from layerwise.sweep.changes.layer_edits import Value, edits_of
from layerwise.sweep.decoding.decode_step import Job
from layerwise.sweep.packed.layout import KeysValues
from layerwise.sweep.requests import Generated, Stopper
from layerwise.sweep.walk.readout import first_argmax, logits_of

from .block import Block, bias_of, read_out_of
from .walk import Cross, Seq2SeqWalk

# Rows that have ended are left in the batch until so many have.
LEAVING = 0.25


@dataclass(frozen=True)
class MemoryRows:
    """Groups of equally many rows that read inputs of one length."""

    rows: Int[torch.Tensor, "group row"]  # of the batch, by what they read
    memories: Int[torch.Tensor, " group"]  # which memory each group of rows reads
    # Packed indices of the input that each group reads.
    inputs: Int[torch.Tensor, "group input_token"]
    # What each group reads, where it does so without keys and values.
    memory: Float[torch.Tensor, "group input_token d_model"] | None


@dataclass
class TextDecoder:
    """A batch of rows being decoded."""

    walk: Seq2SeqWalk  # which ran the prompts
    stopper: Stopper  # decides where texts end
    logit_rows: int  # so many rows' logits exist at once

    def run(self, jobs: Sequence[Job], done: Callable[[Job, Generated], None]) -> None:
        """Decode until every text has ended."""
        by_weights: dict[tuple[OtherWeights | None, ...], list[Job]] = {}
        for job in jobs:
            if not self._ended(job, done):
                by_weights.setdefault(self._weights(job), []).append(job)
        for rows in by_weights.values():
            self._run(rows, done)

    def _weights(self, job: Job) -> tuple[OtherWeights | None, ...]:
        """Replaced weights of the decoder and around it for a text."""
        if job.branch is None:
            return (None,) * (len(self.walk.kept) + 2)
        branch, n_layers = self.walk.branches[job.branch], self.walk.model.cfg.n_layers
        of_layers = (
            None if branch.idle(layer) else branch.weights(layer)
            for layer in range(self.walk.n_encoder, n_layers)
        )
        return (*of_layers, branch.weights(0, EMBED), branch.weights(n_layers, END))

    def _run(self, rows: list[Job], done: Callable[[Job, Generated], None]) -> None:
        """Decode texts that are written with the same weights."""
        self.begin(rows)
        alive = [True] * len(rows)
        while any(alive):
            tokens = self._step(rows)
            for number, (job, token) in enumerate(zip(rows, tokens, strict=True)):
                if alive[number]:
                    job.tokens.append(token)
                    self.walk.work.new_tokens += 1
                    alive[number] = not self._ended(job, done)
            self.position += 1
            if alive.count(False) > LEAVING * len(alive):
                rows = self._leave(rows, alive)
                alive = [True] * len(rows)

    def _ended(self, job: Job, done: Callable[[Job, Generated], None]) -> bool:
        if not self.stopper.ended(job.tokens, job.generate):
            return False
        done(job, self.stopper.outcome(job.tokens, job.generate))
        return True

    def begin(self, rows: Sequence[Job]) -> None:
        """Copy the rows' keys and values into caches with room for all new tokens."""
        # All rows have the same weights.
        walk, n_encoder = self.walk, self.walk.n_encoder
        self.weights = self._weights(rows[0]) if rows else (None,) * (len(walk.kept) + 2)
        self.position = len(walk.model.prefix)
        room = self.position + max((job.generate.max_tokens for job in rows), default=0)
        self.caches: list[KeysValues] = []
        tokens = torch.tensor([walk.plan.paths[job.request] for job in rows], device=walk.device)
        for number, kept in enumerate(walk.kept):
            slots = [walk.slot_of(job.branch, n_encoder + number) for job in rows]
            at = torch.tensor(slots, device=walk.device)[:, None]
            both = []
            for values in (kept.own.keys, kept.own.values):
                cache = values.new_zeros(len(rows), room, *values.shape[2:])
                if len(rows):
                    cache[:, : self.position] = values[at, tokens]
                both.append(cache)
            self.caches.append(KeysValues(*both))
        self._read_together(rows)

    def _leave(self, rows: Sequence[Job], alive: Sequence[bool]) -> list[Job]:
        """Drop the rows that have ended."""
        staying = [number for number, lives in enumerate(alive) if lives]
        self.caches = [cache.of(staying) for cache in self.caches]
        left = [rows[number] for number in staying]
        self._read_together(left)
        return left

    def _read_together(self, rows: Sequence[Job]) -> None:
        """Sort rows by what they read, and gather its keys and values, once for all steps."""
        walk, plan = self.walk, self.walk.plan
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for number, job in enumerate(rows):
            key = (walk.memory_of(job.branch), plan.inputs[job.request])
            groups.setdefault(key, []).append(number)
        shapes: dict[tuple[int, int, bool], list[tuple[int, tuple[int, ...], list[int]]]] = {}
        for (memory, span), members in groups.items():
            bare = walk.from_memory and memory > 0
            shape = (len(members), len(span), bare)
            shapes.setdefault(shape, []).append((memory, span, members))
        self.readings = []
        for (_, _, bare), alike in shapes.items():
            memories, inputs, members = (
                torch.tensor(values, dtype=torch.long, device=walk.device)
                for values in zip(*alike, strict=True)
            )
            memory = walk.memories[memories[:, None], inputs] if bare else None
            self.readings.append(MemoryRows(members, memories, inputs, memory))
        self.read: list[list[KeysValues | None]] = [
            [_gathered(kept.cross[weights], reading) for reading in self.readings]
            for kept, weights in zip(walk.kept, self.weights, strict=False)
        ]

    def _step(self, rows: Sequence[Job]) -> list[int]:
        """The next token of every row."""
        walk = self.walk
        decoder = walk.model.parts.decoder
        tokens = torch.tensor([[job.tokens[-1]] for job in rows], device=walk.device)
        *of_layers, embedding, end = self.weights
        with in_place(embedding):
            resid = decoder.embed(tokens, torch.tensor([self.position], device=walk.device))
        for number, weights in enumerate(of_layers):
            block = walk.block_of(walk.n_encoder + number, weights)
            resid = self.layer(rows, number, block, resid)
        walk.work.row_passes += len(rows)
        new_tokens: list[int] = []
        with in_place(end):
            for part in resid[:, 0].split(self.logit_rows):
                new_tokens += first_argmax(logits_of(walk.model, part)).tolist()
        return new_tokens

    def layer(
        self, rows: Sequence[Job], number: int, block: Block, resid: torch.Tensor
    ) -> torch.Tensor:
        """Run a layer for all rows; rows whose branch skips it pass unchanged."""
        walk, layer = self.walk, self.walk.n_encoder + number
        changes = [
            () if j.branch is None else walk.branches[j.branch].edits.get(layer, ()) for j in rows
        ]
        idle = [j.branch is not None and walk.branches[j.branch].idle(layer) for j in rows]
        n_heads, value_of = walk.model.cfg.heads_of(layer), partial(self._value, rows, layer)
        edits = edits_of(enumerate(changes), len(rows), 1, n_heads, value_of, walk.device)
        attend, look = partial(self._attend, number, block), partial(self._look, number, block)
        out = block.run(resid, attend, look, edits)
        walk.work.token_passes += len(rows) - sum(idle)
        if not any(idle):
            return out
        skipping = torch.tensor(idle, device=walk.device)
        entered = edits.changed("resid_pre", resid)
        return torch.where(skipping[:, None, None], edits.changed("resid_post", entered), out)

    def _attend(
        self, number: int, block: Block, queries: torch.Tensor, new: KeysValues
    ) -> torch.Tensor:
        """Outputs of self-attention heads at the new position, which is added to the cache."""
        cache, seen = self.caches[number], self.position + 1
        cache.keys[:, self.position] = new.keys[:, 0]
        cache.values[:, self.position] = new.values[:, 0]
        k, v = (x[:, :seen].transpose(1, 2) for x in (cache.keys, cache.values))
        q, scale = queries.transpose(1, 2), block.parts.attn.scale
        bias = bias_of(1, seen, True, self.walk.model.parts.decoder.relative, q)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        return out.transpose(1, 2)

    def _look(self, number: int, block: Block, queries: torch.Tensor) -> torch.Tensor:
        """Outputs of cross-attention heads."""
        attention = block.parts.cross_attn
        assert attention is not None
        out = torch.empty_like(queries)
        for reading, read in zip(self.readings, self.read[number], strict=True):
            q = queries[reading.rows, 0]
            if reading.memory is not None:
                out[reading.rows, 0] = read_out_of(reading.memory, q, attention)
                continue
            assert read is not None
            q = q.transpose(1, 2) * attention.scale
            # Of a query or a few, plain products take less than the fused operation.
            weights = torch.matmul(q, read.keys.transpose(2, 3)).softmax(-1)
            out[reading.rows, 0] = torch.matmul(weights, read.values).transpose(1, 2)
        return out

    def _value(self, rows: Sequence[Job], layer: int, edit: SiteEdit) -> Value:
        """The vector that an edit puts at the new position, and its rows; None is all."""
        walk = self.walk
        if edit.position is not None:
            # A patch is made at one of the tokens that were given, never at new ones.
            nothing = torch.zeros(1, dtype=torch.bool, device=walk.device)
            return walk.source_ends[layer, edit.site][:1, None], nothing
        given = edit.value_at(torch.tensor([[self.position]], device=walk.device))
        if given is not None:
            return given, None
        requests = [job.request for job in rows]
        return walk.source_ends[layer, edit.site][requests][:, None], None


def _gathered(cross: Cross | None, reading: MemoryRows) -> KeysValues | None:
    """Keys and values of what groups of rows read, heads before tokens; None without these."""
    assert cross is not None, "decoder layers look at memories"
    if reading.memory is not None:
        return None
    keys, values, memories = cross.keys_values.keys, cross.keys_values.values, reading.memories
    if cross.places is not None:
        memories = torch.tensor(cross.at(memories.tolist()), device=memories.device)
    heads = torch.arange(keys.shape[2], device=keys.device)[:, None]
    at = (memories[:, None, None], reading.inputs[:, None], heads)
    return KeysValues(keys[at], values[at])
