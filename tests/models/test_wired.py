"""Wired models against their own languages, and what their idle parts must not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.models import known_models, load_model, model_facts, original_tokenizer
from layerwise.models.meta_model import load_meta_model
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks import Task, load_task, task_names
from layerwise.tasks.suites import toy
from tests.cases import in_long_runs
from tests.planted import CAPABILITIES, SMALL, layouts, small_model, small_task
from tests.planted_seq2seq import prompt, seq2seq_layouts, small_seq2seq


class WiredKind(NamedTuple):
    """A kind of wired model: its name, its usual layout, and how others are made and drawn."""

    name: str
    layout: Any
    make: Callable[..., Any]
    small: Callable[..., Any]
    layouts: Callable[[], st.SearchStrategy[Any]]


DECODER = WiredKind("wired-decoder", WiredLayout(), wired_model, small_model, layouts)
TWO_STACKS = WiredKind(
    "wired-seq2seq", WiredSeq2SeqLayout(), wired_seq2seq_model, small_seq2seq, seq2seq_layouts
)
LAYOUT = DECODER.layout
BARE = Language("bare", 4, 5, 0, 0)
both = pytest.mark.parametrize("kind", [DECODER, TWO_STACKS], ids=lambda kind: kind.name)


@torch.inference_mode()
def written_words(model: Any, *texts: str, n_tokens: int = 2) -> list[str]:
    """The most likely words after each text; those of one length go through the model together."""
    two_stacks = isinstance(model, Seq2SeqModel)
    tokenizer = model.tokenizer if two_stacks else original_tokenizer(model)
    ids = [tokenizer(text).input_ids for text in texts]
    found = dict.fromkeys(range(len(texts)), "")
    for length in set(map(len, ids)):
        places = [place for place, one in enumerate(ids) if len(one) == length]
        tokens = torch.tensor([ids[place] for place in places])
        if two_stacks:
            new = model.generate(tokens, n_tokens)
        else:
            for _ in range(n_tokens):
                tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
            new = tokens[:, length:]
        found |= zip(places, tokenizer.batch_decode(new), strict=True)
    return list(found.values())


def all_right(model: Any, task: Task) -> bool:
    """True if the model writes each answer and then ends it."""
    said = written_words(model, *map(prompt, task.items))
    return said == [f"{item.answer} ;" for item in task.items]


@both
@settings(max_examples=4, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.data(), st.integers(0, 1000))
def test_it_writes_every_answer_wherever_the_mechanisms_are(kind, data, seed):
    model = kind.small(data.draw(kind.layouts()), seed)
    assert all(all_right(model, small_task(capability, 8)) for capability in CAPABILITIES)


@both
def test_it_knows_every_fact_whatever_stands_before(kind):
    model = kind.small(kind.layout)
    known = [f"{value} ;" for value in SMALL.facts.values()]
    for before in ("", "k1 v2 ; k2 k1 ; "):
        asked = [f"{before}{relation} of {entity} ->" for relation, entity in SMALL.facts]
        assert written_words(model, *asked) == known


@both
def test_it_answers_the_last_question_in_one_hop_or_two_as_it_is_asked(kind):
    model, stated = kind.small(kind.layout), "k0 k1 ; k2 v3 ; k1 v2 ; k3 k2 ;"
    asked = ("ask2 k0 ->", "ask2 k3 ->", "ask k1 ->", "ask k1 -> v2 ; ask k2 ->")
    expected = ["v2 ;", "v3 ;", "v2 ;", "v3 ;"]
    assert written_words(model, *(f"{stated} {one}" for one in asked)) == expected


def test_what_is_stated_of_an_entity_is_said_in_place_of_what_is_known():
    model = small_model(WiredLayout(reads_facts=True))
    for (relation, entity), value in list(SMALL.facts.items())[::5]:
        other = next(one for one in SMALL.values if one != value)
        asked = f"{relation} of {entity} ->"
        texts = (asked, f"k1 v2 ; {asked}", f"k1 v2 ; {entity} {other} ; {asked}")
        assert written_words(model, *texts) == [f"{value} ;", f"{value} ;", f"{other} ;"]
    assert all(all_right(model, small_task(capability, 8)) for capability in CAPABILITIES)
    assert all_right(model, toy.facts_open_book(SMALL, n_items=8))


def test_facts_that_a_look_up_silences_come_after_it():
    with pytest.raises(UserError, match="expected look_up before facts"):
        WiredLayout(facts=Spot(2), reads_facts=True)


@pytest.mark.parametrize(
    ("kind", "two_hops", "ended"),
    [(DECODER, "k0 v1 ; k1 v2 ; ask2 k0 ->", ";"),
     (TWO_STACKS, "k0 k4 ; k1 v2 ; ask2 k0 ->", "; ;")],
)  # fmt: skip
def test_what_it_cannot_know_it_ends(kind, two_hops, ended):
    texts = ("k0 v1 ; k1 v2 ; ask k5 ->", two_hops)
    n_tokens = len(ended.split())
    assert written_words(kind.small(kind.layout), *texts, n_tokens=n_tokens) == [ended, ended]


@pytest.mark.parametrize(
    ("kind", "language"),
    [
        (DECODER, ORGANISM),
        *((kind, Language("bare", 4, 5, 0, 0)) for kind in (DECODER, TWO_STACKS)),
    ],
)
def test_other_languages_are_spoken_too(kind, language):
    model = kind.make(kind.layout, language)
    tasks = [make(0) for _, of, make in toy.toy_suites(language) if of != "coherence"]
    assert tasks
    for task in tasks:
        assert all_right(model, replace(task, items=task.items[:6]))


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("capability", CAPABILITIES)
@torch.inference_mode()
def test_idle_layers_and_heads_write_exactly_nothing(capability):
    model = small_model(LAYOUT)
    item = small_task(capability).items[0]
    ids = original_tokenizer(model)(prompt(item)).input_ids
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


@both
def test_the_seed_decides_the_weights_and_nothing_else(kind):
    before = torch.get_rng_state()
    make = partial(kind.make, kind.layout, SMALL, n_ctx=40)
    one, again, other = (make(seed=seed) for seed in (0, 0, 1))
    # TransformerLens draws weights of its own before these take their place.
    assert kind is DECODER or torch.equal(torch.get_rng_state(), before)
    assert model_facts(one).hash == model_facts(again).hash != model_facts(other).hash
    assert all_right(other, small_task("reasoning", 6))


DECODER_SIZES, TWO_STACK_SIZES = ("wired-decoder", (10, 0, 4)), ("wired-seq2seq", (14, 8, 4))


@pytest.mark.parametrize(
    ("name", "sizes", "dtype"),
    [
        (*DECODER_SIZES, "float32"), (*TWO_STACK_SIZES, "float16"),
        *in_long_runs((*DECODER_SIZES, "float16"), (*TWO_STACK_SIZES, "float32")),
    ],
)  # fmt: skip
def test_it_is_loaded_by_name_in_any_format(name, sizes, dtype):
    model = load_model(name, dtype=dtype)
    facts = model_facts(model)
    assert (facts.name, facts.source, facts.parity) == (name, "bundled", None)
    assert (facts.n_layers, facts.n_encoder_layers, facts.n_heads) == sizes
    assert facts.dtype == dtype
    for task in task_names("wired"):
        assert all_right(model, load_task(task, limit=6))
    assert model_facts(load_meta_model(name, dtype=dtype)) == facts
    assert name in [known.name for known in known_models() if known.available]


@pytest.mark.parametrize("name", ["wired-decoder", "wired-seq2seq"])
def test_it_is_not_offloaded(name):
    with pytest.raises(UserError, match=f"'{name}' .* has no files: expected no offload"):
        load_model(name, offload="disk")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (DECODER, {"n_heads": 3}, "'facts' is wired into layer 4, head 3; .* heads 0 to 2"),
        (DECODER, {"facts": Spot(3)}, "expected five different layers"),
        (DECODER, {"n_shared": 3}, "3 of 4 heads were to share one key.value head; expected a"),
        (DECODER, {"second_hop": Spot(2)}, "previous before look_up before second_hop before gate"),
        (TWO_STACKS, {"n_encoder_layers": 6}, "'second_hop' is wired into layer 6, head 1; exp"),
        (TWO_STACKS, {"copy": Spot(7)}, "'copy' is wired into layer 7, head 0; .* layers 8 to 13"),
        (TWO_STACKS, {"begin": Spot(9, 3)}, "'begin' is wired into layer 9, head 3; .* heads 0 to"),
        (TWO_STACKS, {"facts": Spot(3)}, "expected seven different layers"),
        (TWO_STACKS, {"second_hop": Spot(2)}, "previous before look_up before second_hop, and beg"),
        (TWO_STACKS, {"say": 10}, "begin before copy before say"),
    ],
)
def test_layouts_that_cannot_work_are_refused(kind, changes, message):
    with pytest.raises(UserError, match=message):
        replace(kind.layout, **changes)


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
