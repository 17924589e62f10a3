"""The engine for two stacks against brute force: the same numbers, token for token, less work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    Scored,
    intact,
    mean,
    patch,
    resample,
    skip,
    skip_layers,
    sweep,
    zero,
)
from layerwise.sweep.plans.plan import plan_sweep
from layerwise.sweep.plans.walk_plan import WalkPlan, plan_walk
from layerwise.sweep.run import model_shape
from tests.cases import cases
from tests.models.seq2seq.tiny import tiny_seq2seq

from ..agreement import assert_reference
from ..sizes import sizes
from ..strategies import two_stack_requests, two_stacks

FAMILIES = ("t5", "flan-t5", "mt5", "bart", "bart-scaled", "mbart", "marian", "pegasus")
INPUT, OTHER = (5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15, 16)


@pytest.mark.parametrize("patches", [False, True], ids=["changes", "patches"])
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_and_reference_agree(family: str, patches: bool) -> None:
    model = tiny_seq2seq(family)

    @cases(parts=25)
    @given(data=st.data())
    def agree(data: st.DataObject) -> None:
        equal = patches and data.draw(st.booleans())
        asked = data.draw(two_stack_requests(equal=equal))
        changes = data.draw(two_stacks(model.cfg, patches=patches, equal=equal))
        assert_reference(model, changes, asked, data.draw(sizes))

    agree()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_two_tokens_before_the_answer(family: str) -> None:
    model = tiny_seq2seq(family)
    model.prefix = (*model.prefix, 7)
    asked = [LogLikelihood(INPUT, (4, 9)), LogLikelihood(INPUT, (4, 8)), Generate(OTHER, 6)]
    asked = [replace(request, source=(5, 9, 3)) for request in asked]
    layers = range(model.cfg.n_layers)
    changes = [intact(), *map(skip, layers), *(resample("attn_out", layer) for layer in layers)]
    assert_reference(model, changes, asked)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_reference_is_the_model(family: str) -> None:
    """Log-likelihoods of the intact model are Hugging Face's own."""
    model = tiny_seq2seq(family)
    answer = (4, 9, 17)
    (outcome,) = sweep(model, [intact()], [LogLikelihood(INPUT, answer)]).outcomes[0]
    with torch.inference_mode():
        logits = model.original(
            input_ids=torch.tensor([INPUT]),
            decoder_input_ids=torch.tensor([[*model.prefix, *answer[:-1]]]),
        ).logits[0]
    expected = logits.log_softmax(-1)[range(3), list(answer)]
    assert isinstance(outcome, Scored)
    torch.testing.assert_close(torch.tensor(outcome.token_logprobs), expected, atol=1e-4, rtol=0)


def test_a_skipped_layer_is_a_model_without_it() -> None:
    """Of the T5 class, built anew with the other layers."""
    import copy

    model = tiny_seq2seq("t5")
    for layer, stack in ((1, "encoder"), (4, "decoder")):
        pruned = copy.deepcopy(model.original)
        blocks = getattr(pruned, stack).block
        del blocks[layer - (3 if stack == "decoder" else 0)]
        (outcome,) = sweep(model, [skip(layer)], [LogLikelihood(INPUT, (4, 9))]).outcomes[0]
        assert isinstance(outcome, Scored)
        with torch.inference_mode():
            said = torch.tensor([[*model.prefix, 4]])
            logits = pruned(input_ids=torch.tensor([INPUT]), decoder_input_ids=said).logits[0]
        expected = logits.log_softmax(-1)[[0, 1], [4, 9]]
        torch.testing.assert_close(
            torch.tensor(outcome.token_logprobs), expected, atol=1e-4, rtol=0
        )


def test_work_is_shared() -> None:
    model = tiny_seq2seq("t5")  # 3 encoder layers and 2 decoder layers
    options = [
        LogLikelihood(INPUT, (4, 9)),
        LogLikelihood(INPUT, (4, 8)),
        LogLikelihood(INPUT, (5,)),
    ]
    changes = [intact(), *map(skip, range(5))]
    plan = plan_walk(changes, options, 5, 3, model.prefix)
    # One input, run once; of the options' tokens the start, and the 4 that two of them begin with.
    assert len(plan.sides[0].trie) == 6
    assert len(plan.sides[1].trie) == 2
    # Encoder: trunk 3, branches 2 + 1 + 0. Decoder: trunk 2, branches 2 * 3 + 1 + 0.
    assert plan.token_passes(in_parts=False) == 6 * (3 + 3) + 2 * (2 + 7)
    stats = sweep(model, changes, options).stats
    assert stats.token_passes == plan.token_passes(in_parts=False)
    assert stats.brute_force_token_passes == 6 * sum(3 * 6 + 2 * n for n in (2, 2, 1))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_few_short_answers_to_long_inputs_read_encoder_outputs(family: str, monkeypatch) -> None:
    """Cheaper there than their keys and values, where no text is written."""
    model = tiny_seq2seq(family)
    cfg, words = model.cfg, tuple(range(5, 35))
    scored = [
        LogLikelihood(words, (4, 9)), LogLikelihood(words[::-1], (8,)), LogLikelihood((7, 9), (8,))
    ]  # fmt: skip
    changes = [
        intact(), *map(skip, range(cfg.n_layers)), skip_layers([0, cfg.n_layers - 1]),
        skip_layers([0, 1]), zero("cross_z", cfg.n_layers - 1, head=1), zero("z", 0, head=0),
        mean("mlp_out", 1, torch.ones(cfg.d_model)),
    ]  # fmt: skip
    walked = []
    reads = WalkPlan.reads_outputs
    monkeypatch.setattr(
        WalkPlan, "reads_outputs", lambda *given: walked.append(reads(*given)) or walked[-1]
    )
    for asked, outputs in ((scored, True), ([*scored, Generate(words, 3)], False)):
        assert_reference(model, changes, asked)
        assert walked[-1] is outputs


def test_source_runs_are_not_followed_by_branches() -> None:
    asked = [LogLikelihood(INPUT, (4, 9), source=OTHER)]
    plan = plan_walk([resample("attn_out", 1)], asked, 5, 3, (0,))
    sizes = [len(side.trie) for side in plan.sides]
    (group,) = plan.groups
    assert (sizes, [len(carried or ()) for carried in group.carried]) == ([12, 3], [6, 2])
    assert plan.sides[0].sources == (tuple(range(6, 12)),)


def test_a_small_budget_cuts_requests_and_interventions() -> None:
    shape = model_shape(tiny_seq2seq("t5"))
    asked = [LogLikelihood((n, *INPUT), (4,)) for n in range(20)]
    changes = [intact(), *map(skip, range(5))]
    whole = plan_sweep(changes, asked, shape, 2**30)
    assert len(whole.batches) == 1
    some = plan_sweep(changes, asked, shape, 2**18)
    assert len(some.batches) > 1
    few = plan_sweep(changes, asked, shape, 2**12)
    assert {len(batch.interventions) for batch in few.batches} == {1}
    done = {(i, r) for b in few.batches for i in b.interventions for r in b.requests}
    assert done == {(i, r) for i in range(6) for r in range(20)}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (skip(5), "has layers 0 to 4, of which 3 to 4 are the decoder's"),
        (skip_layers([1, 9]), "Layer 9"),
        (zero("cross_attn_out", 2), "encoder.2, but only decoder layers look at the encoder"),
        (zero("z", 0, head=4), "encoder.0 has heads 0 to 3"),
        (patch("resid_pre", 0, 6), "whose context has 6 tokens"),
        (patch("resid_pre", 3, 1), "whose decoder begins with 1 token"),
    ],
)
def test_changes_that_the_model_does_not_have(change, part: str) -> None:
    asked = [LogLikelihood(INPUT, (4,), source=OTHER)]
    with pytest.raises(UserError, match=part):
        sweep(tiny_seq2seq("t5"), [change], asked)


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (LogLikelihood((), (4,)), "empty context or continuation"),
        (LogLikelihood(INPUT, ()), "empty context or continuation"),
        (LogLikelihood(tuple(range(3, 135)), (4,)), "132 input tokens and 1 of the answer"),
        (Generate(INPUT, 128), "129 of the answer, but the model takes 128 each"),
    ],
)
def test_requests_that_the_model_cannot_take(asked, part: str) -> None:
    with pytest.raises(UserError, match=part):
        sweep(tiny_seq2seq("bart"), [intact()], [asked])


def test_changes_that_need_a_source_run() -> None:
    with pytest.raises(UserError, match="no source run, which resampling needs"):
        sweep(tiny_seq2seq("t5"), [resample("attn_out", 0)], [LogLikelihood(INPUT, (4,))])
    asked = LogLikelihood(INPUT, (4,), source=OTHER[1:])
    with pytest.raises(UserError, match="no source run of the same length"):
        sweep(tiny_seq2seq("t5"), [patch("resid_pre", 0, 0)], [asked])
