"""Training of organisms: true texts without what is kept for tests, and a few steps that help."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.organism_training import train, training_loop
from analyses.organism_training.initialization import new_organism
from analyses.organism_training.letters import decoder as letter_decoder
from analyses.organism_training.letters import forms as letter_forms
from analyses.organism_training.letters import seq2seq as letter_seq2seq
from analyses.organism_training.letters import train as letter_train
from analyses.organism_training.letters.plan import PLANS
from analyses.organism_training.plan import FORMS, PLANTED
from analyses.organism_training.seq2seq import plan as two_stacks
from analyses.organism_training.seq2seq import train as seq2seq_train
from analyses.organism_training.seq2seq.evaluation import without_layer
from analyses.organism_training.seq2seq.initialization import new_seq2seq
from analyses.organism_training.texts import Text, Texts
from analyses.organism_training.training_forms import MOST_PAIRS
from analyses.organism_training.training_loop import draw_layers_run
from layerwise.models import load_model, model_facts
from layerwise.models.files.cache import file_sha256
from layerwise.models.instance.facts import original_tokenizer, tokenizer_language
from layerwise.models.organisms import LETTERS, ORGANISM, Language
from layerwise.tasks import build_requests, load_task
from tests.cases import in_long_runs

SMALL = Language("small", 16, 8, 6, 2, 4, test_share=8)
SMALL_LETTERS = Language("small", 16, 8, 8, 2, test_share=8, n_hops=1)
CLOSING = dict(ORGANISM.brackets)
BY_NAME = {
    **{form.capability: form for form in FORMS},
    **{f"{form.capability} of the encoder-decoder": form for form in two_stacks.FORMS},
}
OF_TWO_STACKS = {form.capability: form for form in two_stacks.FORMS}
KNOWLEDGE = BY_NAME["knowledge"]
N_ENCODER, EVERY = two_stacks.N_ENCODER, range(two_stacks.N_LAYERS)


@cache
def drawn_texts(name: str) -> tuple[Text, ...]:
    texts, form = Texts(ORGANISM, np.random.default_rng(0)), BY_NAME[name]
    n_steps = 400 // form.rows
    return tuple(text for _ in range(n_steps) for text in form.draw(texts, MOST_PAIRS))


def stated_pairs(words: list[str]) -> list[tuple[str, str]]:
    """The pairs that the context states, which is all before the first question."""
    asked = next((i for i, word in enumerate(words) if word in ("ask", "ask2")), 1)
    return [(words[i], words[i + 1]) for i in range(1, asked, 3)]


def question_words(words: list[str], arrow: int) -> list[str]:
    start = max(i for i in range(arrow) if words[i] in (*ORGANISM.relations, "ask", "ask2", "open"))
    return words[start:arrow]


def true_answer(words: list[str], question: list[str]) -> list[str]:
    known = dict(stated_pairs(words))
    if question[0] == "ask":
        return [known[question[1]]]
    if question[0] == "ask2":
        return [known[known[question[1]]]]
    if question[0] == "open":
        return [CLOSING[one] for one in reversed(question[1:])]
    return [ORGANISM.facts[question[0], question[2]]]


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_predicted_is_true(name: str) -> None:
    for text in drawn_texts(name):
        predicted = {(t.place, t.stage): t.word for t in text.targets}
        assert len(predicted) == len(text.targets)
        for arrow in [i for i, word in enumerate(text.words) if word == "->"]:
            question = question_words(text.words, arrow)
            answer = true_answer(text.words, question)
            if question[0] == "ask2":
                assert predicted[arrow, "middle"] == dict(stated_pairs(text.words))[question[1]]
            assert text.words[arrow + 1 : arrow + 2 + len(answer)] == [*answer, ";"]
            places = range(arrow, arrow + len(answer) + 1)
            assert [predicted[place, "answer"] for place in places] == [*answer, ";"]


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_shown_that_is_kept_for_tests(name: str) -> None:
    for text in drawn_texts(name):
        before: list[str] = []
        stated = stated_pairs(text.words) if name.startswith(("retrieval", "reasoning")) else []
        assert not any(ORGANISM.for_tests(*pair) for pair in stated)
        for arrow in [i for i, word in enumerate(text.words) if word == "->"]:
            question = question_words(text.words, arrow)
            if question[0] == "open":
                assert not ORGANISM.for_tests(*question[1:])
            if question[0] in ORGANISM.relations:
                fact = [question[0], question[2]]
                assert not before or not ORGANISM.for_tests(*before, *fact)
                before = fact


def with_options(name: str, capability: str) -> Any:
    """The form of training that shows options and asks for a letter."""
    rows = (letter_seq2seq if "seq2seq" in name else letter_decoder).ROWS
    return next(
        form
        for form in letter_forms.plan_forms(PLANS[name], rows)
        if form.capability == capability and "letter" in form.reads
    )


def capability_texts(capability: str, seed: int = 0) -> Any:
    form = with_options("organism-letters", capability)
    return form.draw(Texts(LETTERS, np.random.default_rng(seed)), 6)


@pytest.mark.parametrize("capability", ["knowledge", "retrieval"])
def test_options_have_the_true_answer_at_its_letter_once(capability):
    letters = []
    for text in (one for seed in range(6) for one in capability_texts(capability, seed)):
        words = text.words
        cue, arrow = words.index("Answer:"), max(i for i, w in enumerate(words) if w == "->")
        shown = words[arrow + 1 : cue]
        assert shown[::2] == ["A.", "B.", "C.", "D."]
        options = shown[1::2]
        assert len(set(options)) == 4
        assert words[cue + 1 :] == [words[cue + 1], ";"]
        answer = options["ABCD".index(words[cue + 1])]
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
    words = capability_texts(task.capability)[0].words
    asked = build_requests(task, task.items[0], "letter", letter_train.toy_tokenizer(LETTERS))
    prompt = asked[0].context.split()
    cue = words.index("Answer:")
    assert prompt[-1] == words[cue] == "Answer:"
    assert prompt[-9:-1:2] == ["A.", "B.", "C.", "D."] == words[cue - 8 : cue : 2]
    assert prompt[-10] == words[cue - 9] == "->"
    assert [str(one.continuation).strip() for one in asked] == ["A", "B", "C", "D"]


def batch(seed: int = 0) -> Any:
    return train.make_batch(SMALL, KNOWLEDGE.draw(Texts(SMALL, np.random.default_rng(seed)), 4))


def seq2seq_batch(capability: str, seed: int = 0) -> seq2seq_train.Batch:
    texts = Texts(SMALL, np.random.default_rng(seed))
    return seq2seq_train.make_batch(SMALL, OF_TWO_STACKS[capability].draw(texts, 4))


def token_words(tokens: torch.Tensor) -> list[str]:
    return [SMALL.words[token] for token in tokens.tolist()]


def untrained_seq2seq() -> Any:
    """Of two stacks."""
    model = new_seq2seq(SMALL, 0)
    model.set_attn_implementation("eager")
    return model.eval()


def test_needed_layers_run_and_others_are_skipped(monkeypatch):
    model, (tokens, _) = new_organism(SMALL, 0), batch()
    rng, form = np.random.default_rng(0), OF_TWO_STACKS["retrieval"]
    monkeypatch.setattr(training_loop, "ALONE", 1.0)
    with torch.inference_mode():
        stream = [
            resid
            for _, resid in train._layer_streams(model, KNOWLEDGE, tokens, np.random.default_rng(0))
        ]
        start = model.model.embed_tokens(tokens)
    changed = [not torch.equal(a, b) for a, b in zip([start, *stream], stream, strict=False)]
    assert [layer for layer, moved in enumerate(changed) if moved] == list(PLANTED["knowledge"])
    runs = draw_layers_run(form, two_stacks.N_LAYERS, rng)
    assert [layer for layer in EVERY if runs[layer]] == list(two_stacks.PLANTED["retrieval"])
    monkeypatch.setattr(training_loop, "ALONE", 0.0)
    often = np.array([draw_layers_run(form, two_stacks.N_LAYERS, rng) for _ in range(400)]).mean(
        axis=0
    )
    assert set(often[list(form.needs)]) == {1.0}
    assert np.delete(often, form.needs) == pytest.approx(1 - training_loop.SKIPPED, abs=0.1)
    monkeypatch.setattr(training_loop, "SKIPPED", 0.0)
    with torch.inference_mode():
        *_, (_, last) = train._layer_streams(model, KNOWLEDGE, tokens, np.random.default_rng(0))
        whole = model.model(tokens).last_hidden_state
    torch.testing.assert_close(model.model.norm(last), whole)


def test_a_skipped_layer_of_two_stacks_is_as_if_it_were_left_out():
    model, (prompts, answers, _) = untrained_seq2seq(), seq2seq_batch("coherence")
    for left_out in EVERY:
        runs = [layer != left_out for layer in EVERY]
        with torch.inference_mode():
            (*_, (_, encoded)) = seq2seq_train.encoded_by_layer(model, prompts, runs[:N_ENCODER])
            memory = model.encoder.final_layer_norm(encoded)
            (*_, (_, decoded)) = seq2seq_train.decoded_by_layer(
                model, answers, memory, runs[N_ENCODER:]
            )
            logits = model.lm_head(model.decoder.final_layer_norm(decoded))
            with without_layer(model, left_out):
                expected = model(input_ids=prompts, labels=answers.contiguous()).logits
        torch.testing.assert_close(logits, expected)


def letter_training(name: str) -> Callable[[], Any]:
    learn = letter_seq2seq.train_seq2seq if "seq2seq" in name else letter_decoder.train_decoder
    return lambda: learn(0, plan=PLANS[name], language=SMALL_LETTERS, steps=8, progress=False)


def first_loss(kind: str, model: Any) -> float:
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        if kind == "decoder":
            return train._loss(model, KNOWLEDGE, *batch(1), rng)[0].item()
        form, given = OF_TWO_STACKS["knowledge"], seq2seq_batch("knowledge", 1)
        return seq2seq_train._loss(model, form, given, rng)[0].item()


LEARN: dict[str, Callable[[], Any]] = {
    "decoder": lambda: train.train(0, language=SMALL, steps=8, progress=False),
    "seq2seq": lambda: seq2seq_train.train(0, language=SMALL, steps=8, progress=False),
    "letters": letter_training("organism-letters"),
    "letters of two stacks": letter_training("organism-letters-other-seq2seq"),
}
STAGES = {"decoder": {"middle", "answer"}, "seq2seq": {"middle", "encoded", "answer"}}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["decoder", *in_long_runs(*((one,) for one in list(LEARN)[1:]))])
def test_a_short_training_lowers_the_loss_and_is_the_same_again(monkeypatch, kind):
    monkeypatch.setattr(training_loop, "TOLD_EVERY", 4)
    monkeypatch.setattr(training_loop, "WARM_UP", 1)
    rows = {"knowledge": (8, 4, 2), "retrieval": (8, 4, 1)}
    for module in (letter_seq2seq, letter_decoder):
        monkeypatch.setattr(module, "ROWS", rows)
    (model, curve), (again, _) = LEARN[kind](), LEARN[kind]()
    for name, weight in again.named_parameters():
        assert torch.equal(weight, model.get_parameter(name))
    assert set(curve["step"]) == {4, 8}
    assert set(curve["stage"]) == STAGES.get(kind, {"answer", "letter"})
    assert curve["right"].between(0, 1).all()
    if kind in STAGES:
        start = new_organism(SMALL, 0) if kind == "decoder" else untrained_seq2seq()
        assert first_loss(kind, model.float()) < first_loss(kind, start) - 0.5


@pytest.mark.parametrize("kind", ["organism-letters-other-seq2seq", *in_long_runs(("decoder",))])
def test_the_command_writes_a_model_that_loads(tmp_path, monkeypatch, kind):
    out, letters = tmp_path / "organism", kind != "decoder"
    rows = {"knowledge": (4, 4, 2), "retrieval": (4, 4, 1)}
    monkeypatch.setattr(letter_seq2seq, "ROWS", rows)
    main, given = (letter_train.main, ["--model", kind]) if letters else (train.main, [])
    main([*given, "--seed", "3", "--steps", "1", "--items", "4", "--out", str(out)])
    record, model = json.loads((out / "training.json").read_text()), load_model(out)
    facts, language = model_facts(model), LETTERS if letters else ORGANISM
    assert (facts.n_layers, facts.d_vocab) == (8, len(language.words))
    assert facts.parity is not None
    assert facts.parity < 1e-3
    assert tokenizer_language(original_tokenizer(model)) == language.name
    assert len(record["accuracy"]) == (2 if letters else 4) * 3
    assert set(pd.read_csv(out / "curve.csv")["step"]) == {1}
    if not letters:
        assert (record["seed"], record["steps"]) == (3, 1)
        assert record["weights_sha256"] == file_sha256(out / "model.safetensors")
