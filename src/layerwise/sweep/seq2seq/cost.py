"""What a planned sweep over two stacks costs: token-passes, arithmetic, and memory."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.plans.cost import Cost, TextLengths
from layerwise.sweep.plans.plan import SweepPlan
from layerwise.sweep.requests import Generate, Request

from .block import reading_as_tokens
from .plan import Seq2SeqPlan, plan_seq2seq_walk


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
        total += _walk_cost(model, walk, changes, batch_requests, lengths)
    n_decoder = model.cfg.n_decoder_layers
    texts = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    return total + Cost(brute_force_token_passes=plan.brute_force_token_passes + n_decoder * texts)


def _walk_cost(
    model: Seq2SeqModel,
    plan: Seq2SeqPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    lengths: TextLengths,
) -> Cost:
    """The cost of one walk and of decoding; token-passes of prompts come from the plan."""
    cfg, n_inputs = model.cfg, len(plan.encoder.tokens)
    n_early = plan.n_early(cfg.n_encoder_layers)
    # The first token of a text comes from its prompt.
    texts = [max(0, r.max_tokens - 1) for r in requests if isinstance(r, Generate)]
    text_rows = sum(lengths.more_tokens(i, r) for i in interventions for r in requests)
    read_rows = len(plan.read) * (len(plan.branches) + bool(plan.intact))
    read = 2.0 * cfg.d_model * cfg.d_vocab
    prompt_flop, text_flop = read * read_rows, read * text_rows
    for layer, block in enumerate((*model.parts.encoder.blocks, *model.parts.decoder.blocks)):
        if block.cross_attn is None:
            prompt_flop += _of_block(block, plan.pushed(plan.encoder, layer), 0.0)
            continue
        memory = _memory_tokens(plan, layer, n_early, cfg.decoder_d_head)
        prompt_flop += _of_block(block, plan.pushed(plan.decoder, layer), memory)
        text_flop += _of_block(block, text_rows, 0.0)
    streams = (len(plan.branches) + 4) * cfg.d_model * max(n_inputs, len(plan.decoder.tokens))
    kept = 2 * (1 + n_early) * n_inputs * cfg.n_heads * cfg.d_head
    kept *= 2 * cfg.n_decoder_layers if plan.generates else 1
    return Cost(
        text_token_passes=cfg.n_decoder_layers * text_rows,
        most_text_token_passes=cfg.n_decoder_layers * sum(texts) * len(interventions),
        rows=read_rows,
        text_rows=text_rows,
        steps=max(texts, default=0) if text_rows else 0,
        prompt_flop=prompt_flop,
        text_flop=text_flop,
        peak_bytes=int((streams + kept) * model.W_E.element_size()),
    )


def _memory_tokens(plan: Seq2SeqPlan, layer: int, n_early: int, d_head: int) -> float:
    """Input tokens whose keys and values a decoder layer makes, or equivalent work."""
    n_tokens = len(plan.encoder.tokens)
    if not plan.reads_memory(d_head):
        return float((1 + n_early) * n_tokens)
    reading = sum(
        branch.first_layer <= layer
        and not branch.idle(layer)
        and plan.memory_of(number, n_early) > 0
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
