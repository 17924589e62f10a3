"""What a planned sweep over two stacks costs: token-passes, arithmetic, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.plans.cost import Cost, TextLengths
from layerwise.sweep.plans.plan import SweepPlan
from layerwise.sweep.requests import Generate, Request

from .block import reading_as_tokens
from .plan import Seq2SeqPlan, Side, plan_seq2seq_walk


def seq2seq_cost(
    model: Seq2SeqModel,
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    lengths: TextLengths,
) -> Cost:
    """What a planned sweep over an encoder-decoder costs."""
    # With d the width of the stream, h that of all heads, m that of the MLP and p its products (2,
    # gated 3), a token takes 2 d (4 h + p m) operations in an encoder block. In a decoder block
    # cross-attention adds 4 d h, and 4 d h for each input token whose keys and values are made;
    # where branches read their memories without these, what takes their place is counted. Scores
    # and mixtures, norms and activations, some per cent of the whole, are left out.
    total = Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(plan.batches),
        prompt_token_passes=plan.token_passes,
    )
    for batch in plan.batches:
        batch_requests = [requests[index] for index in batch.requests]
        changes = [interventions[index] for index in batch.interventions]
        walk = plan_seq2seq_walk(changes, batch_requests, model.prefix, model.cfg.n_layers)
        total += _Walk(model, walk, changes, batch_requests, lengths).cost()
    n_decoder = model.cfg.n_decoder_layers
    texts = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    return total + Cost(brute_force_token_passes=plan.brute_force_token_passes + n_decoder * texts)


@dataclass(frozen=True)
class _Walk:
    """The work of one walk, and of decoding what it prepared."""

    model: Seq2SeqModel
    plan: Seq2SeqPlan
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
        return max(
            (max(0, r.max_tokens - 1) for r in self.requests if isinstance(r, Generate)), default=0
        )

    @cached_property
    def read_rows(self) -> int:
        """Positions of prompts and options whose logits are computed."""
        branches = len(self.plan.branches)
        return len(self.plan.read) * (branches + bool(self.plan.intact))

    def cost(self) -> Cost:
        """The cost of the walk; token-passes of prompts come from the plan."""
        cfg, plan = self.model.cfg, self.plan
        most = sum(max(0, r.max_tokens - 1) for r in self.requests if isinstance(r, Generate))
        layers, read = range(cfg.n_layers), 2.0 * cfg.d_model * cfg.d_vocab
        longest = max(len(plan.encoder.tokens), len(plan.decoder.tokens))
        streams = (len(plan.branches) + 4) * cfg.d_model * longest
        kept = 2 * (1 + self.n_early) * len(plan.encoder.tokens) * cfg.n_heads * cfg.d_head
        kept *= 2 * cfg.n_decoder_layers if plan.generates else 1
        return Cost(
            text_token_passes=cfg.n_decoder_layers * self.text_rows,
            most_text_token_passes=cfg.n_decoder_layers * most * len(self.interventions),
            rows=self.read_rows,
            text_rows=self.text_rows,
            steps=self.longest_text if self.text_rows else 0,
            prompt_flop=sum(map(self._prompt_flop, layers), start=read * self.read_rows),
            text_flop=sum(map(self._text_flop, layers), start=read * self.text_rows),
            peak_bytes=int((streams + kept) * self.model.W_E.element_size()),
        )

    def _prompt_flop(self, layer: int) -> float:
        memory = 0.0
        if layer >= self.model.cfg.n_encoder_layers:
            memory = self._memory_tokens(layer)
        return _of_block(self._block(layer), self.plan.pushed(self._side(layer), layer), memory)

    def _text_flop(self, layer: int) -> float:
        block = self._block(layer)
        return 0.0 if block.cross_attn is None else _of_block(block, self.text_rows, 0.0)

    def _block(self, layer: int) -> BlockParts:
        n_encoder, parts = self.model.cfg.n_encoder_layers, self.model.parts
        if layer < n_encoder:
            return parts.encoder.blocks[layer]
        return parts.decoder.blocks[layer - n_encoder]

    def _side(self, layer: int) -> Side:
        return self.plan.decoder if self._block(layer).cross_attn else self.plan.encoder

    def _memory_tokens(self, layer: int) -> float:
        """Input tokens whose keys and values a decoder layer makes, or equivalent work."""
        plan, n_tokens = self.plan, len(self.plan.encoder.tokens)
        d_head = self.model.cfg.decoder_d_head
        if not plan.reads_memory(d_head):
            return float((1 + self.n_early) * n_tokens)
        reading = sum(
            branch.first_layer <= layer
            and not branch.idle(layer)
            and plan.memory_of(number, self.n_early) > 0
            for number, branch in enumerate(plan.branches)
        )
        return n_tokens + reading * reading_as_tokens(plan.looks(), d_head)


def _of_block(block: BlockParts, tokens: float | int, memory_tokens: float) -> float:
    """Operations of a block's products."""
    d_model, heads = block.attn.q.in_features, block.attn.q.out_features
    mlp = block.mlp.up.out_features * (2 if block.mlp.gate is None else 3)
    per_token = 2 * d_model * (4 * heads + mlp)
    if block.cross_attn is not None:
        per_token += 4 * d_model * heads
    return tokens * per_token + memory_tokens * 4 * d_model * heads
