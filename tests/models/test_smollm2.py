"""The bundled model with its real weights."""

from __future__ import annotations

import pytest
import torch

from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.conversion import parity
from layerwise.models.names import gguf_files
from tests.models.real import smollm2

pytestmark = pytest.mark.smollm2


@pytest.fixture(scope="module")
def model():
    return smollm2()


def test_facts(model):
    facts = model_facts(model)
    assert (facts.name, facts.source) == ("smollm2-135m", "bundled")
    assert (facts.n_layers, facts.n_heads, facts.n_key_value_heads) == (30, 9, 3)
    assert (facts.d_model, facts.d_vocab, facts.n_ctx) == (576, 49152, 8192)
    assert facts.n_parameters == 134_515_008
    assert facts.parity < 1e-3


def test_it_knows_a_capital(model):
    tokenizer = original_tokenizer(model)
    ids = tokenizer("The capital of Italy is Rome. The capital of France is").input_ids
    assert ids[0] != tokenizer.bos_token_id
    with torch.inference_mode():
        best = model(torch.tensor([ids]))[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"


# Of small models test_parity and test_gguf hold it by day.
@pytest.mark.long
def test_loading_again_neither_converts_nor_checks(model, monkeypatch):
    def fail(*_):
        raise AssertionError("done again")

    monkeypatch.setattr(gguf_files, "_convert", fail)
    monkeypatch.setattr(parity, "largest_difference", fail)
    assert model_facts(load_model()) == model_facts(model)
