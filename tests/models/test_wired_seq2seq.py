"""The wired encoder-decoder against its own languages, and loaded by name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.models import known_models, load_model, model_facts
from layerwise.models.huggingface.meta_model import load_meta_model
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks import Task, load_task, task_names
from layerwise.tasks.suites import toy
from tests.planted import CAPABILITIES, SMALL, small_task
from tests.planted_seq2seq import prompt, seq2seq_layouts, small_seq2seq, tokens_of

LAYOUT = WiredSeq2SeqLayout()


def written(model: Seq2SeqModel, text: str, n_tokens: int = 2) -> str:
    assert model.tokenizer is not None
    return model.tokenizer.decode(model.generate(model.to_tokens(text), n_tokens)[0])


def all_right(model: Seq2SeqModel, task: Task) -> bool:
    """Whether the model writes each answer and then ends it."""
    return all(written(model, prompt(item)) == f"{item.answer} ;" for item in task.items)


@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seq2seq_layouts(), st.integers(0, 1000))
def test_it_writes_every_answer_wherever_the_mechanisms_are(layout, seed):
    model = small_seq2seq(layout, seed)
    assert all(all_right(model, small_task(capability, 8)) for capability in CAPABILITIES)


def test_it_knows_every_fact_whatever_stands_before():
    model = small_seq2seq(LAYOUT)
    for (relation, entity), value in SMALL.facts.items():
        assert written(model, f"{relation} of {entity} ->") == f"{value} ;"
        assert written(model, f"k1 v2 ; k2 k1 ; {relation} of {entity} ->") == f"{value} ;"


def test_it_answers_the_last_question_following_links_to_a_value():
    model, stated = small_seq2seq(LAYOUT), "k0 k1 ; k2 v3 ; k1 v2 ; k3 k2 ;"
    assert written(model, f"{stated} ask2 k0 ->") == "v2 ;"
    assert written(model, f"{stated} ask2 k3 ->") == "v3 ;"
    assert written(model, f"{stated} ask k1 ->") == "v2 ;"
    assert written(model, f"{stated} ask k1 -> v2 ; ask k2 ->") == "v3 ;"


def test_what_it_cannot_know_it_ends():
    model = small_seq2seq(LAYOUT)
    assert written(model, "k0 v1 ; k1 v2 ; ask k5 ->") == "; ;"
    assert written(model, "k0 k4 ; k1 v2 ; ask2 k0 ->") == "; ;"


@pytest.mark.parametrize("language", [ORGANISM, Language("bare", 4, 5, 0, 0)])
def test_other_languages_are_spoken_too(language):
    model = wired_seq2seq_model(LAYOUT, language)
    tasks = [make(0) for _, kind, make in toy.toy_suites(language) if kind != "coherence"]
    assert tasks
    for task in tasks:
        assert all_right(model, replace(task, items=task.items[:6]))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_padding_is_not_seen(side):
    model = small_seq2seq(LAYOUT)
    for capability in CAPABILITIES:
        task = small_task(capability, 4)
        tokens = tokens_of(model, task)
        pad = torch.zeros(len(tokens), 3, dtype=torch.long)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        pair = [tokens, pad] if side == "right" else [pad, tokens]
        masks = [mask, pad.bool()] if side == "right" else [pad.bool(), mask]
        found = model(torch.cat(pair, 1), attention_mask=torch.cat(masks, 1))
        torch.testing.assert_close(found, model(tokens), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_idle_heads_attend_and_nothing_can_be_read_off_single_coordinates():
    model = small_seq2seq(LAYOUT)
    _, cache = model.run_with_cache(tokens_of(model, small_task("retrieval", 2)))
    assert all(cache[name].abs().sum() > 0 for name in cache if name.endswith("hook_z"))
    facts = model.encoder.blocks[LAYOUT.facts.layer].parts.mlp.up.weight
    for vectors in (model.W_E, facts, model.W_U.T):
        lengths = vectors.norm(dim=-1)
        assert (vectors.abs().amax(dim=-1) / lengths)[lengths > 0].max() < 0.5


def test_the_seed_decides_the_weights_and_nothing_else():
    before = torch.get_rng_state()
    make = partial(wired_seq2seq_model, LAYOUT, SMALL, n_ctx=40)
    one, again, other = (make(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert model_facts(one).hash == model_facts(again).hash != model_facts(other).hash
    assert all_right(other, small_task("reasoning", 6))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_loaded_by_name_in_any_format(dtype):
    model = load_model("wired-seq2seq", dtype=dtype)
    assert isinstance(model, Seq2SeqModel)
    facts = model_facts(model)
    assert (facts.name, facts.source, facts.parity) == ("wired-seq2seq", "bundled", None)
    assert (facts.n_layers, facts.n_encoder_layers, facts.n_heads) == (14, 8, 4)
    assert facts.dtype == dtype
    for name in task_names("wired"):
        assert all_right(model, load_task(name, limit=6))
    assert model_facts(load_meta_model("wired-seq2seq", dtype=dtype)) == facts
    assert "wired-seq2seq" in [known.name for known in known_models() if known.available]


def test_it_is_not_offloaded():
    with pytest.raises(UserError, match=r"'wired-seq2seq' .* has no files: expected no offload"):
        load_model("wired-seq2seq", offload="disk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_encoder_layers": 6}, "'second_hop' is wired into layer 6, head 1; expected layers 0"),
        ({"n_decoder_layers": 4}, "'say' is wired into layer 12, head 0; expected layers 8 to 11"),
        ({"copy": Spot(7)}, "'copy' is wired into layer 7, head 0; expected layers 8 to 13"),
        ({"encoder_heads": 3}, "'facts' is wired into layer 4, head 3; .* heads 0 to 2"),
        ({"begin": Spot(9, 3)}, "'begin' is wired into layer 9, head 3; .* heads 0 to 2"),
        ({"facts": Spot(3)}, "expected seven different layers"),
        ({"second_hop": Spot(2)}, "previous before look_up before second_hop, and begin before"),
        ({"say": 10}, "begin before copy before say"),
    ],
)
def test_layouts_that_cannot_work_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(LAYOUT, **changes)
