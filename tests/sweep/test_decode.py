from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep import Generate, Generated, intact, mean, resample, skip, sweep, zero
from layerwise.sweep.decoding.decode import Decoder, Drafter, beginnings
from layerwise.sweep.decoding.decode_step import DecodedText, SharedPrefix
from layerwise.sweep.plans.trie import TokenTrie
from layerwise.sweep.requests import Stopper
from layerwise.sweep.walk.engine import SweepWork

from .agreement import assert_reference
from .models import N_LAYERS, random_model
from .sizes import Sizes

prompts = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple), min_size=1, max_size=6
)


def trie_paths(*sequences) -> list[tuple[int, ...]]:
    trie = TokenTrie()
    return [trie.paths[trie.add(sequence)] for sequence in sequences]


def test_prompts_share_what_they_have_in_common():
    paths = trie_paths((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3), (7, 8, 9))
    assert beginnings(paths, 3) == [*[SharedPrefix(0, 3)] * 3, None]
    assert beginnings(paths, 4) == [None] * 4


@given(prompts, st.integers(1, 4))
def test_a_beginning_is_a_run_of_each_of_its_prompts(sequences, shortest):
    paths = trie_paths(*sequences)
    found = beginnings(paths, shortest)
    for path, begin in zip(paths, found, strict=True):
        if begin is not None:
            assert begin.length >= shortest
            run = tuple(range(begin.start, begin.start + begin.length))
            assert path[: begin.length] == run
    # Those with one first token share one beginning or none.
    for path, begin in zip(paths, found, strict=True):
        assert {b for p, b in zip(paths, found, strict=True) if p[0] == path[0]} == {begin}


def test_confirmed_drafts_save_steps():
    """Text that repeats itself: several tokens a row and step, each checked by the model."""
    model = random_model("llama-gqa", loud=0.01)
    asked = [Generate((1, 2, 3), 40)]
    changes = [intact(), *(skip(layer) for layer in range(N_LAYERS))]
    with Sizes(room=1).in_use():
        one_by_one = sweep(model, changes, asked)
    with Sizes(room=64, capacity=1).in_use():
        drafted = sweep(model, changes, asked)
    assert drafted.outcomes == one_by_one.outcomes
    assert one_by_one.stats.row_passes == one_by_one.stats.new_tokens == 39 * len(changes)
    assert drafted.stats.new_tokens == 39 * len(changes)
    assert drafted.stats.row_passes < 0.5 * drafted.stats.new_tokens


def test_branches_share_the_layers_below_them_while_their_texts_agree():
    """Skipping the last layer leaves all others as they were, so that it adds no token-pass."""
    model = random_model("llama-gqa", loud=0.01)
    last = skip(N_LAYERS - 1)
    alone = sweep(model, [intact()], [Generate((1, 2, 3), 9)])
    both = sweep(model, [intact(), last], [Generate((1, 2, 3), 9)])
    assert both.outcomes[0] == both.outcomes[1]
    assert both.stats.token_passes == alone.stats.token_passes
    apart = sweep(model, [intact(), skip(0)], [Generate((1, 2, 3), 9)])
    assert apart.stats.token_passes > alone.stats.token_passes


@pytest.mark.parametrize("kind", ["llama-gqa"])
def test_texts_of_different_prompts_are_kept_apart_even_if_they_begin_alike(kind):
    model = random_model(kind)
    asked = [Generate((a, b, 3), 3) for a in range(6) for b in range(6)]
    with Sizes(capacity=len(asked)).in_use():
        (fast,) = sweep(model, [intact()], asked).outcomes
    (slow,) = sweep(model, [intact()], asked, method="reference").outcomes
    assert fast == slow
    texts = {text.tokens for text in slow if isinstance(text, Generated)}
    assert len({text[0] for text in texts}) < len({text[:2] for text in texts})


@pytest.mark.long
def test_a_branch_that_begins_inside_a_block_is_not_the_trunk_there():
    """Its keys in that layer are the trunk's, but what it writes is not, at new tokens neither."""
    model = random_model("llama-gqa")
    value = torch.ones(model.cfg.d_model)
    changes = [
        intact(),
        *(zero(site, layer) for site in ("attn_out", "mlp_out") for layer in range(N_LAYERS)),
        *(mean("mlp_out", layer, value) for layer in range(N_LAYERS)),
    ]
    asked = [Generate((a, b, 3), 3) for a in range(3) for b in range(4)]
    fast = assert_reference(model, changes, asked)
    # Some texts begin like the intact model's and part from it then.
    whole, *others = [[text.tokens for text in row] for row in fast.outcomes]
    pairs = [pair for other in others for pair in zip(whole, other, strict=True)]
    assert any(one[0] == other[0] and one != other for one, other in pairs)


@pytest.mark.parametrize(
    ("draft", "found", "taken"),
    [
        ((), (5,), (5,)),
        ((5, 7), (5, 7, 3), (5, 7, 3)),
        ((5, 7), (5, 8, 3), (5, 8)),
        ((6, 7), (5, 7, 3), (5,)),
        ((5, 9, 7), (5, 9, 7, 3), (5, 9)),
    ],
    ids=["no draft", "all confirmed", "second refused", "first refused", "ended within the draft"],
)
def test_a_draft_is_taken_over_as_far_as_it_is_confirmed_and_the_text_goes_on(draft, found, taken):
    decoder = Decoder.__new__(Decoder)
    decoder.walk = SimpleNamespace(work=SweepWork())
    decoder.stopper, decoder.drafter = Stopper(None, frozenset({9})), Drafter()
    job = DecodedText(None, 0, Generate((1,), 8), 1, [4])
    decoder._accept(job, draft, found)
    assert job.tokens == [4, *taken]
    assert decoder.walk.work.new_tokens == len(taken)


@pytest.mark.long(but=["resid_mid"])
@pytest.mark.parametrize("site", ["resid_mid", "z"])
def test_texts_under_copies_go_on_with_their_own_sources(site):
    model = random_model("llama-gqa")
    prompts = [(3, 7, 5, 9), (8, 2, 6), (11, 4, 10, 1, 5)]
    requests = [Generate(prompt, 8, (), prompts[i - 1][::-1]) for i, prompt in enumerate(prompts)]
    changes = [resample(site, layer, *((0,) if site == "z" else ())) for layer in range(N_LAYERS)]
    written = sweep(model, changes, requests).outcomes
    expected = sweep(model, changes, requests, method="reference").outcomes
    found, plain = ([[one.tokens for one in each] for each in side] for side in (written, expected))
    assert found == plain
    swapped = [Generate(one.context, 8, (), requests[0].source) for one in requests]
    assert plain != [[o.tokens for o in each] for each in sweep(model, changes, swapped).outcomes]
