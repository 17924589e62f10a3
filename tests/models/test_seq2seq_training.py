"""Training of the encoder-decoder organism: its start, its batches, which layers run, its files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from analyses.organism_training import training_loop
from analyses.organism_training.seq2seq import train
from analyses.organism_training.seq2seq.evaluation import read_organism, without_layer
from analyses.organism_training.seq2seq.initialization import new_seq2seq
from analyses.organism_training.seq2seq.plan import FORMS, N_DECODER, N_ENCODER, N_LAYERS, PLANTED
from analyses.organism_training.texts import Texts
from analyses.organism_training.training_loop import layers_run
from layerwise.models.files.cache import file_sha256
from layerwise.models.huggingface.quiet import quiet
from layerwise.models.organisms import ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer

SMALL = Language("small", 16, 8, 6, 2, 4, test_share=8)
BY_NAME = {form.capability: form for form in FORMS}
EVERY = range(N_LAYERS)


def batch(capability: str, seed: int = 0, language: Language = SMALL) -> train.Batch:
    texts = Texts(language, np.random.default_rng(seed))
    return train.batch_of(language, BY_NAME[capability].draw(texts, 4))


def words(tokens: torch.Tensor) -> list[str]:
    return [SMALL.words[token] for token in tokens.tolist()]


def untrained() -> train.T5ForConditionalGeneration:
    model = new_seq2seq(SMALL, 0)
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.mark.parametrize("capability", BY_NAME)
def test_a_batch_asks_as_the_suites_do(capability):
    prompts, answers, middles = batch(capability)
    tokenizer = toy_tokenizer(SMALL, first=None)
    for prompt, answer in zip(prompts, answers, strict=True):
        said = words(prompt)
        assert tokenizer(" ".join(said)).input_ids == prompt.tolist()
        assert said[-1] == "->"
        assert words(answer)[-1] == ";"
        assert len(answer) == (len(said) - 1 if capability == "coherence" else 2)
        assert said.count("->") == (2 if capability == "knowledge" else 1)
    assert len(middles) == (len(prompts) if capability == "reasoning" else 0)


def test_middles_are_what_one_hop_leads_to():
    prompts, answers, middles = batch("reasoning")
    for prompt, answer, middle in zip(prompts, answers, middles, strict=True):
        said = words(prompt)
        stated = dict(zip(said[:-3:3], said[1:-3:3], strict=True))
        hop = stated[said[-2]]
        assert words(middle[None]) == [hop]
        assert words(answer)[0] == (hop if said[-3] == "ask" else stated[hop])


def test_needed_layers_run_and_others_are_skipped(monkeypatch):
    rng, form = np.random.default_rng(0), BY_NAME["retrieval"]
    monkeypatch.setattr(training_loop, "ALONE", 1.0)
    runs = layers_run(form, N_LAYERS, rng)
    assert [layer for layer in EVERY if runs[layer]] == list(PLANTED["retrieval"])
    monkeypatch.setattr(training_loop, "ALONE", 0.0)
    drawn = np.array([layers_run(form, N_LAYERS, rng) for _ in range(400)]).mean(axis=0)
    assert set(drawn[list(form.needs)]) == {1.0}
    assert np.delete(drawn, form.needs) == pytest.approx(1 - training_loop.SKIPPED, abs=0.1)


def test_a_skipped_layer_is_as_if_it_were_left_out():
    model, (prompts, answers, _) = untrained(), batch("coherence")
    for left_out in (None, *EVERY):
        runs = [layer != left_out for layer in EVERY]
        with torch.inference_mode():
            (*_, (_, encoded)) = train.encoded_by_layer(model, prompts, runs[:N_ENCODER])
            memory = model.encoder.final_layer_norm(encoded)
            (*_, (_, decoded)) = train.decoded_by_layer(model, answers, memory, runs[N_ENCODER:])
            logits = model.lm_head(model.decoder.final_layer_norm(decoded))
            if left_out is None:
                expected = model(input_ids=prompts, labels=answers.contiguous()).logits
            else:
                with without_layer(model, left_out):
                    expected = model(input_ids=prompts, labels=answers.contiguous()).logits
        torch.testing.assert_close(logits, expected)


def test_each_form_is_read_where_it_must_be_known():
    for form in FORMS:
        *_, fetched = form.needs
        encoded = [layer for layer in form.needs if layer < N_ENCODER]
        assert N_ENCODER <= fetched == form.reads["answer"] < N_LAYERS
        assert form.reads.get("encoded", encoded[-1]) == encoded[-1]
        assert form.reads.get("middle", encoded[0]) in encoded
        assert form.needs == PLANTED[form.capability]


def test_a_short_training_lowers_the_loss_and_is_the_same_again(monkeypatch):
    monkeypatch.setattr(training_loop, "TOLD_EVERY", 3)
    monkeypatch.setattr(training_loop, "WARM_UP", 1)
    model, curve = train.train(0, language=SMALL, steps=6, progress=False)
    again, _ = train.train(0, language=SMALL, steps=6, progress=False)

    def loss(one) -> float:
        rng, form = np.random.default_rng(0), BY_NAME["knowledge"]
        with torch.inference_mode():
            return train._loss(one, form, batch("knowledge", 1), rng)[0].item()

    assert loss(model.float()) < loss(untrained()) - 0.5
    for name, weight in again.named_parameters():
        assert torch.equal(weight.float(), model.get_parameter(name).float())
    assert set(curve["step"]) == {3, 6}
    assert set(curve["capability"]) == set(PLANTED)
    assert set(curve["stage"]) == {"middle", "encoded", "answer"}
    assert curve["right"].between(0, 1).all()


def test_what_learns_how_fast_and_what_decays():
    model = untrained()
    groups = train.weight_groups(model)
    kinds = {id(weight): index for index, group in enumerate(groups) for weight in group["params"]}
    named = {name: groups[kinds[id(weight)]] for name, weight in model.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(named) == len(kinds)
    for name, group in named.items():
        in_block = ".block." in name
        matrix = in_block and "norm" not in name and "bias" not in name
        assert (group["weight_decay"] > 0) == matrix, name
        speed = 32**-0.5 if name.endswith("q.weight") else 10.0 if "bias" in name else 1.0
        assert group["speed"] == pytest.approx(speed), name


def test_the_command_writes_a_model_that_hugging_face_reads(tmp_path):
    out = tmp_path / "organism"
    train.main(["--seed", "3", "--steps", "1", "--items", "4", "--out", str(out)])
    record = json.loads((out / "training.json").read_text())
    with quiet():
        model = AutoModelForSeq2SeqLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (model.config.num_layers, model.config.num_decoder_layers) == (N_ENCODER, N_DECODER)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert (
        tokenizer("k1 v2 ;").input_ids == toy_tokenizer(ORGANISM, first=None)("k1 v2 ;").input_ids
    )
    inputs = tokenizer(["ask k1 ->", "rel1 of ent2 -> v3 ;"], padding=True, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 2
    assert read_organism(out).dtype == torch.float32
    assert (record["seed"], record["steps"]) == (3, 1)
    assert record["planted_layers"] == {name: list(layers) for name, layers in PLANTED.items()}
    assert record["weights_sha256"] == file_sha256(out / "model.safetensors")
    assert [row["n_items"] for row in record["accuracy"]] == [4] * 4
    assert set(pd.read_csv(out / "curve.csv")["step"]) == {1}
