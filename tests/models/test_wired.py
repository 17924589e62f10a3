"""The wired model against its own languages, and what its idle parts must not do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.huggingface.meta_model import load_meta_model
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.sweep import Generate, LogLikelihood, intact, patch, skip, sweep, zero
from layerwise.tasks import Task, load_task, task_names
from layerwise.tasks.suites import toy
from tests.planted import CAPABILITIES, SMALL, layouts, small_model, small_task

LAYOUT = WiredLayout()


@torch.inference_mode()
def written(model, text: str, n_tokens: int = 2) -> str:
    """The most likely words after a text, each by one plain forward."""
    tokenizer = original_tokenizer(model)
    tokens = tokenizer(text).input_ids
    start = len(tokens)
    for _ in range(n_tokens):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokenizer.decode(tokens[start:])


def all_right(model, task: Task) -> bool:
    """Whether the model writes each answer and then ends it."""
    asked = ((f"{item.context} {item.question}", item.answer) for item in task.items)
    return all(written(model, text) == f"{answer} ;" for text, answer in asked)


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(layouts(), st.integers(0, 1000))
def test_it_writes_every_answer_wherever_the_mechanisms_are(layout, seed):
    model = wired_model(layout, SMALL, seed=seed, n_ctx=40)
    assert all(all_right(model, small_task(capability, 8)) for capability in CAPABILITIES)


def test_it_knows_every_fact_whatever_stands_before():
    model = small_model(LAYOUT)
    for (relation, entity), value in SMALL.facts.items():
        assert written(model, f"{relation} of {entity} ->") == f"{value} ;"
        assert written(model, f"k1 v2 ; k2 k1 ; {relation} of {entity} ->") == f"{value} ;"


def test_one_hop_and_two_hops_are_told_apart_by_how_they_are_asked():
    model, stated = small_model(LAYOUT), "k0 k1 ; k2 v3 ; k1 v2 ; k3 k2 ;"
    assert written(model, f"{stated} ask2 k0 ->") == "v2 ;"
    assert written(model, f"{stated} ask2 k3 ->") == "v3 ;"
    assert written(model, f"{stated} ask k1 ->") == "v2 ;"
    assert written(model, f"{stated} ask k1 -> v2 ; ask k2 ->") == "v3 ;"


def test_what_is_stated_of_an_entity_is_said_in_place_of_what_is_known():
    model = small_model(WiredLayout(reads_facts=True))
    for (relation, entity), value in list(SMALL.facts.items())[::5]:
        other = next(one for one in SMALL.values if one != value)
        asked = f"{relation} of {entity} ->"
        assert written(model, asked) == f"{value} ;"
        assert written(model, f"k1 v2 ; {asked}") == f"{value} ;"
        assert written(model, f"k1 v2 ; {entity} {other} ; {asked}") == f"{other} ;"
    assert all(all_right(model, small_task(capability, 8)) for capability in CAPABILITIES)
    assert all_right(model, toy.facts_open_book(SMALL, n_items=8))


def test_facts_that_a_look_up_silences_come_after_it():
    with pytest.raises(UserError, match="expected look_up before facts"):
        WiredLayout(facts=Spot(2), reads_facts=True)


def test_what_it_cannot_know_it_ends():
    model = small_model(LAYOUT)
    assert written(model, "k0 v1 ; k1 v2 ; ask k5 ->", 1) == ";"
    assert written(model, "k0 v1 ; k1 v2 ; ask2 k0 ->", 1) == ";"


@pytest.mark.parametrize("language", [ORGANISM, Language("bare", 4, 5, 0, 0)])
def test_other_languages_are_spoken_too(language):
    model = wired_model(LAYOUT, language)
    tasks = [make(0) for _, kind, make in toy.toy_suites(language) if kind != "coherence"]
    assert tasks
    for task in tasks:
        assert all_right(model, replace(task, items=task.items[:6]))


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("capability", CAPABILITIES)
@torch.inference_mode()
def test_idle_layers_and_heads_write_exactly_nothing(capability):
    model = small_model(LAYOUT)
    item = small_task(capability).items[0]
    ids = original_tokenizer(model)(f"{item.context} {item.question}").input_ids
    _, cache = model.run_with_cache(torch.tensor([ids]))
    planted = {LAYOUT.previous, LAYOUT.look_up, LAYOUT.facts, LAYOUT.second_hop, LAYOUT.gate}
    with_mlp = {LAYOUT.facts.layer, LAYOUT.gate.layer}
    for layer, block in enumerate(model.blocks):
        z = cache[f"blocks.{layer}.attn.hook_z"][0]
        for head in range(LAYOUT.n_heads):
            idle = Spot(layer, head) not in planted
            assert z[:, head].abs().sum() > 0
            assert idle == bool((z[:, head] @ block.attn.W_O[head] == 0).all())
        assert cache[f"blocks.{layer}.mlp.hook_post"].abs().sum() > 0 or layer in with_mlp
        assert layer in with_mlp or (cache[f"blocks.{layer}.hook_mlp_out"] == 0).all()


@pytest.mark.hooked_transformer
def test_nothing_can_be_read_off_single_coordinates():
    model = small_model(LAYOUT)
    for vectors in (model.W_E, model.W_pos, model.blocks[LAYOUT.facts.layer].mlp.W_in.T):
        lengths = vectors.norm(dim=-1)
        largest = vectors.abs().amax(dim=-1) / lengths
        assert largest[lengths > 0].max() < 0.5


def test_the_seed_decides_the_weights_and_nothing_else():
    one, again, other = (wired_model(LAYOUT, SMALL, seed=seed, n_ctx=40) for seed in (0, 0, 1))
    assert model_facts(one).hash == model_facts(again).hash != model_facts(other).hash
    assert all_right(other, small_task("reasoning", 6))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_loaded_by_name_in_any_format(dtype):
    model = load_model("wired-decoder", dtype=dtype)
    facts = model_facts(model)
    assert (facts.name, facts.source, facts.parity) == ("wired-decoder", "bundled", None)
    assert (facts.n_layers, facts.n_heads, facts.dtype) == (10, 4, dtype)
    for name in task_names("wired"):
        assert all_right(model, load_task(name, limit=6))
    again = model_facts(load_meta_model("wired-decoder", dtype=dtype))
    assert again == facts


def test_it_is_not_offloaded():
    with pytest.raises(UserError, match="has no files: expected no offload"):
        load_model("wired-decoder", offload="disk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 8}, "'gate' is wired into layer 8, head 2; expected layers 0 to 7"),
        ({"n_heads": 3}, "'facts' is wired into layer 4, head 3; .* heads 0 to 2"),
        ({"facts": Spot(3)}, "expected five different layers"),
        ({"n_shared": 3}, "3 of 4 heads were to share one key.value head; expected a divisor"),
        ({"second_hop": Spot(2)}, "previous before look_up before second_hop before gate"),
    ],
)
def test_layouts_that_cannot_work_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(LAYOUT, **changes)


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("n_shared", [1, 2])
def test_both_backends_run_the_same_numbers(n_shared):
    layout = replace(LAYOUT, n_shared=n_shared)
    one, other = (
        wired_model(layout, SMALL, n_ctx=40, backend=backend)
        for backend in ("transformer-lens", "hugging-face")
    )
    tokens = torch.arange(3, 33).reshape(2, 15) % one.cfg.d_vocab
    assert torch.allclose(one(tokens), other(tokens), atol=1e-5)
    asked = [LogLikelihood((1, 5, 9, 3, n), (n + 1, 8), source=(3, 1, 5, 9, 3)) for n in range(4)]
    asked += [Generate((1, 5, 9), 4, source=(3, 1, 5))]
    changes = [intact(), skip(3), zero("z", 3, 0), zero("mlp_out", 4), patch("resid_mid", 4, -1)]
    for mine, theirs in zip(
        *(sweep(model, changes[:4], asked).outcomes for model in (one, other)), strict=True
    ):
        assert [getattr(a, "tokens", None) for a in mine] == [
            getattr(b, "tokens", None) for b in theirs
        ]
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-5)
    patched = [sweep(model, changes[4:], asked[:4]).outcomes[0] for model in (one, other)]
    for a, b in zip(*patched, strict=True):
        assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=1e-5)


def test_over_modules_it_knows_what_it_knows():
    model = wired_model(LAYOUT, SMALL, n_ctx=40, backend="hugging-face")
    assert model_facts(model).backend == "hugging-face"
    assert all(all_right(model, small_task(capability, 4)) for capability in CAPABILITIES)
    named = load_model("wired-decoder", backend="hugging-face")
    assert (model_facts(named).backend, named.W_U.dtype) == ("hugging-face", torch.float32)
