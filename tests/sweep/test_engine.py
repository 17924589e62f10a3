from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    intact,
    last_residuals,
    mean,
    mean_activations,
    patch,
    plan_sweep,
    position_means,
    site_noise,
    skip,
    skip_layers,
    sweep,
    together,
    zero,
)
from layerwise.sweep.changes.edits import CROSS_SITES, SITES, source_position
from layerwise.sweep.packed.blocks import attention_in_use, unpackable_reason
from layerwise.sweep.run import model_shape

from ..cases import cases
from . import strategies
from .agreement import assert_agree, assert_reference
from .letters import Letters
from .models import D_HEAD, D_MODEL, KINDS, N_HEADS, N_LAYERS, PACKED, random_model
from .sizes import Sizes, sizes

kinds = pytest.mark.parametrize("kind", KINDS)
# Three property tests share the cases.
each_kind = cases(3 * len(KINDS))
louds = st.sampled_from([1.0, 0.01])  # with 0.01, drafts are confirmed
SINGLES = [intact(), *(skip(layer) for layer in range(N_LAYERS))]


def possible(model, intervention) -> bool:
    sites = [getattr(edit, "site", None) for edit in intervention.edits]
    if "resid_mid" in sites and (model.cfg.attn_only or model.cfg.parallel_attn_mlp):
        return False
    return not (model.cfg.attn_only and "mlp_out" in sites)


@kinds
@each_kind
@given(
    requests=strategies.requests(),
    interventions=strategies.interventions,
    sizes=sizes,
    end=st.sampled_from([None, 0, 2]),
    loud=louds,
)
def test_engine_equals_reference(kind, requests, interventions, sizes, end, loud):
    model = random_model(kind, loud)
    interventions = [i for i in interventions if possible(model, i)]
    fast = assert_reference(model, interventions, requests, sizes, tokenizer=Letters(end))
    planned = plan_sweep(interventions, requests, model_shape(model), sizes.budget)
    decoded = fast.stats.token_passes - planned.token_passes
    texts = any(isinstance(request, Generate) for request in requests)
    assert decoded >= 0 if texts else decoded == 0


@kinds
@each_kind
@given(requests=strategies.patch_requests(), interventions=strategies.patches, sizes=sizes)
def test_patches_equal_reference(kind, requests, interventions, sizes):
    model = random_model(kind)
    interventions = [i for i in interventions if possible(model, i)]
    fast = assert_reference(model, interventions, requests, sizes)
    planned = plan_sweep(interventions, requests, model_shape(model), sizes.budget)
    assert fast.stats.token_passes == planned.token_passes


@kinds
@each_kind
@given(requests=strategies.copy_requests(), interventions=strategies.copies, sizes=sizes)
def test_copies_equal_reference(kind, requests, interventions, sizes):
    """Resampling from other prompts, also while texts are decoded."""
    model = random_model(kind)
    interventions = [i for i in interventions if possible(model, i)]
    assert_reference(model, interventions, requests, sizes, tokenizer=Letters(None))


@pytest.mark.long(but=["llama-gqa"])
@pytest.mark.parametrize("kind", ["llama-gqa", "soft-caps"])
def test_all_sets_of_layers_equal_reference(kind):
    """Branches that leave branches, in every order of opening, also while texts are decoded."""
    model = random_model(kind)
    sets = [set_ for n in (1, 2, 3) for set_ in combinations(range(N_LAYERS), n)]
    changes = [*map(skip_layers, sets)]
    for first, *others in sets[N_LAYERS::3]:
        constants = (mean("mlp_out", layer, torch.ones(D_MODEL)) for layer in others)
        changes.append(strategies.combine_edits([zero("attn_out", first), *constants]))
    requests = [LogLikelihood((1, 2, 3), (4, 5)), Generate((1, 2, 3), 5), Generate((1, 2, 6), 5)]
    assert_reference(model, changes, requests, Sizes(beginning=1, tokens_at_once=9, capacity=7))


@pytest.mark.long
def test_one_context_with_several_sources_and_lengths():
    """Patches are relative to a context and its source, and some begin like others."""
    model = random_model("llama-gqa")
    requests = [
        LogLikelihood(context, continuation, source)
        for context, source in [
            ((1, 2, 3), (1, 9, 3)),
            ((1, 2, 3), (1, 7, 8)),
            ((1, 2, 3, 4), (1, 9, 3, 5)),
            ((1, 9, 3), (1, 2, 3)),
            # Rows attend together that have keys outside of what is carried and that have none.
            ((0, 0, 2), (2, 1, 1)),
            ((1, 0, 1, 2, 1, 1), (2, 1, 0, 2, 0, 2)),
        ]
        for continuation in [(4,), (4, 5, 6)]
    ]
    changes = [
        patch(site, layer, pos)
        for site in SITES
        if site != "z" and site not in CROSS_SITES
        for layer in (0, N_LAYERS - 1)
        for pos in (-1, -3)
    ]
    changes += [patch("z", layer, -2, head) for layer in (0, 2) for head in range(N_HEADS)]
    changes = [change for change in changes if possible(model, change)]
    changes.append(strategies.combine_edits([patch("z", 1, -1, 0), patch("z", 1, 1, 3), skip(2)]))
    assert_reference(model, changes, requests)


@kinds
def test_packed_attention_is_used_where_it_can_be(kind):
    model = random_model(kind)
    assert (unpackable_reason(model) is None) is (kind in PACKED)
    expected = "scaled_dot_product_attention" if kind in PACKED else "own block"
    assert expected in attention_in_use(model)


@pytest.mark.parametrize(
    ("kind", "site", "said"),
    [
        ("attention only", "mlp_out", "blocks have no MLP"),
        ("attention only", "resid_mid", "nothing is between attention and MLP"),
        ("neox", "resid_mid", "nothing is between attention and MLP"),
    ],
)
def test_sites_that_are_not_there_are_refused(kind, site, said):
    with pytest.raises(UserError, match=said):
        sweep(random_model(kind), [zero(site, 1)], [])


def test_work_is_measured_against_brute_force():
    model = random_model("llama-gqa")
    requests = [LogLikelihood((1, 2, 3, 4, i), (7,)) for i in range(8)]
    stats = sweep(model, SINGLES, requests).stats
    # The trunk, then for layer l skipped the layers above it: L + L(L-1)/2.
    assert stats.block_passes == N_LAYERS + N_LAYERS * (N_LAYERS - 1) // 2
    assert stats.brute_force_block_passes == N_LAYERS * len(SINGLES)
    # A shared prefix of 4 and 8 tokens after it; the last layer gives only these 8.
    assert stats.token_passes == (4 + 8) * 6 + 8 * 4
    assert stats.brute_force_token_passes == 8 * 5 * N_LAYERS * len(SINGLES)
    slow = sweep(model, SINGLES, requests, method="reference").stats
    assert slow.token_passes == slow.brute_force_token_passes


def test_many_texts_of_different_lengths_share_few_rows(monkeypatch):
    """Finished rows leave and waiting ones take their place without mixing up caches."""
    from layerwise.sweep.walk import engine_run

    model = random_model("llama-gqa")
    requests = [Generate(tuple(range(1, 3 + i)), 1 + (7 * i) % 9) for i in range(9)]
    slow = sweep(model, SINGLES, requests, method="reference")
    monkeypatch.setattr(engine_run, "row_capacity", lambda walk, requests, budget: 4)
    assert_agree(model, SINGLES, requests, sweep(model, SINGLES, requests), slow)


def test_hooks_left_on_the_model_are_refused():
    model = random_model("gpt2")
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda tensor, hook: tensor)]),
        pytest.raises(UserError, match="reset_hooks"),
    ):
        sweep(model, [intact()], [LogLikelihood((1, 2), (3,))])


@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "alibi"])
def test_means_and_residuals_equal_run_with_cache(kind):
    model = random_model(kind)
    contexts = [(1, 2, 3, 4), (1, 2, 5), (9, 8, 7, 6, 5)]
    caches = [model.run_with_cache(torch.tensor([context]))[1] for context in contexts]
    residuals = last_residuals(model, contexts)
    for index, cache in enumerate(caches):
        torch.testing.assert_close(
            residuals[0, index], cache["blocks.0.hook_resid_pre"][0, -1], atol=1e-5, rtol=1e-5
        )
        for layer in range(N_LAYERS):
            expected = cache[f"blocks.{layer}.hook_resid_post"][0, -1]
            torch.testing.assert_close(residuals[layer + 1, index], expected, atol=1e-4, rtol=1e-4)
    means = mean_activations(model, contexts, ["attn_out", "resid_post"])
    for site in ("attn_out", "resid_post"):
        # Position 1 of the second context repeats the first's: each distinct prefix counts once.
        name = f"blocks.2.hook_{site}"
        rows = torch.cat([caches[0][name][0, 1:], caches[1][name][0, 2:], caches[2][name][0, 1:]])
        torch.testing.assert_close(means[site, 2], rows.mean(0), atol=1e-4, rtol=1e-4)
    assert means["attn_out", 0].shape == (D_MODEL,)


@pytest.mark.parametrize("kind", ["llama-gqa", "alibi"])
def test_means_by_position_equal_run_with_cache(kind):
    model = random_model(kind)
    contexts = [(1, 2, 3, 4), (1, 2, 5), (9, 8, 7, 6, 5)]
    caches = [model.run_with_cache(torch.tensor([context]))[1] for context in contexts]
    pooled = mean_activations(model, contexts, ["z"])["z", 2]
    table = position_means(model, contexts, ["z"])["z", 2]
    assert table.shape == (4, N_HEADS, D_HEAD)
    first, second, third = (cache["blocks.2.attn.hook_z"][0] for cache in caches)
    # The first two contexts begin alike, and each distinct prefix counts once.
    torch.testing.assert_close(table[1], (first[1] + third[1]) / 2, atol=1e-4, rtol=1e-4)
    mean_third = (first[2] + second[2] + third[2]) / 3
    torch.testing.assert_close(table[2], mean_third, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(table[3], pooled)


def test_noise_has_the_covariance_of_its_site():
    model = random_model("llama-gqa")
    contexts = [tuple(range(start, start + 9)) for start in range(0, 40, 3)]
    draws = site_noise(model, contexts, ["mlp_out"], seed=1, n_draws=40_000)["mlp_out", 1]
    name = "blocks.1.hook_mlp_out"
    seen = [model.run_with_cache(torch.tensor([c]), names_filter=name)[1][name] for c in contexts]
    expected = torch.cat([x[0, 1:] for x in seen]).T.cov(correction=0)
    error = (draws.T.cov() - expected).abs().max() / expected.diagonal().mean()
    assert error < 0.1
    assert draws.mean(0).abs().max() < 0.05 * expected.diagonal().mean() ** 0.5 * 4
    again = site_noise(model, contexts, ["mlp_out"], seed=1, n_draws=8)["mlp_out", 1]
    other = site_noise(model, contexts, ["mlp_out"], seed=2, n_draws=8)["mlp_out", 1]
    assert torch.equal(
        again, site_noise(model, contexts, ["mlp_out"], seed=1, n_draws=8)["mlp_out", 1]
    )
    assert not torch.allclose(again, other)


@pytest.mark.parametrize(
    ("pos", "n_context", "n_source", "expected"),
    [
        (0, 4, 9, 0),  # the first stays the first
        (3, 4, 9, 8),  # the last takes the last
        (1, 4, 9, 6),
        (7, 4, 9, 8),  # behind the prompt: the last
        (1, 9, 4, 2),  # a shorter source begins again at its second token
        (5, 9, 4, 3),
        (6, 9, 4, 1),
        (2, 3, 1, 0),
    ],
)
def test_which_position_of_a_source_stands_for_which(pos, n_context, n_source, expected):
    assert source_position(pos, n_context, n_source) == expected


def test_changes_made_together():
    assert together([skip(3), skip(1)]) == skip_layers([1, 3])
    both = together([zero("z", 1, 0), zero("z", 2, 3)])
    assert (both.kind, both.site, both.layers) == ("zero", "z", (1, 2))
    assert together([skip(1), zero("z", 2, 3)]).site is None
    with pytest.raises(UserError, match="name at least one"):
        together([])
    with pytest.raises(UserError, match="heads can be told apart in site 'z' alone"):
        zero("attn_out", 1, 0)
    with pytest.raises(UserError, match="two or more tokens"):
        mean_activations(random_model("gpt2"), [(1,)], ["attn_out"])


def test_nothing_is_left_on_the_model():
    model = random_model("soft-caps")
    before = {name: p.clone() for name, p in model.named_parameters()}
    sweep(model, SINGLES, [Generate((1, 2), 3)])
    assert not any(point._forward_hooks for point in model.hook_dict.values())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
