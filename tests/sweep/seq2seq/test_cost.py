"""What a sweep over two stacks is expected to cost, against what the engine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep import Generate, LogLikelihood, intact, skip, sweep
from layerwise.sweep._walk_work import TextLengths
from layerwise.sweep.faithful import check_faithful
from layerwise.sweep.run import plan_for
from layerwise.sweep.seq2seq.cost import cost_of_two_stacks
from layerwise.sweep.seq2seq.walk import TwoStackWalk
from tests.cases import cases
from tests.models.seq2seq.tiny import tiny_seq2seq

from .strategies import families, requests
from .test_calibration import KNOWN

BUDGET = 2**28
NOTHING = ((10**6, 1e-12), (10**7, 1e-12))
FREE = replace(
    KNOWN, encoder=NOTHING, decoder=NOTHING, memory=NOTHING, step=NOTHING, unembedding=NOTHING,
    pair_seconds=0.0,
)  # fmt: skip
INPUT = (5, 6, 7, 8, 9, 10)
ASKED = [LogLikelihood(INPUT, (4, 9)), LogLikelihood(INPUT, (5,)), LogLikelihood((3, 4), (7,))]
SINGLES = [intact(), *map(skip, range(5))]
LONGEST, NONE = TextLengths(1.0, 1.0), TextLengths(0.0, 0.0)


def per(seconds: float) -> tuple[tuple[int, float], ...]:
    """A curve of so many seconds each."""
    return ((1, seconds), (4096, 4096 * seconds))


def cost(changes, asked, calibration=None, at_once=256, lengths=LONGEST, model=None):
    model = model or tiny_seq2seq("t5")
    plan = plan_for(model, changes, asked, BUDGET)
    return cost_of_two_stacks(
        model, plan, changes, asked, lengths, tokens_at_once=at_once, calibration=calibration
    )


def test_seconds_are_those_of_the_calibration():
    slow = replace(FREE, encoder=per(1e-3), decoder=per(1e-3))
    planned = cost(SINGLES, ASKED, slow)
    assert planned.seconds == pytest.approx(planned.token_passes * 1e-3)
    planned = cost(SINGLES, ASKED, replace(FREE, unembedding=per(1e-3)))
    assert planned.seconds == pytest.approx(planned.rows * 1e-3)
    texts = [Generate(INPUT, 6), Generate((3, 4), 6)]
    planned = cost(SINGLES, texts, replace(FREE, step=per(1e-3)))
    assert planned.seconds == pytest.approx(planned.text_token_passes * 1e-3)
    assert planned.text_token_passes == planned.most_text_token_passes == 2 * 2 * 5 * 6


def test_inputs_are_read_once_by_the_trunk_and_by_each_branch_of_the_encoder():
    planned = cost(SINGLES, ASKED, replace(FREE, memory=per(1e-3)))
    # 8 input tokens, in the trunk and in 3 branches, for each of 2 decoder layers.
    assert planned.seconds == pytest.approx(2 * 4 * 8 * 1e-3)


def test_what_stands_for_keys_and_values_takes_their_time():
    asked = [LogLikelihood(tuple(range(3, 33)), (4,))]
    planned = cost(SINGLES, asked, replace(FREE, memory=per(1e-3)))
    # Keys and values of 30 tokens in the trunk; in heads of 8, for the one query of each of the 3
    # branches of the encoder, two products and scores and mixtures with 30 tokens.
    assert planned.seconds == pytest.approx(2 * (30 + 3 * (1 + 30 / 8)) * 1e-3)
    # Of a text of up to 30 tokens, of which none beyond the first is expected, they are made.
    made = cost(SINGLES, [*asked, Generate(asked[0].context, 30)], lengths=NONE).flop
    cfg = tiny_seq2seq("t5").cfg
    per_token = 2 * 4 * cfg.d_model * cfg.decoder_heads * cfg.decoder_d_head
    assert made - cost(SINGLES, asked).flop == pytest.approx(per_token * 3 * (30 - (1 + 30 / 8)))


def test_attention_takes_its_time():
    planned = cost([intact()], ASKED, replace(FREE, pair_seconds=1.0))
    # Inputs of 6 and 2 tokens in 3 layers; in 2 layers what is said of them, the start alone or
    # with one token after it.
    own, looked = 2 * 2 + 1, 2 * 6 + 1 * 2
    assert planned.seconds == pytest.approx(3 * (36 + 4) + 2 * (own + looked))


def test_without_a_calibration_there_is_work_and_no_time():
    assert cost(SINGLES, ASKED).seconds is None
    assert cost(SINGLES, ASKED).flop > 0


@pytest.mark.parametrize("at_once", [1, 16, 4096])
def test_pushes_are_those_of_the_engine(at_once, monkeypatch):
    """Counted by a clock that takes one second a push, on random changes and prompts."""
    model = tiny_seq2seq("t5")
    check_faithful(model)  # once for each model, before its first sweep
    pushes: list[object] = []
    push = TwoStackWalk._push
    monkeypatch.setattr(
        TwoStackWalk, "_push", lambda self, *given: pushes.append(None) or push(self, *given)
    )
    a_push = ((1, 1.0), (10**6, 1.0))
    counting = replace(FREE, encoder=a_push, decoder=a_push)

    @cases(parts=8)
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        changes = data.draw(families(model.cfg))
        asked = data.draw(requests())
        pushes.clear()
        stats = sweep(model, changes, asked, memory_budget=BUDGET, tokens_at_once=at_once).stats
        planned = cost(changes, asked, counting, at_once, TextLengths(0.0, 0.0))
        assert planned.seconds == pytest.approx(len(pushes))
        if not any(isinstance(one, Generate) for one in asked):
            assert planned.token_passes == stats.token_passes

    agree()
