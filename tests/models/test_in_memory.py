"""A model of transformers that is in memory: the hooked model over its weights, or a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import layerwise as lw
from layerwise.models import from_transformers, load_model, model_facts, original_tokenizer
from layerwise.models.conversion.in_memory import VERIFIED
from tests.models.refusal import expect_refusal
from tests.models.seq2seq.tiny import tiny_folder as tiny_seq2seq_folder
from tests.models.tiny import TEXT, session_folder, tiny_folder, tiny_tokenizer

ASKED: dict[str, Any] = {"protocols": "continuation", "layers": [0], "progress": False}


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_folder(session_folder(), "qwen2")


@pytest.fixture
def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def task():
    rows = [{"q": f"the {n} door is", "o": ["red", "blue"], "a": n % 2} for n in range(8)]
    return lw.task_from(rows, question="q", choices="o", answer="a", fewshot=0)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "opt", "bloom", "mixtral"])
def test_a_decoder_says_what_it_said_and_has_the_hash_of_its_folder(family):
    folder = tiny_folder(session_folder(), family)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = from_transformers(plain)
    tokens = torch.arange(5, 45)[None]
    assert torch.allclose(model(tokens), plain(tokens).logits, atol=1e-4)
    facts, named = model_facts(model), load_model(folder, backend="hugging-face")
    assert facts.parity is not None
    assert facts.parity < 1e-4
    assert (facts.backend, facts.source, facts.verified) == ("hugging-face", "user", VERIFIED)
    assert facts.hash == model_facts(named).hash
    ids = original_tokenizer(named)(TEXT).input_ids
    assert original_tokenizer(model)(TEXT).input_ids == ids


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_an_encoder_decoder_goes_in_too(case):
    folder = tiny_seq2seq_folder(case)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model = from_transformers(plain)
    facts, named = model_facts(model), load_model(folder)
    assert facts.parity is not None
    assert facts.parity < 1e-4
    assert facts.hash == model_facts(named).hash
    prompt = [5, 17, 40]
    of_plain, of_named = (lw.lens_grid(one, prompt, token=7).table for one in (plain, named))
    pd.testing.assert_frame_equal(of_plain, of_named)


def test_every_function_takes_it_and_it_stays_as_it_was(plain, folder):
    before = {name: weight for name, weight in plain.named_parameters()}
    copies = {name: weight.clone() for name, weight in before.items()}
    by_name = load_model(folder, backend="hugging-face")
    ours, theirs = (lw.ablate(one, task(), **ASKED) for one in (plain, by_name))
    pd.testing.assert_frame_equal(ours.records, theirs.records)
    assert lw.LogitLens(plain).model is from_transformers(plain)
    values = lw.intervene(plain, [5, 6, 7], [lw.sweep.skip(1)], outcome=lambda row: row[7])
    again = lw.intervene(by_name, [5, 6, 7], [lw.sweep.skip(1)], outcome=lambda row: row[7])
    pd.testing.assert_frame_equal(values, again)
    for name, weight in plain.named_parameters():
        assert weight is before[name]
        assert weight.requires_grad
        assert torch.equal(weight, copies[name])
    shared = {weight.data_ptr() for weight in before.values()}
    assert {weight.data_ptr() for weight in from_transformers(plain).parameters()} <= shared


def test_trained_further_it_is_another_model(plain):
    model = from_transformers(plain)
    assert from_transformers(plain) is model
    before = model_facts(model).hash
    with torch.no_grad():
        plain.lm_head.weight.mul_(2.0)
    other = from_transformers(plain)
    assert other is not model
    assert model_facts(other).hash != before
    # The earlier one lies over the same memory, and says so.
    assert model_facts(model).hash == model_facts(other).hash
    tokens = torch.arange(5, 45)[None]
    assert torch.allclose(other(tokens), plain(tokens).logits, atol=1e-4)


def test_a_change_that_torch_does_not_count_is_in_the_hash():
    tied: Any = AutoModelForCausalLM.from_pretrained(tiny_folder(session_folder(), "gpt2"))
    assert tied.lm_head.weight is tied.transformer.wte.weight
    before = model_facts(from_transformers(tied)).hash
    tied.lm_head.weight.data.mul_(2.0)
    assert model_facts(from_transformers(tied)).hash != before


def test_a_tokenizer_that_is_nowhere_else_is_given(folder):
    config = AutoModelForCausalLM.from_pretrained(folder).config
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config).eval()
    with expect_refusal("has no tokenizer on this machine", "from_transformers(model, tokenizer)"):
        lw.LogitLens(plain)
    tokenizer = tiny_tokenizer()
    model = from_transformers(plain, tokenizer)
    assert model.tokenizer is tokenizer
    assert lw.LogitLens(plain).model is model  # known from now on
    with expect_refusal("has tokens that the model has no embedding for"):
        from_transformers(plain, tiny_tokenizer(vocab_size=400))


def test_what_is_not_its_class_any_more_is_refused(plain, folder):
    handle = plain.model.layers[1].register_forward_hook(lambda *given: given[-1] * 2)
    with expect_refusal("does not say what a Qwen2ForCausalLM with its weights says"):
        lw.LogitLens(plain)
    handle.remove()
    assert lw.LogitLens(plain).model.cfg.n_layers == 3
    plain.model.layers[0].mlp.up_proj = torch.nn.Sequential(plain.model.layers[0].mlp.up_proj)
    with expect_refusal("a changed Qwen2ForCausalLM, which has no"):
        lw.LogitLens(plain)
    plain.model.layers[0].mlp.up_proj = plain.model.layers[0].mlp.up_proj[0]
    assert lw.LogitLens(plain).model.cfg.n_layers == 3


def test_an_exchanged_module_that_says_the_same_is_refused(plain):
    lw.LogitLens(plain)
    own = plain.model.layers[1].mlp.act_fn

    class Mine(type(own)):
        pass

    plain.model.layers[1].mlp.act_fn = Mine()
    with expect_refusal(
        "which has the module Mine at 'model.layers.1.mlp.act_fn': expected the module SiLU"
    ):
        lw.LogitLens(plain)
    plain.model.layers[1].mlp.act_fn = own
    plain.model.layers[1].mlp.adapter = torch.nn.Identity()
    with expect_refusal(
        "has the module Identity at 'model.layers.1.mlp.adapter': expected no module"
    ):
        lw.LogitLens(plain)


def test_training_mode_no_weights_and_no_language_model_are_refused(plain, folder):
    plain.train()
    with expect_refusal("is in training mode", "call its eval() first"):
        lw.LogitLens(plain)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(plain.config).eval()
    with expect_refusal("has weights on the device 'meta'"):
        lw.LogitLens(empty)
    with expect_refusal("is a Qwen2Model, which gives no logits", "AutoModelForCausalLM"):
        lw.LogitLens(AutoModel.from_pretrained(folder))
    with expect_refusal("is of type Linear: expected a model of transformers"):
        from_transformers(torch.nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
