"""The organisms that come with the package: held-out accuracy, hashes, and what is planted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache

import pytest

import layerwise as lw
from analyses.organism_training.plan import FORMS, N_LAYERS, PLANTED
from analyses.organism_training.record import accuracies
from layerwise.models import known_models, load_model, model_facts
from layerwise.models.files.cache import file_sha256
from layerwise.models.instance.facts import language_of
from layerwise.models.names import registry
from layerwise.models.names.registry import BUNDLED, PackagedModel, Registry
from layerwise.models.organisms import ORGANISM
from tests.models.claimed import assert_planted_are_claimed
from tests.models.refusal import refused

NAMES = [name for name in BUNDLED.names() if name.startswith("organism-decoder")]
# Weights are held by their hashes; by day one of the seeds is asked.
ASKED = [NAMES[0], *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[1:])]


@cache
def organism(name: str):
    return load_model(name)


def packaged(name: str) -> PackagedModel:
    model = BUNDLED.get(name)
    assert isinstance(model, PackagedModel)
    return model


def record(name: str) -> dict:
    return json.loads((packaged(name).folder / "training.json").read_text())


def test_three_seeds_come_with_the_package():
    assert NAMES == ["organism-decoder", "organism-decoder-1", "organism-decoder-2"]
    assert [record(name)["seed"] for name in NAMES] == [0, 1, 2]
    assert set(NAMES) <= {known.name for known in known_models() if known.available}


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_were_recorded(name):
    model = packaged(name)
    digest = file_sha256(model.folder / "model.safetensors")
    assert digest == model.weights_sha256 == record(name)["weights_sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_its_original_and_speaks_its_language(name):
    facts = model_facts(organism(name))
    assert (facts.name, facts.source, facts.n_layers) == (name, "bundled", N_LAYERS)
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert language_of(organism(name)) == "organism"
    assert facts.d_vocab == len(ORGANISM.words)


@pytest.mark.parametrize("name", ASKED)
def test_held_out_accuracy(name):
    measured = accuracies(organism(name), protocols=["generate"], n_items=100)
    assert {row["task"]: row["accuracy"] >= 0.98 for row in measured} == dict.fromkeys(
        lw.task_names("organism"), True
    )
    stored = [row for row in record(name)["accuracy"] if row["protocol"] == "generate"]
    assert len(stored) == 4
    assert all(row["accuracy"] >= 0.99 and row["n_items"] >= 360 for row in stored)


@pytest.mark.parametrize("name", ASKED)
def test_ablation_finds_the_planted_layers(name):
    """Skipping a planted layer costs much of what it carries, and another one next to nothing."""
    result = lw.ablate(organism(name), "all", "generate", limit=60, progress=False)
    assert_planted_are_claimed(result, PLANTED)
    effects = result.effects()
    assert set(effects["capability"]) == set(PLANTED)
    for row in effects.itertuples():
        planted = row.layer in PLANTED[row.capability]
        assert row.significant == planted, (row.capability, row.layer, row.acc)
        assert (row.share_lost > 0.25) == planted


@pytest.mark.parametrize("name", ASKED)
def test_the_lens_reads_the_answer_from_the_planted_layer_on(name):
    found = lw.logit_lens(organism(name), "all", "continuation", limit=60, progress=False).lens
    on_top = (found["rank"] == 0).groupby([found["capability"], found["layer"]]).mean()
    for form in FORMS:
        read = form.reads["answer"]
        for layer in range(N_LAYERS):
            share = on_top[form.capability, layer]
            assert share >= 0.95 if layer >= read else share < 0.5, (form.capability, layer, share)


def test_changed_weights_are_refused(monkeypatch, tmp_path):
    models = Registry()
    models.add(PackagedModel("organism-decoder", "changed", tmp_path, "0" * 64, "1" * 64))
    monkeypatch.setattr("layerwise.models.names.sources.BUNDLED", models)
    with refused("missing or changed", "0" * 64, "reinstall layerwise"):
        load_model("organism-decoder")
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with refused("missing or changed", "0" * 64):
        load_model("organism-decoder")
    assert [known.available for known in models.known()] == [True]


@pytest.mark.parametrize("name", ["organism-decoder-2", "organism-seq2seq"])
def test_each_file_of_an_organism_is_pinned(monkeypatch, tmp_path, name):
    folder, models = tmp_path / "copy", Registry()
    shutil.copytree(packaged(name).folder, folder)
    models.add(replace(packaged(name), folder=folder))
    monkeypatch.setattr("layerwise.models.names.sources.BUNDLED", models)
    facts = model_facts(load_model(name))
    assert facts.verified.startswith("files have the pinned SHA-256; log-probabilities compared")
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content.replace(b"1", b"2", 1))
        with refused("missing", "changed", "reinstall layerwise"):
            load_model(name)
        (folder / file).write_bytes(content)


def test_an_alias_is_taken_once():
    models = Registry()
    models.add(packaged("organism-decoder"))
    with pytest.raises(ValueError, match="already a bundled model 'organism-decoder'"):
        models.add(registry.BundledModel("organism-decoder", "", "", "", "", "", ""))


def test_a_text_task_is_refused_in_a_sentence():
    with refused("'facts' has words that the model does not know", "organism-lookup"):
        lw.ablate(organism("organism-decoder"), ["organism-lookup", "facts"], "generate", limit=2)
