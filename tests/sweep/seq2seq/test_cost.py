"""What a sweep over two stacks is expected to cost, against what the engine does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep import Generate, LogLikelihood, intact, skip, sweep
from layerwise.sweep.plans.cost import TextLengths
from layerwise.sweep.run import plan_for
from layerwise.sweep.seq2seq.cost import seq2seq_cost
from tests.cases import cases
from tests.models.seq2seq.tiny import tiny_seq2seq

from .strategies import families, requests

BUDGET = 2**28
INPUT = (5, 6, 7, 8, 9, 10)
ASKED = [LogLikelihood(INPUT, (4, 9)), LogLikelihood(INPUT, (5,)), LogLikelihood((3, 4), (7,))]
SINGLES = [intact(), *map(skip, range(5))]
LONGEST, NONE = TextLengths(1.0, 1.0), TextLengths(0.0, 0.0)


def cost(changes, asked, lengths=LONGEST, model=None):
    model = model or tiny_seq2seq("t5")
    plan = plan_for(model, changes, asked, BUDGET)
    return seq2seq_cost(model, plan, changes, asked, lengths)


def token_flop() -> tuple[float, float, float]:
    """Operations of a token in an encoder block, in a decoder block, and as an input read there."""
    model = tiny_seq2seq("t5")
    cfg, mlp = model.cfg, 2 if model.parts.encoder.blocks[0].mlp.gate is None else 3
    heads = cfg.decoder_heads * cfg.decoder_d_head
    encoder = 2 * cfg.d_model * (4 * heads + mlp * cfg.d_mlp)
    return encoder, encoder + 4 * cfg.d_model * heads, 4 * cfg.d_model * heads


def test_inputs_are_read_once_by_the_trunk_and_by_each_branch_of_the_encoder():
    planned, cfg = cost(SINGLES, ASKED), tiny_seq2seq("t5").cfg
    encoder, decoder, memory = token_flop()
    # 8 input tokens in 3 + 2 + 1 + 0 layers beside the trunk's 3; of these 3 branches and of the
    # trunk 2 decoder layers read keys and values. 3 tokens are said, in the trunk, in all of both
    # layers by the encoder's branches, and in 1 and in none by the decoder's.
    said, read = 3 * (2 + 3 * 2 + 1 + 0), planned.rows * 2 * cfg.d_model * cfg.d_vocab
    expected = encoder * 8 * (3 + 2 + 1) + decoder * said + memory * 2 * 4 * 8 + read
    assert planned.prompt_flop == pytest.approx(expected)
    assert planned.text_flop == planned.steps == 0


def test_texts_go_through_the_decoder():
    texts = [Generate(INPUT, 6), Generate((3, 4), 6)]
    planned, cfg = cost(SINGLES, texts), tiny_seq2seq("t5").cfg
    assert planned.text_token_passes == planned.most_text_token_passes == 2 * 2 * 5 * 6
    read = planned.text_rows * 2 * cfg.d_model * cfg.d_vocab
    assert planned.text_flop == pytest.approx(token_flop()[1] * planned.text_token_passes + read)
    assert planned.steps == 5


def test_planned_token_passes_are_those_of_the_engine():
    """On random changes and prompts."""
    model = tiny_seq2seq("t5")

    @cases(parts=8)
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        changes, asked = data.draw(families(model.cfg)), data.draw(requests())
        stats = sweep(model, changes, asked, memory_budget=BUDGET).stats
        planned = cost(changes, asked, TextLengths(0.0, 0.0))
        if not any(isinstance(one, Generate) for one in asked):
            assert planned.token_passes == stats.token_passes

    agree()
