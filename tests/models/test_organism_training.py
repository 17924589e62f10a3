"""Training of the decoder: its start, which layers run, and that a little of it already helps.

What is common to the training of all organisms is tested here too.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import torch

from analyses.organism_training import train, training_loop
from analyses.organism_training.initialization import new_organism
from analyses.organism_training.plan import FORMS, N_LAYERS, PLANTED
from analyses.organism_training.texts import Texts
from analyses.organism_training.training_forms import FEWEST_PAIRS, MOST_PAIRS
from layerwise.models import load_model, model_facts
from layerwise.models.files.cache import file_sha256
from layerwise.models.instance.facts import language_of
from layerwise.models.organisms import ORGANISM, Language

SMALL = Language("small", 16, 8, 6, 2, 4, test_share=8)
KNOWLEDGE = next(form for form in FORMS if form.capability == "knowledge")


def batch(seed: int = 0):
    texts = Texts(SMALL, np.random.default_rng(seed))
    return train.batch_of(SMALL, KNOWLEDGE.draw(texts, 4))


def test_needed_layers_run_and_others_are_skipped(monkeypatch):
    model, (tokens, _) = new_organism(SMALL, 0), batch()
    monkeypatch.setattr(training_loop, "ALONE", 1.0)
    with torch.inference_mode():
        stream = [
            resid for _, resid in train._through(model, KNOWLEDGE, tokens, np.random.default_rng(0))
        ]
        start = model.model.embed_tokens(tokens)
    changed = [not torch.equal(a, b) for a, b in zip([start, *stream], stream, strict=False)]
    assert [layer for layer, moved in enumerate(changed) if moved] == list(PLANTED["knowledge"])
    monkeypatch.setattr(training_loop, "ALONE", 0.0)
    monkeypatch.setattr(training_loop, "SKIPPED", 0.0)
    with torch.inference_mode():
        *_, (_, last) = train._through(model, KNOWLEDGE, tokens, np.random.default_rng(0))
        whole = model.model(tokens).last_hidden_state
    torch.testing.assert_close(model.model.norm(last), whole)


def test_a_short_training_lowers_the_loss_and_is_the_same_again(monkeypatch):
    monkeypatch.setattr(training_loop, "TOLD_EVERY", 4)
    monkeypatch.setattr(training_loop, "WARM_UP", 1)
    model, curve = train.train(0, language=SMALL, steps=8, progress=False)
    again, _ = train.train(0, language=SMALL, steps=8, progress=False)
    tokens, targets = batch(1)

    def loss(one) -> float:
        with torch.inference_mode():
            return train._loss(one, KNOWLEDGE, tokens, targets, np.random.default_rng(0))[0].item()

    assert loss(model.float()) < loss(new_organism(SMALL, 0)) - 0.5
    for name, weight in again.named_parameters():
        assert torch.equal(weight.float(), model.get_parameter(name).float())
    assert set(curve["step"]) == {4, 8}
    assert set(curve["capability"]) == set(PLANTED)
    assert curve["right"].between(0, 1).all()


def test_contexts_grow_when_look_ups_are_mostly_right():
    taken = training_loop.TrainingState()
    form = next(form for form in FORMS if form.capability == "retrieval")
    for step in range(100):
        taken.learned(step, form, {"answer": 0.8})
    assert taken.most_pairs == FEWEST_PAIRS
    sizes = []
    for step in range(100, 400):
        taken.learned(step, form, {"answer": 1.0})
        sizes.append(taken.most_pairs)
    assert sorted(set(sizes)) == list(range(FEWEST_PAIRS, MOST_PAIRS + 1))
    assert min(sizes.count(size) for size in range(5, MOST_PAIRS)) == training_loop._AT_LEAST


def test_the_command_writes_a_model_that_loads(tmp_path):
    out = tmp_path / "organism"
    train.main(["--seed", "3", "--steps", "1", "--items", "4", "--out", str(out)])
    record = json.loads((out / "training.json").read_text())
    model = load_model(out)
    facts = model_facts(model)
    assert (facts.n_layers, facts.d_vocab) == (N_LAYERS, len(ORGANISM.words))
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert language_of(model) == "organism"
    assert (record["seed"], record["steps"]) == (3, 1)
    assert record["weights_sha256"] == file_sha256(out / "model.safetensors")
    assert len(record["accuracy"]) == 4 * 3
    assert {row["n_items"] for row in record["accuracy"]} == {4}
    assert set(pd.read_csv(out / "curve.csv")["step"]) == {1}
