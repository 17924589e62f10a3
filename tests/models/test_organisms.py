"""The organisms that come with the package: held-out accuracy, hashes, and what is planted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import layerwise as lw
from analyses.organism_training import plan as decoder
from analyses.organism_training.letters.plan import PLANS
from analyses.organism_training.record import accuracies
from analyses.organism_training.seq2seq import evaluation
from analyses.organism_training.seq2seq import plan as seq2seq
from layerwise.models import known_models, load_model, model_facts
from layerwise.models.files.cache import file_sha256
from layerwise.models.instance.facts import original_tokenizer, tokenizer_language
from layerwise.models.names.registry import BUNDLED, ORGANISM_WEIGHTS, PackagedModel
from layerwise.models.organisms import LETTERS, ORGANISM
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.presentation.claim import APART, GAINED, GENERAL, NEEDED, SPARED
from layerwise.presentation.wording import CAPABILITY_ORDER, in_order
from layerwise.report.html import findings
from layerwise.results import AblationResult
from layerwise.tasks import PROTOCOLS, Task
from layerwise.tasks.suites.toy import toy_suites
from tests.cases import few_by_day, in_long_runs
from tests.models.refusal import expect_refusal

NAMES = [name for name in BUNDLED if name.startswith("organism")]
LETTERED = [name for name in NAMES if name.startswith("organism-letters")]
SEEDS = [name for name in NAMES if name not in LETTERED]
# Weights are held by their hashes; by day one of the seeds is asked.
ASKED = [pytest.param(name, marks=pytest.mark.long if name[-1].isdigit() else []) for name in SEEDS]
STUDY = Path(__file__).parents[2] / "analyses" / "organism" / "results" / "letters.csv"
CAPABILITIES = ("knowledge", "retrieval")
N_ENCODER = seq2seq.N_ENCODER
TOKENIZER = toy_tokenizer(ORGANISM, first=None)


@cache
def organism(name: str) -> Any:
    return load_model(name)


@cache
def original(name: str) -> Any:
    return evaluation.read_organism(ORGANISM_WEIGHTS / name)


def organism_plan(name: str) -> Any:
    return seq2seq if "seq2seq" in name else decoder


def packaged_model(name: str) -> PackagedModel:
    model = BUNDLED.get(name)
    assert isinstance(model, PackagedModel)
    return model


def record(name: str) -> dict:
    return json.loads((packaged_model(name).folder / "training.json").read_text())


def tasks(n_items: int) -> dict[str, Task]:
    return {kind: make(7, n_items=n_items) for _, kind, make in toy_suites(ORGANISM)}


def prompts(task: Task) -> list[str]:
    return [" ".join(filter(None, (item.context, item.question))) for item in task.items]


def share_right(name: str, task: Task) -> float:
    answers = evaluation.answers_generated(original(name), TOKENIZER, task)
    return sum(answers) / len(answers)


def assert_claims_match_plan(result: AblationResult, planted: dict[str, Any]) -> None:
    """Each capability needs its planted layers, they cross with all others', and no others do."""
    claims = findings([result])
    named = [(c.capabilities[0], tuple(c.layers)) for c in claims if c.kind == NEEDED]
    assert sorted(named) == sorted((name, tuple(layers)) for name, layers in planted.items())
    apart = {c.capabilities: set(c.layers) for c in claims if c.kind == APART}
    pairs = combinations(in_order(planted, CAPABILITY_ORDER), 2)
    own = {
        pair: [set(planted[a]) - set(planted[b]) for a, b in (pair, pair[::-1])] for pair in pairs
    }
    assert apart == {pair: one | other for pair, (one, other) in own.items() if one and other}
    assert not {claim.kind for claim in claims} & {GENERAL, SPARED, GAINED}


def test_three_seeds_and_one_of_each_kind_of_letters_come_with_the_package():
    for kind in ("decoder", "seq2seq"):
        names = [f"organism-{kind}{end}" for end in ("", "-1", "-2")]
        assert [record(name)["seed"] for name in names] == [0, 1, 2]
        assert set(names) <= set(NAMES)
    assert set(LETTERED) == set(PLANS)
    assert set(NAMES) <= {known.name for known in known_models() if known.available}


@pytest.mark.long(but=["organism-decoder", "organism-seq2seq", "organism-letters-seq2seq"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_were_recorded_and_it_is_its_original(name):
    model = packaged_model(name)
    digest = file_sha256(model.folder / "model.safetensors")
    assert digest == model.weights_sha256 == record(name)["weights_sha256"]
    facts, language = model_facts(organism(name)), LETTERS if name in LETTERED else ORGANISM
    n_layers = PLANS[name].n_layers if name in LETTERED else organism_plan(name).N_LAYERS
    assert (facts.name, facts.source, facts.n_layers) == (name, "bundled", n_layers)
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert tokenizer_language(original_tokenizer(organism(name))) == language.name
    assert facts.d_vocab == len(language.words)


@pytest.mark.long(but=["organism-decoder"])
@pytest.mark.parametrize(
    "name", [*ASKED, *LETTERED[:1], *in_long_runs(*((name,) for name in LETTERED[1:]))]
)
def test_held_out_accuracy(name):
    language, stored = (LETTERS, "letters") if name in LETTERED else (ORGANISM, "organism")
    suites = lw.task_names(stored)
    if "seq2seq" in name and name not in LETTERED:
        assert all(share_right(name, task) >= 0.98 for task in tasks(100).values())
        kept = record(name)["accuracy"]
    else:
        protocols = list(PROTOCOLS) if name in LETTERED else ["generate"]
        n_items = 60 if name in LETTERED else 100
        measured = accuracies(organism(name), language, protocols=protocols, n_items=n_items)
        assert {(row["task"], row["protocol"]) for row in measured} == set(
            product(suites, protocols)
        )
        least = 0.9 if name in LETTERED else 0.98
        assert all(row["accuracy"] >= least for row in measured)
        kept = [row for row in record(name)["accuracy"] if row["protocol"] in protocols]
        assert len(kept) == len(measured)
    assert {row["task"] for row in kept} == set(suites)
    least = 0.95 if name in LETTERED else 0.99
    assert all(row["accuracy"] >= least and row["n_items"] >= 360 for row in kept)


@pytest.mark.parametrize("name", few_by_day(SEEDS, "organism-decoder"))
def test_ablation_finds_the_planted_layers(name):
    """Skipping a planted layer costs much of what it carries, and another one next to nothing."""
    planted = organism_plan(name).PLANTED
    result = lw.ablate(organism(name), "all", "generate", limit=40, progress=False)
    assert_claims_match_plan(result, planted)
    effects = result.effects()
    assert set(effects["capability"]) == set(planted)
    for row in effects.itertuples():
        needed = row.layer in planted[row.capability]
        assert row.significant == needed, (row.capability, row.layer, row.acc)
        assert (row.share_lost > 0.25) == needed
    if name != "organism-seq2seq":
        return
    # The same by Hugging Face without a block.
    suites = {kind: lw.load_task(suite) for suite, kind, _ in toy_suites(ORGANISM)}
    first = {kind: replace(task, items=task.items[:40]) for kind, task in suites.items()}
    accuracy = effects.set_index(["capability", "layer"])["acc"]
    for layer in range(seq2seq.N_LAYERS):
        with evaluation.without_layer(original(name), layer):
            for kind, task in first.items():
                assert share_right(name, task) == pytest.approx(accuracy[kind, layer])


@pytest.mark.long
@pytest.mark.parametrize("name", [one for one in ASKED if "decoder" in str(one.values[0])])
def test_the_lens_reads_the_answer_from_the_planted_layer_on(name):
    lens = lw.logit_lens(organism(name), "all", "continuation", limit=30, progress=False).lens
    on_top = (lens["rank"] == 0).groupby([lens["capability"], lens["layer"]]).mean()
    for form, layer in product(decoder.FORMS, range(decoder.N_LAYERS)):
        share, known = on_top[form.capability, layer], layer >= form.reads["answer"]
        assert share >= 0.95 if known else share < 0.5, (form.capability, layer, share)


@pytest.mark.long(but=["organism-seq2seq"])
@pytest.mark.parametrize("name", [name for name in SEEDS if "seq2seq" in name])
@torch.inference_mode()
def test_the_encoder_has_the_answer_from_the_planted_layer_on(name):
    """At its last word, through its own norm and the unembedding; not before."""
    model = original(name)
    for form in (form for form in seq2seq.FORMS if "encoded" in form.reads):
        task = tasks(60)[form.capability]
        answers = torch.tensor([ORGANISM.words.index(item.answer) for item in task.items])
        inputs = TOKENIZER(prompts(task), return_tensors="pt")
        states = model.encoder(**inputs, output_hidden_states=True).hidden_states
        # The last of these has been through the norm already.
        for layer, resid in enumerate(states[1:]):
            seen = resid[:, -1]
            seen = seen if layer == N_ENCODER - 1 else model.encoder.final_layer_norm(seen)
            right = (model.lm_head(seen).argmax(-1) == answers).float().mean().item()
            known = layer >= form.reads["encoded"]
            assert right >= 0.95 if known else right < 0.5, (form.capability, layer, right)


def test_the_saved_study_of_letters_found_exactly_what_was_planted():
    found = pd.read_csv(STUDY)
    assert set(found["model"]) == set(LETTERED)
    assert (found["significant"] == found["planted"]).all()
    cells = found.groupby(["model", "seed", "capability", "protocol"])
    assert set(cells.size()) == {8}
    assert set(found["seed"]) == {0, 1, 2}
    assert len(cells) == 3 * len(LETTERED) * len(CAPABILITIES) * len(PROTOCOLS)
    for (name, _, capability, protocol), rows in cells:
        planted = rows.loc[rows["planted"], "layer"]
        assert tuple(planted) == PLANS[name].needed_layers(capability, protocol)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "organism-letters-other" else [
            pytest.mark.long]) for name in LETTERED
    ],
)  # fmt: skip
def test_ablation_finds_the_planted_layers_by_protocol(name):
    """Skipping a planted layer costs a third or more, another one next to nothing.

    Only the other kind has layers that text alone needs; in the one, they are among those for
    letters.
    """
    effects = lw.ablate(
        organism(name), "all", ["letter", "generate"], limit=40, progress=False
    ).effects()
    for row in effects.itertuples():
        planted = row.layer in PLANS[name].needed_layers(row.capability, row.protocol)
        assert row.significant == planted, (row.capability, row.protocol, row.layer, row.acc)
        assert (row.acc <= 0.65) if planted else (row.acc >= 0.9)
    needed = {
        key: set(rows.loc[rows["significant"], "layer"])
        for key, rows in effects.groupby(["capability", "protocol"])
    }
    for capability in CAPABILITIES:
        for_letters, for_text = needed[capability, "letter"], needed[capability, "generate"]
        assert for_letters - for_text
        assert bool(for_text - for_letters) == ("other" in name)


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_tells_what_one_way_of_answering_needs_alone(name):
    plan, recorded = PLANS[name], record(name)["planted_layers"]
    for capability, protocol in product(CAPABILITIES, PROTOCOLS):
        assert tuple(recorded[protocol][capability]) == plan.needed_layers(capability, protocol)
    for capability in CAPABILITIES:
        own = {*plan.binds, plan.says_letter} - {plan.says_text}
        assert set(plan.specific_layers("letter", capability)) == own
        alone = (plan.says_text,) if plan.says_letter != plan.says_text else ()
        assert plan.specific_layers("generate", capability) == alone


@pytest.mark.parametrize("name", ["organism-decoder-2", "organism-seq2seq"])
def test_each_file_of_an_organism_is_pinned(monkeypatch, tmp_path, name):
    folder = tmp_path / "copy"
    shutil.copytree(packaged_model(name).folder, folder)
    models = {name: replace(packaged_model(name), folder=folder)}
    monkeypatch.setattr("layerwise.models.names.sources.BUNDLED", models)
    facts = model_facts(load_model(name))
    assert facts.verified.startswith("files have the pinned SHA-256; log-probabilities compared")
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content.replace(b"1", b"2", 1))
        with expect_refusal("missing", "changed", "reinstall layerwise"):
            load_model(name)
        (folder / file).write_bytes(content)


def test_a_text_task_is_refused_in_a_sentence():
    with expect_refusal("'facts' has words that the model does not know", "organism-lookup"):
        lw.ablate(organism("organism-decoder"), ["organism-lookup", "facts"], "generate", limit=2)
