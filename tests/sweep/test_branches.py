from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep import Intervention, SkipLayer, intact, mean, patch, skip, skip_layers, zero
from layerwise.sweep.plans.branches import Branch, by_layer, make_branches

N_LAYERS = 6
SINGLES = [skip(layer) for layer in range(N_LAYERS)]
CHANGES = [
    *SINGLES,
    *(zero("attn_out", layer) for layer in range(N_LAYERS)),
    *(zero("resid_post", layer) for layer in range(N_LAYERS)),
    *(mean("attn_out", 2, torch.full((3,), float(i))) for i in range(2)),
    *(patch("mlp_out", layer, -1) for layer in range(N_LAYERS)),
]
sets = st.lists(
    st.lists(st.sampled_from(CHANGES), max_size=4).map(
        lambda parts: Intervention("set", "set", None, tuple(e for p in parts for e in p.edits))
    ),
    max_size=12,
)


def key(intervention: Intervention, until: int = N_LAYERS) -> tuple[object, ...]:
    """The edits before a layer, told apart by their very numbers."""
    return tuple(
        (layer, tuple((e, id(getattr(e, "value", None))) for e in edits))
        for layer, edits in by_layer(intervention).items()
        if layer < until
    )


def passes_by_definition(interventions) -> int:
    """A pass for each layer and different pass so far, but for those idle in the layer."""
    total = 0
    for layer in range(N_LAYERS):
        alive = {key(i, layer + 1): i for i in interventions}
        total += sum(not Branch(by_layer(i), 0, None, ()).idle(layer) for i in alive.values())
    return total


@given(sets)
def test_each_intervention_is_in_exactly_one_branch_with_its_own_edits(interventions):
    found = make_branches(interventions, N_LAYERS)
    members = [*found.intact, *(i for branch in found.branches for i in branch.members)]
    assert sorted(members) == list(range(len(interventions)))
    assert all(not interventions[i].edits for i in found.intact)
    assert len(found.branches) == len({key(i) for i in interventions if i.edits})
    for branch in found.branches:
        assert branch.members
        assert len({key(interventions[i]) for i in branch.members}) == 1
        # Not only equal: the very same values.
        expected = key(interventions[branch.members[0]])
        assert key(Intervention("", "", None, sum(branch.edits.values(), ()))) == expected


@given(sets)
def test_a_branch_leaves_where_its_edits_first_differ(interventions):
    found = make_branches(interventions, N_LAYERS)
    assert [b.first_layer for b in found.branches] == sorted(b.first_layer for b in found.branches)
    for number, branch in enumerate(found.branches):
        own = interventions[branch.members[0]]
        left = intact()
        if branch.parent is not None:
            assert branch.parent < number
            assert found.branches[branch.parent].first_layer < branch.first_layer
            left = interventions[found.branches[branch.parent].members[0]]
        else:
            assert branch.first_layer <= found.trunk_until
        assert key(own, branch.first_layer) == key(left, branch.first_layer)
        assert key(own, branch.first_layer + 1) != key(left, branch.first_layer + 1)


@given(sets)
def test_no_pass_is_made_twice_and_none_too_many(interventions):
    assert make_branches(interventions, N_LAYERS).block_passes() == passes_by_definition(
        interventions
    )


@pytest.mark.parametrize("n", [1, 2, 6, 30])
def test_passes_of_single_layers_are_a_triangle(n):
    singles = [skip(layer) for layer in range(n)]
    assert make_branches([intact(), *singles], n).block_passes() == n + n * (n - 1) // 2
    # Without intact the trunk ends where the last layer is skipped.
    assert make_branches(singles, n).block_passes() == n - 1 + n * (n - 1) // 2
    whole = make_branches(singles, n, whole_trunk=True)
    assert whole.block_passes() == n + n * (n - 1) // 2


def test_sets_of_a_greedy_removal_share_what_is_removed_already():
    """Layer 2 is gone; each other goes on top: below 2 each on its own, above it from its own."""
    tried = [skip_layers([2, layer]) for layer in (0, 1, 3, 4, 5)]
    # Trunk: layers 0, 1. {0, 2}: 1, 3, 4, 5. {1, 2}: 3, 4, 5. {2} alone: 3, 4.
    # {2, 3}: 4, 5. {2, 4}: 5 (and 3 with {2} alone). {2, 5}: none of its own.
    assert make_branches(tried, N_LAYERS).block_passes() == 2 + 4 + 3 + 2 + 2 + 1
    found = make_branches(tried, N_LAYERS)
    assert {b.members: (b.first_layer, b.parent) for b in found.branches} == {
        (0,): (0, None),
        (1,): (1, None),
        (4,): (2, None),  # stays longest, so that {2} alone is its branch
        (2,): (3, 2),
        (3,): (4, 2),
    }


def test_values_are_told_apart_by_their_numbers():
    one, other = (mean("attn_out", 1, torch.full((3,), float(i))) for i in range(2))
    assert one.edits == other.edits
    assert [b.members for b in make_branches([one, other, one], 3).branches] == [(0, 2), (1,)]


def test_a_layer_is_idle_if_nothing_of_it_is_left():
    edits = {1: (SkipLayer(1),), 2: zero("resid_post", 2).edits, 3: patch("resid_post", 3, 0).edits}
    branch = Branch(edits, 1, None, (0,))
    assert [branch.idle(layer) for layer in range(5)] == [False, True, True, False, False]
