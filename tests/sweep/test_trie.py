from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep.plans import trie as trie_module
from layerwise.sweep.plans.trie import Segment, TokenTrie, rectangles, restrict

sequences = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple), min_size=1, max_size=8
)


def pack(found, key=None) -> TokenTrie:
    trie = TokenTrie()
    for sequence in found:
        trie.add(sequence, key)
    return trie


@given(sequences)
def test_each_distinct_prefix_is_packed_once(found):
    trie = pack(found)
    prefixes = {s[: i + 1] for s in found for i in range(len(s))}
    assert len(trie) == len(prefixes)
    for sequence, path in zip(found, trie.paths, strict=True):
        assert tuple(trie.tokens[index] for index in path) == sequence
        assert [trie.positions[index] for index in path] == list(range(len(sequence)))


@given(sequences)
def test_segments_cover_each_token_once_and_see_exactly_their_prefix(found):
    trie = pack(found)
    prefix_of = {path[i]: path[: i + 1] for path in trie.paths for i in range(len(path))}
    segments = trie.segments()
    covered = [index for segment in segments for index in segment.queries]
    assert sorted(covered) == list(range(len(trie)))
    for segment in segments:
        assert segment.keys == prefix_of[segment.queries[-1]]
        assert segment.keys[-len(segment.queries) :] == segment.queries


@pytest.mark.parametrize("exact", [True, False])
@given(found=sequences)
def test_rectangles_let_each_token_see_its_prefix_and_nothing_else(found, exact):
    trie = pack(found)
    prefix_of = {path[i]: set(path[: i + 1]) for path in trie.paths for i in range(len(path))}
    seen: list[int] = []
    for rows in rectangles(trie.segments(), exact=exact):
        if exact:
            assert rows.valid.all()
        for row in range(len(rows.queries)):
            for query in range(rows.queries.shape[1]):
                assert rows.mask[row, query].any()
                if rows.valid[row, query]:
                    token = int(rows.queries[row, query])
                    keys = rows.keys[row][rows.mask[row, query]].tolist()
                    assert len(keys) == len(set(keys))
                    assert set(keys) == prefix_of[token]
                    seen.append(token)
    assert sorted(seen) == list(range(len(trie)))


def test_long_prompts_are_compared_at_once(monkeypatch):
    compared = []
    shared = trie_module.n_common_tokens
    monkeypatch.setattr(
        trie_module, "n_common_tokens", lambda *both: compared.append(both) or shared(*both)
    )
    prompt = tuple(range(5000))
    trie = pack([(*prompt, 0), (*prompt, 1, 2), (*prompt, 1, 3), prompt])
    assert (len(trie), len(trie.segments())) == (5004, 5)
    assert len(compared) <= 10


def test_restricted_segments_keep_what_each_query_sees():
    trie = pack([(1, 2, 3, 4), (1, 2, 5)])
    kept = restrict(trie.segments(), frozenset({1, 3, 4}))
    assert [(s.queries, s.keys, s.sees) for s in kept] == [
        ((1,), (0, 1), (2,)),
        ((4,), (0, 1, 4), (3,)),
        ((3,), (0, 1, 2, 3), (4,)),
    ]


def test_keys_that_no_kept_query_sees_are_left_out():
    """Behind a prompt stand its source's own tokens, which nothing that is kept may see."""
    segment = Segment((4, 5, 6), (0, 1, 4, 5, 6), (3, 4, 5), 1)
    (kept,) = restrict([segment], frozenset({4, 5}))
    assert kept == Segment((4, 5), (0, 1, 4, 5), (3, 4), 1)
    assert restrict([segment], frozenset({9})) == []
