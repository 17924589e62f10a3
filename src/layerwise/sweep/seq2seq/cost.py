"""What a planned sweep over two stacks costs: token-passes, arithmetic and memory.

Seconds are not known: blocks of two kinds and several lengths are not calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts

from .._walk_work import TextLengths
from ..cost import Cost
from ..interventions import Intervention
from ..plan import SweepPlan
from ..requests import Generate, Request
from .plan import TwoStackPlan, plan_two_stacks


def cost_of_two_stacks(
    model: Seq2SeqModel,
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    lengths: TextLengths,
) -> Cost:
    """What a planned sweep over an encoder-decoder costs.

    With d the width of the stream, h that of all heads, m that of the MLP and p its products (2,
    gated 3), a token takes 2 d (4 h + p m) operations in an encoder block. In a decoder block
    cross-attention adds 4 d h, and 4 d h for each input token whose keys and values are made.
    Scores and mixtures, norms and activations, some per cent of the whole, are left out.

    Args:
        model: the model, whose weights need not be there.
        plan: the plan of these interventions and requests.
        interventions: what is changed.
        requests: what is asked.
        lengths: how long texts are expected to be.
    """
    total = Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(plan.batches),
        prompt_token_passes=plan.token_passes,
        seconds=None,
    )
    for batch in plan.batches:
        mine = [requests[index] for index in batch.requests]
        changes = [interventions[index] for index in batch.interventions]
        walk = plan_two_stacks(changes, mine, model.prefix, model.cfg.n_layers)
        total += _of_walk(model, walk, changes, mine, lengths)
    n_decoder = model.cfg.n_decoder_layers
    texts = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    return total + Cost(
        brute_force_token_passes=plan.brute_force_token_passes + n_decoder * texts, seconds=None
    )


def _of_walk(
    model: Seq2SeqModel,
    walk: TwoStackPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    lengths: TextLengths,
) -> Cost:
    cfg, branches = model.cfg, walk.branches.branches
    ends = len(branches) + bool(walk.intact)
    early = sum(branch.opens < cfg.n_encoder_layers for branch in branches)
    more = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    most = sum(r.max_tokens - 1 for r in requests if isinstance(r, Generate)) * len(interventions)
    flop = 0.0
    for layer in range(cfg.n_layers):
        decoding = layer >= cfg.n_encoder_layers
        stack = model.parts.decoder if decoding else model.parts.encoder
        block = stack.blocks[layer - cfg.n_encoder_layers * decoding]
        side = walk.decoder if decoding else walk.encoder
        running = sum(b.opens <= layer and not b.idle(layer) for b in branches)
        tokens = side.n_asked * running + len(side.tokens) * (layer < walk.branches.trunk_until)
        sources = 1 + early if decoding else 0
        flop += _of_block(block, tokens + more * decoding, sources * len(walk.encoder.tokens))
    rows = len(walk.read) * ends
    flop += 2 * (rows + more) * cfg.d_model * cfg.d_vocab
    width = model.W_E.element_size()
    streams = (
        (len(branches) + 4) * cfg.d_model * max(len(walk.encoder.tokens), len(walk.decoder.tokens))
    )
    kept = 2 * (1 + early) * len(walk.encoder.tokens) * cfg.n_heads * cfg.d_head
    kept *= 2 * cfg.n_decoder_layers if walk.generates else 1
    return Cost(
        text_token_passes=cfg.n_decoder_layers * more,
        most_text_token_passes=cfg.n_decoder_layers * most,
        rows=rows,
        text_rows=more,
        flop=flop,
        peak_bytes=int((streams + kept) * width),
        seconds=None,
    )


def _of_block(block: BlockParts, tokens: float, memory_tokens: int) -> float:
    """Operations of a block's products."""
    d_model, heads = block.attn.q.in_features, block.attn.q.out_features
    mlp = block.mlp.up.out_features * (2 if block.mlp.gate is None else 3)
    per_token = 2 * d_model * (4 * heads + mlp)
    if block.cross_attn is not None:
        per_token += 4 * d_model * heads
    return tokens * per_token + memory_tokens * 4 * d_model * heads
