"""Training of the organisms that choose by letter: their texts, their starts, and a few steps."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.organism_training import training_loop
from analyses.organism_training.letters import decoder, forms, seq2seq, train
from analyses.organism_training.texts import Texts
from layerwise.models import load_model, model_facts
from layerwise.models.instance.facts import language_of
from layerwise.models.organisms import LETTERS, Language
from layerwise.models.organisms.lettered import PLANS
from layerwise.tasks import build_requests, load_task

SMALL = Language("small", 16, 8, 8, 2, test_share=8, n_hops=1)
SEQ2SEQ = ["organism-letters-seq2seq", "organism-letters-other-seq2seq"]
LETTERS_OF = dict(zip("ABCD", range(4), strict=True))


def with_options(name: str, capability: str):
    rows = seq2seq.ROWS if name in SEQ2SEQ else decoder.ROWS
    return next(
        form
        for form in forms.forms_of(PLANS[name], rows)
        if form.capability == capability and "letter" in form.reads
    )


def texts_of(capability: str, language: Language = LETTERS, most: int = 6, seed: int = 0):
    form = with_options("organism-letters", capability)
    return form.draw(Texts(language, np.random.default_rng(seed)), most)


@pytest.mark.parametrize("capability", ["knowledge", "retrieval"])
def test_options_have_the_true_answer_at_its_letter_once(capability):
    letters = []
    for text in (one for seed in range(6) for one in texts_of(capability, seed=seed)):
        words = text.words
        cue, arrow = words.index("Answer:"), max(i for i, w in enumerate(words) if w == "->")
        shown = words[arrow + 1 : cue]
        assert shown[::2] == ["A.", "B.", "C.", "D."]
        options = shown[1::2]
        assert len(set(options)) == 4
        assert words[cue + 1 :] == [words[cue + 1], ";"]
        answer = options[LETTERS_OF[words[cue + 1]]]
        if capability == "retrieval":
            stated = dict(zip(words[1::3], words[2::3], strict=False))
            key = words[arrow - 1]
            assert answer == stated[key]
            assert not LETTERS.for_tests(key, answer)
            assert [place for place, word in enumerate(words) if word == "ask"] == [arrow - 2]
            if len({*words[2:arrow:3]} & set(LETTERS.values)) >= 4:
                assert set(options) <= set(words[:arrow])
        else:
            before, asked = (words[1], words[3]), (words[arrow - 3], words[arrow - 1])
            assert LETTERS.facts[asked] == answer
            assert words[5] == LETTERS.facts[before]
            assert not LETTERS.for_tests(*before, *asked)
        assert [(t.place, t.word, t.stage) for t in text.targets] == [
            (cue, words[cue + 1], "letter"),
            (cue + 1, ";", "letter"),
        ]
        letters.append(words[cue + 1])
    assert set(letters) == set("ABCD")


@pytest.mark.parametrize("suite", ["letters-facts", "letters-lookup"])
def test_prompts_of_training_have_the_form_of_the_protocol(suite):
    task = load_task(suite, limit=4)
    words = texts_of(task.capability)[0].words
    asked = build_requests(task, task.items[0], "letter", train.toy_tokenizer(LETTERS))
    prompt = asked[0].context.split()
    cue = words.index("Answer:")
    assert prompt[-1] == words[cue] == "Answer:"
    assert prompt[-9:-1:2] == ["A.", "B.", "C.", "D."] == words[cue - 8 : cue : 2]
    assert prompt[-10] == words[cue - 9] == "->"
    assert [str(one.continuation).strip() for one in asked] == ["A", "B", "C", "D"]


def test_a_needed_layer_is_withheld_as_often_as_told(monkeypatch):
    form, rng = with_options("organism-letters-other", "retrieval"), np.random.default_rng(0)
    drawn = [forms.runs_of(form, 8, rng) for _ in range(2000)]
    missing = [[layer for layer in form.needs if not runs[layer]] for runs, _ in drawn]
    assert [len(one) for one in missing] == [int(withheld) for _, withheld in drawn]
    assert np.mean([len(one) for one in missing]) == pytest.approx(forms.WITHHELD, abs=0.04)
    assert {layer for one in missing for layer in one} == set(form.needs)


@pytest.mark.parametrize("name", ["organism-letters", "organism-letters-other-seq2seq"])
def test_a_short_training_lowers_the_loss_and_is_the_same_again(monkeypatch, name):
    monkeypatch.setattr(training_loop, "TOLD_EVERY", 4)
    monkeypatch.setattr(training_loop, "WARM_UP", 1)
    learn = seq2seq.train_seq2seq if name in SEQ2SEQ else decoder.train_decoder
    rows = {"knowledge": (8, 4, 2), "retrieval": (8, 4, 1)}
    monkeypatch.setattr(seq2seq if name in SEQ2SEQ else decoder, "ROWS", rows)
    model, curve = learn(0, plan=PLANS[name], language=SMALL, steps=8, progress=False)
    again, _ = learn(0, plan=PLANS[name], language=SMALL, steps=8, progress=False)
    for (_, one), (_, other) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert set(curve["step"]) == {4, 8}
    assert set(curve["stage"]) == {"answer", "letter"}


def test_the_command_writes_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(seq2seq, "ROWS", {"knowledge": (4, 4, 2), "retrieval": (4, 4, 1)})
    out, name = tmp_path / "organism", "organism-letters-other-seq2seq"
    train.main(["--model", name, "--seed", "3", "--steps", "1", "--items", "4", "--out", str(out)])
    record = json.loads((out / "training.json").read_text())
    model = load_model(out)
    facts = model_facts(model)
    assert (facts.n_layers, facts.d_vocab) == (8, len(LETTERS.words))
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert language_of(model) == "letters"
    assert record["planted_layers"]["generate"]["retrieval"] == [2, 3, 6]
    assert len(record["accuracy"]) == 2 * 3
    assert set(pd.read_csv(out / "curve.csv")["step"]) == {1}
