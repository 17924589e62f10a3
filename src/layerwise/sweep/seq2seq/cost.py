"""What a planned sweep over two stacks costs: token-passes, arithmetic, memory, and seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts

from .._curves import seconds_at
from .._walk_work import TextLengths, seconds_to_score
from ..cost import Cost
from ..interventions import Intervention
from ..plan import SweepPlan
from ..requests import Generate, Request
from .attending import reading_as_tokens
from .calibration import TwoStackCalibration
from .plan import Side, TwoStackPlan, plan_two_stacks


def cost_of_two_stacks(
    model: Seq2SeqModel,
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    lengths: TextLengths,
    *,
    tokens_at_once: int,
    calibration: TwoStackCalibration | None = None,
) -> Cost:
    """What a planned sweep over an encoder-decoder costs.

    With d the width of the stream, h that of all heads, m that of the MLP and p its products (2,
    gated 3), a token takes 2 d (4 h + p m) operations in an encoder block. In a decoder block
    cross-attention adds 4 d h, and 4 d h for each input token whose keys and values are made;
    where branches read their memories without these, what takes their place is counted.
    Scores and mixtures, norms and activations, some per cent of the whole, are left out of the
    operations (not of the seconds).

    Args:
        model: the model, whose weights need not be there.
        plan: the plan of these interventions and requests.
        interventions: what is changed.
        requests: what is asked.
        lengths: how long texts are expected to be.
        tokens_at_once: how many tokens are pushed through a block at once.
        calibration: of the model's shape here; None gives no seconds.
    """
    total = Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(plan.batches),
        prompt_token_passes=plan.token_passes,
    )
    for batch in plan.batches:
        mine = [requests[index] for index in batch.requests]
        changes = [interventions[index] for index in batch.interventions]
        walk = plan_two_stacks(changes, mine, model.prefix, model.cfg.n_layers)
        total += _Walk(model, walk, changes, mine, lengths).cost(tokens_at_once, calibration)
    n_decoder = model.cfg.n_decoder_layers
    texts = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    return total + Cost(brute_force_token_passes=plan.brute_force_token_passes + n_decoder * texts)


@dataclass(frozen=True)
class _Walk:
    """The work of one walk, and of decoding what it prepared."""

    model: Seq2SeqModel
    plan: TwoStackPlan
    interventions: Sequence[Intervention]
    requests: Sequence[Request]
    lengths: TextLengths

    @cached_property
    def n_early(self) -> int:
        return self.plan.n_early(self.model.cfg.n_encoder_layers)

    @cached_property
    def text_rows(self) -> float:
        """Tokens that are decoded, expected; the first of a text comes from its prompt."""
        more = self.lengths.more_tokens
        return sum(more(i, r) for i in self.interventions for r in self.requests)

    @cached_property
    def longest_text(self) -> int:
        """Steps that the longest text may need."""
        return max((r.max_tokens - 1 for r in self.requests if isinstance(r, Generate)), default=0)

    @cached_property
    def read_rows(self) -> int:
        """Positions of prompts and options whose logits are computed."""
        branches = len(self.plan.branches.branches)
        return len(self.plan.read) * (branches + bool(self.plan.intact))

    def cost(self, tokens_at_once: int, calibration: TwoStackCalibration | None) -> Cost:
        """All of it, token-passes of prompts aside, which the plan knows."""
        cfg, plan = self.model.cfg, self.plan
        most = sum(r.max_tokens - 1 for r in self.requests if isinstance(r, Generate))
        flop = sum(map(self._flop, range(cfg.n_layers)), start=0.0)
        flop += 2 * (self.read_rows + self.text_rows) * cfg.d_model * cfg.d_vocab
        longest = max(len(plan.encoder.tokens), len(plan.decoder.tokens))
        streams = (len(plan.branches.branches) + 4) * cfg.d_model * longest
        kept = 2 * (1 + self.n_early) * len(plan.encoder.tokens) * cfg.n_heads * cfg.d_head
        kept *= 2 * cfg.n_decoder_layers if plan.generates else 1
        return Cost(
            text_token_passes=cfg.n_decoder_layers * self.text_rows,
            most_text_token_passes=cfg.n_decoder_layers * most * len(self.interventions),
            rows=self.read_rows,
            text_rows=self.text_rows,
            flop=flop,
            peak_bytes=int((streams + kept) * self.model.W_E.element_size()),
            seconds=None if calibration is None else self._seconds(tokens_at_once, calibration),
        )

    def _flop(self, layer: int) -> float:
        tokens, memory = sum(self._pushes(layer)), 0.0
        if layer >= self.model.cfg.n_encoder_layers:
            memory = self._memory_tokens(layer)
        block = self._block(layer)
        decoded = self.text_rows if block.cross_attn is not None else 0.0
        return _of_block(block, tokens + decoded, memory)

    def _block(self, layer: int) -> BlockParts:
        n_encoder, parts = self.model.cfg.n_encoder_layers, self.model.parts
        if layer < n_encoder:
            return parts.encoder.blocks[layer]
        return parts.decoder.blocks[layer - n_encoder]

    def _side(self, layer: int) -> Side:
        return self.plan.decoder if self._block(layer).cross_attn else self.plan.encoder

    def _memory_tokens(self, layer: int) -> float:
        """Input tokens of which a decoder layer makes keys and values, or as much work."""
        plan, n_tokens = self.plan, len(self.plan.encoder.tokens)
        d_head = self.model.cfg.decoder_d_head
        if not plan.reads_memory(d_head):
            return float((1 + self.n_early) * n_tokens)
        reading = sum(
            branch.opens <= layer
            and not branch.idle(layer)
            and plan.memory_of(number, self.n_early) > 0
            for number, branch in enumerate(plan.branches.branches)
        )
        return n_tokens + reading * reading_as_tokens(plan.looks(), d_head)

    def _pushes(self, layer: int, tokens_at_once: int | None = None) -> Iterator[int]:
        """Tokens of each push through a layer; all plain ones at once if no size is given."""
        side, n_asked = self._side(layer), self._side(layer).n_asked
        if layer < self.plan.branches.trunk_until:
            yield len(side.tokens)
        plain = {True: 0, False: 0}
        for number, branch in enumerate(self.plan.branches.branches):
            if branch.opens > layer or branch.idle(layer):
                continue
            if branch.edits.get(layer):
                yield n_asked
            else:
                plain[self.plan.memory_of(number, self.n_early) == 0] += 1
        for rows in plain.values():
            at_once = rows
            if tokens_at_once is not None:
                at_once = max(1, tokens_at_once // max(1, n_asked))
            for start in range(0, rows, max(1, at_once)):
                yield n_asked * min(at_once, rows - start)

    def _seconds(self, tokens_at_once: int, known: TwoStackCalibration) -> float:
        spent, pairs = 0.0, (_pairs(self.plan.encoder), _pairs(self.plan.decoder))
        looked = sum(len(run.queries) * len(run.keys) for run in self.plan.cross)
        for layer in range(self.model.cfg.n_layers):
            decoding = layer >= self.model.cfg.n_encoder_layers
            n_tokens = len(self._side(layer).tokens)
            attended = (pairs[decoding] + looked * decoding) / max(1, n_tokens)
            for pushed in self._pushes(layer, tokens_at_once):
                spent += seconds_at(known.decoder if decoding else known.encoder, pushed)
                spent += pushed * attended * known.pair_seconds
            if decoding:
                spent += seconds_at(known.memory, self._memory_tokens(layer))
        spent += seconds_to_score(known.unembedding, self.read_rows)
        if self.text_rows:
            rows = self.text_rows / self.longest_text
            step = self.model.cfg.n_decoder_layers * seconds_at(known.step, rows)
            spent += self.longest_text * (step + seconds_to_score(known.unembedding, rows))
        return spent


def _pairs(side: Side) -> int:
    """Queries times keys that they meet in self-attention."""
    return sum(len(run.queries) * len(run.keys) for run in side.runs)


def _of_block(block: BlockParts, tokens: float, memory_tokens: float) -> float:
    """Operations of a block's products."""
    d_model, heads = block.attn.q.in_features, block.attn.q.out_features
    mlp = block.mlp.up.out_features * (2 if block.mlp.gate is None else 3)
    per_token = 2 * d_model * (4 * heads + mlp)
    if block.cross_attn is not None:
        per_token += 4 * d_model * heads
    return tokens * per_token + memory_tokens * 4 * d_model * heads
