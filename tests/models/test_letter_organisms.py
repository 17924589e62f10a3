"""The organisms that also choose by letter: accuracy by protocol, hashes, and what is planted."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

import layerwise as lw
from analyses.organism_training.record import accuracies
from layerwise.models import known_models, load_model, model_facts
from layerwise.models.files.cache import file_sha256
from layerwise.models.instance.facts import language_of
from layerwise.models.names.registry import BUNDLED, ORGANISM_WEIGHTS, PackagedModel
from layerwise.models.organisms import LETTERS
from layerwise.models.organisms.lettered import PLANS, TEXT_PROTOCOLS, LetterPlan
from layerwise.tasks import PROTOCOLS

NAMES = [name for name in BUNDLED.names() if name.startswith("organism-letters")]
STUDY = Path(__file__).parents[2] / "analyses" / "organism" / "results" / "letters.csv"
CAPABILITIES = ("knowledge", "retrieval")


@cache
def organism(name: str):
    return load_model(name)


def record(name: str) -> dict:
    return json.loads((ORGANISM_WEIGHTS / name / "training.json").read_text())


@cache
def effects(name: str):
    """Letters and text at once, as they are compared."""
    asked = lw.ablate(organism(name), "all", ["letter", "generate"], limit=40, progress=False)
    return asked.effects()


def test_the_saved_study_found_exactly_what_was_planted():
    found = pd.read_csv(STUDY)
    assert set(found["model"]) == set(NAMES)
    assert (found["significant"] == found["planted"]).all()
    cells = found.groupby(["model", "seed", "capability", "protocol"])
    assert set(cells.size()) == {8}
    assert set(found["seed"]) == {0, 1, 2}
    assert len(cells) == 3 * len(NAMES) * len(CAPABILITIES) * len(PROTOCOLS)
    for (name, _, capability, protocol), rows in cells:
        planted = rows.loc[rows["planted"], "layer"]
        assert tuple(planted) == PLANS[name].needed(capability, protocol)


def test_one_of_each_kind_comes_with_the_package():
    assert set(NAMES) == set(PLANS)
    assert set(NAMES) <= {known.name for known in known_models() if known.available}
    assert all(record(name)["seed"] == 0 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_plan_are_those_that_were_recorded(name):
    model = BUNDLED.get(name)
    assert isinstance(model, PackagedModel)
    digest = file_sha256(model.folder / "model.safetensors")
    assert digest == model.weights_sha256 == record(name)["weights_sha256"]
    planted = record(name)["planted_layers"]
    assert set(planted) == set(PROTOCOLS)
    for protocol, capability in product(PROTOCOLS, CAPABILITIES):
        needed = PLANS[name].needed(capability, protocol)
        assert tuple(planted[protocol][capability]) == needed


@pytest.mark.parametrize("name", NAMES)
def test_it_is_its_original_and_speaks_its_language(name):
    facts = model_facts(organism(name))
    assert (facts.name, facts.source, facts.n_layers) == (name, "bundled", PLANS[name].n_layers)
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert language_of(organism(name)) == LETTERS.name
    assert facts.d_vocab == len(LETTERS.words)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_accuracy_by_letter_and_by_text(name):
    measured = accuracies(organism(name), LETTERS, n_items=60)
    assert {(row["task"], row["protocol"]) for row in measured} == set(
        product(lw.task_names("letters"), PROTOCOLS)
    )
    assert all(row["accuracy"] >= 0.9 for row in measured)
    stored = record(name)["accuracy"]
    assert len(stored) == len(measured)
    assert all(row["accuracy"] >= 0.95 and row["n_items"] >= 360 for row in stored)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[] if name.startswith("organism-letters-other") else pytest.mark.long
        )
        for name in NAMES
    ],
)
def test_ablation_finds_the_planted_layers_by_protocol(name):
    """Skipping a planted layer costs a third or more, another one next to nothing."""
    for row in effects(name).itertuples():
        planted = row.layer in PLANS[name].needed(row.capability, row.protocol)
        assert row.significant == planted, (row.capability, row.protocol, row.layer, row.acc)
        assert (row.acc <= 0.65) if planted else (row.acc >= 0.9)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name == "organism-letters-seq2seq" else [])
        for name in NAMES
    ],
)
def test_only_the_other_kind_has_layers_that_text_alone_needs(name):
    """In the one kind layers for text are among those for letters."""
    found = effects(name)
    needed = {
        key: set(rows.loc[rows["significant"], "layer"])
        for key, rows in found.groupby(["capability", "protocol"])
    }
    for capability in CAPABILITIES:
        for_letters, for_text = needed[capability, "letter"], needed[capability, "generate"]
        assert for_letters - for_text
        assert bool(for_text - for_letters) == ("other" in name)


@pytest.mark.parametrize(("name", "capability"), [*product(PLANS, CAPABILITIES)])
def test_the_plan_tells_what_one_way_of_answering_needs_alone(name, capability):
    plan = PLANS[name]
    assert plan.needed(capability, "letter") == tuple(
        sorted({*plan.fetches[capability], *plan.binds, plan.says_letter})
    )
    texts = {plan.needed(capability, protocol) for protocol in TEXT_PROTOCOLS}
    assert texts == {(*plan.fetches[capability], plan.says_text)}
    own = {*plan.binds, plan.says_letter} - {plan.says_text}
    assert set(plan.only_under("letter", capability)) == own
    alone = (plan.says_text,) if plan.says_letter != plan.says_text else ()
    assert plan.only_under("generate", capability) == alone
    assert plan.truth["generate"][capability] == plan.needed(capability, "generate")


def test_kinds_differ_by_the_layer_that_says_letters_alone():
    for stacks in ("", "-seq2seq"):
        same, other = PLANS[f"organism-letters{stacks}"], PLANS[f"organism-letters-other{stacks}"]
        assert isinstance(same, LetterPlan)
        assert same.says_letter == same.says_text == other.says_text != other.says_letter
        assert (same.fetches, same.binds) == (other.fetches, other.binds)
