from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.sweep.decoding.decode_step import _by_source
from layerwise.sweep.packed.attention import ScoreModifiers, attend_step
from layerwise.sweep.packed.layout import KeptKeysValues, SharedKeys, StepLayout

D_HEAD, N_KV, ROOM, N_SLOTS = 4, 2, 6, 7


def plain(queries, keys, values, scale):
    """Softmax attention of one query head to some keys."""
    return torch.softmax(queries @ keys.T * scale, dim=-1) @ values


@pytest.mark.parametrize("group", [1, 3])
@settings(deadline=None)
@given(
    slots=st.lists(st.integers(0, N_SLOTS - 1), min_size=1, max_size=5, unique=True),
    n_new=st.integers(1, 3),
    beginnings=st.lists(st.integers(1, 5), max_size=2),
    seed=st.integers(0, 1000),
    as_view=st.booleans(),
)
def test_attention_equals_plain_softmax(group, slots, n_new, beginnings, seed, as_view):
    """Each query against its row's own keys up to itself and, if it has one, its beginning."""
    generator = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)
    n_rows, scale = len(slots), 0.7

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    slots = sorted(slots) if as_view else slots
    span = slice(min(slots), max(slots) + 1) if as_view else None
    own = KeptKeysValues(random(N_SLOTS, N_KV, ROOM, D_HEAD), random(N_SLOTS, N_KV, ROOM, D_HEAD))
    index = draw.integers(0, ROOM - n_new + 1, n_rows)[:, None] + np.arange(n_new)
    # Each row attends to one beginning or none, as one of its sources.
    begins = draw.integers(-1, len(beginnings), n_rows)
    sources = draw.integers(0, 3, n_rows)
    shared = []
    for number, length in enumerate(beginnings):
        members = np.flatnonzero(begins == number)
        if len(members):
            table, place = _by_source(members, sources[members], 3)
            kept = [random(3, N_KV, length, D_HEAD) for _ in range(2)]
            at = [torch.from_numpy(x) for x in (table, place, members)]
            shared.append((number, SharedKeys(*kept, *at)))
    layout = StepLayout(
        positions=torch.from_numpy(index),
        longest=ROOM,
        index=torch.from_numpy(index),
        n_own=int(index.max()) + 1,
        slots=torch.tensor(slots),
        span=span,
        own=own,
        shared=tuple(keys for _, keys in shared),
    )
    queries = random(n_rows, n_new, N_KV * group, D_HEAD)
    found = attend_step(queries, layout, group, ScoreModifiers(scale))
    assert found.shape == queries.shape
    of = dict(shared)
    for row, new, head in np.ndindex(*found.shape[:3]):
        kv = head // group
        seen = slice(0, int(index[row, new]) + 1)
        keys, values = own.keys[slots[row], kv, seen], own.values[slots[row], kv, seen]
        if begins[row] in of:
            begun = of[begins[row]]
            keys = torch.cat([begun.keys[sources[row], kv], keys])
            values = torch.cat([begun.values[sources[row], kv], values])
        expected = plain(queries[row, new, head], keys, values, scale)
        torch.testing.assert_close(found[row, new, head], expected, atol=1e-5, rtol=1e-5)


def test_large_scores_do_not_overflow():
    own = KeptKeysValues(torch.full((1, 1, 2, 4), 10.0), torch.ones(1, 1, 2, 4))
    kept = torch.full((1, 1, 3, 4), 10.0)
    zero = torch.zeros(1, 1, dtype=torch.long)
    shared = SharedKeys(kept, kept, zero, zero[0], zero[0])
    layout = StepLayout(zero, 2, zero + 1, 2, zero[0], None, own, (shared,))
    out = attend_step(torch.full((1, 1, 1, 4), 10.0), layout, 1, ScoreModifiers(1.0))
    # Equal scores of 400, which nobody can exponentiate: three values of 10 and two of 1.
    torch.testing.assert_close(out, torch.full((1, 1, 1, 4), 6.4), atol=1e-3, rtol=0)
