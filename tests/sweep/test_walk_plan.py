from __future__ import annotations

import pytest
import torch
from hypothesis import given

from layerwise.sweep import (
    Generate,
    LogLikelihood,
    intact,
    mean,
    patch,
    resample,
    skip,
    sweep,
    zero,
)
from layerwise.sweep.plans.walk_plan import plan_walk

from ..cases import cases
from . import strategies
from .models import N_LAYERS, random_model

SINGLES = [intact(), *(skip(layer) for layer in range(N_LAYERS))]


def assert_work_is_done(kind, requests, interventions) -> None:
    """The engine does the work that is planned, in parts or as a whole."""
    plan = plan_walk(interventions, requests, N_LAYERS)
    stats = sweep(random_model(kind), interventions, requests).stats
    in_parts = kind == "llama-gqa"
    assert plan.token_passes(in_parts) == stats.token_passes
    assert plan.block_passes(in_parts) == stats.block_passes


@pytest.mark.parametrize("kind", ["llama-gqa", "soft-caps"])
@cases(10)
@given(requests=strategies.requests(), interventions=strategies.interventions)
def test_planned_work_is_done(kind, requests, interventions):
    requests = [r for r in requests if isinstance(r, LogLikelihood)] or [LogLikelihood((1,), (2,))]
    assert_work_is_done(kind, requests, interventions)


@pytest.mark.parametrize("kind", ["llama-gqa", "soft-caps"])
@cases(10)
@given(requests=strategies.patch_requests(), interventions=strategies.patches)
def test_planned_work_of_patches_is_done(kind, requests, interventions):
    assert_work_is_done(kind, requests, interventions)


def test_what_is_read_predicts_what_is_asked():
    requests = [LogLikelihood((1, 2, 3), (4, 5)), Generate((1, 2), 3), LogLikelihood((9,), (1,))]
    plan = plan_walk([intact()], requests, N_LAYERS)
    # Packed: 1, 2, 3, 4 and 9; the last token of a continuation is only read out.
    assert plan.sides[0].trie.tokens == [1, 2, 3, 4, 9]
    assert plan.sides[0].paths == ((0, 1, 2, 3), (0, 1), (4,))
    assert plan.read == (1, 2, 3, 4)
    assert plan.generates
    assert plan.intact == (0,)
    assert plan.trunk_until == N_LAYERS


def test_a_patch_carries_what_it_can_reach_and_nothing_else():
    request = LogLikelihood((1, 2, 3, 4), (5, 6), (1, 2, 9, 4))
    at_2 = plan_walk([patch("resid_pre", 1, -2)], [request], N_LAYERS)
    (group,) = at_2.groups
    # Tokens 3, 4, 5 of the context and continuation, and none of the source run.
    assert sorted(group.carried[0] or ()) == [2, 3, 4]
    assert at_2.sides[0].sources == ((0, 1, 5, 6),)
    assert at_2.trunk_until == N_LAYERS  # its keys are needed to the end
    several = [patch("resid_pre", 1, -2), patch("z", 2, 3, 0), patch("attn_out", 0, 2), skip(1)]
    groups = plan_walk(several, [request], N_LAYERS).groups
    carried = [None if g.carried[0] is None else sorted(g.carried[0]) for g in groups]
    # A skip reaches all tokens of the prompt, and none of the source run's own.
    assert carried == [[2, 3, 4], [3, 4], [0, 1, 2, 3, 4]]
    assert [[b.members for b in g.branches] for g in groups] == [
        [(2,), (0,)],
        [(1,)],
        [(3,)],
    ]


def test_what_both_runs_begin_with_is_not_run_again():
    request = LogLikelihood((1, 2, 3, 4), (5,), (1, 2, 9, 4))
    changes = [patch("resid_pre", 1, 1), patch("z", 2, 0, 0), resample("z", 1, 0), resample("z", 2)]
    plan = plan_walk(changes, [request], N_LAYERS)
    assert plan.intact == (0, 1)
    (group,) = plan.groups
    assert sorted(group.carried[0] or ()) == [2, 3]
    # Of two requests, the change acts on one; of the other, only what is read is carried.
    same = LogLikelihood((7, 8), (5,), (7, 8))
    plan = plan_walk(changes[2:], [same, request], N_LAYERS)
    assert [sorted(group.carried[0] or ()) for group in plan.groups] == [[1, 4, 5]]
    # What is written may be changed everywhere.
    texts = plan_walk(changes, [Generate((1, 2, 3), 4, source=(1, 2, 9))], N_LAYERS)
    assert not texts.intact


def test_branches_that_change_what_attention_gives_begin_inside_their_block():
    value = torch.ones(32)
    inside = [zero("attn_out", 1), mean("mlp_out", 2, value), patch("z", 0, -1, 1)]
    inside += [zero("resid_mid", 1), zero("z", 1, 0), resample("z", 2, 1), resample("mlp_out", 1)]
    outside = [skip(1), zero("resid_pre", 1), zero("resid_post", 1)]
    request = LogLikelihood((1, 2), (3,), (1, 4))
    for intervention, expected in [*((i, True) for i in inside), *((i, False) for i in outside)]:
        plan = plan_walk([intact(), intervention], [request], N_LAYERS)
        (branch,) = plan.groups[0].branches
        assert plan.starts_inside(branch) is expected, intervention.id
        assert plan.layers_with_sites[branch.first_layer] is expected, intervention.id
    # Alone and without a source run, the trunk does not come so far.
    request = LogLikelihood((1, 2), (3,))
    (group,) = (alone := plan_walk([zero("attn_out", 1)], [request], N_LAYERS)).groups
    assert not alone.starts_inside(group.branches[0])


def test_the_last_layer_gives_only_what_is_read():
    requests = [LogLikelihood((1, 2, 3, 4), (5,))]
    plan = plan_walk([intact()], requests, N_LAYERS)
    assert [plan.trunk_tokens(layer) for layer in range(N_LAYERS)] == [4, 4, 4, 1]
    assert [plan.trunk_tokens(layer, in_parts=False) for layer in range(N_LAYERS)] == [4, 4, 4, 4]
    assert plan.token_passes() == 13
    assert plan_walk(SINGLES[1:], requests, N_LAYERS).trunk_until == N_LAYERS - 1
