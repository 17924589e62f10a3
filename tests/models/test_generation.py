"""Ends of texts: every token at which the original's ``generate`` stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

import layerwise as lw
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.models.instance.facts import generation_settings
from layerwise.models.instance.generation import GenerationSettings, read_generation_settings
from layerwise.runs.setup import prepare
from layerwise.sweep import Generate, intact, skip, sweep
from tests.analysis import word_task
from tests.models.seq2seq import tiny as two_stacks
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import session_folder, tiny_folder
from tests.sweep.models import random_model

PROMPTS = [(5, 6, 7, 8), (5, 6, 9), (40, 41, 42, 43, 44, 45), (100, 7)]
N_NEW = 8


def set_ends(folder: Path, ends: int | list[int] | None, **more: Any) -> None:
    """Write the generation settings of a folder."""
    (folder / "generation_config.json").unlink(missing_ok=True)
    start = {"decoder_start_token_id": 0}  # of an encoder-decoder
    GenerationConfig(eos_token_id=ends, pad_token_id=0, **start, **more).save_pretrained(folder)


def generated_tokens(original: Any, prompt: tuple[int, ...]) -> list[int]:
    """Tokens that ``generate`` of transformers writes."""
    tokens = torch.tensor([prompt])
    start = 1 if original.config.is_encoder_decoder else len(prompt)
    given = original.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, num_beams=1,
        max_new_tokens=N_NEW,
    )  # fmt: skip
    return given[0, start:].tolist()


def several_ends(folder: Path, kind: Any) -> Any:
    """Let three tokens end texts that the model writes: a first, a second and a fourth one."""
    set_ends(folder, None)
    texts = [generated_tokens(kind.from_pretrained(folder), prompt) for prompt in PROMPTS]
    set_ends(folder, [texts[0][3], texts[1][0], texts[2][1]])
    return kind.from_pretrained(folder)


def assert_texts_are_those_of_generate(model: Any, original: Any) -> None:
    ends = set(original.generation_config.eos_token_id)
    asked = [Generate(prompt, N_NEW) for prompt in PROMPTS]
    lengths = set()
    outcomes: list[Any]
    for method in ("engine", "reference"):
        (outcomes,) = sweep(model, [intact()], asked, method=method).outcomes
        for outcome, prompt in zip(outcomes, PROMPTS, strict=True):
            expected = generated_tokens(original, prompt)
            if expected[-1] in ends:
                expected = expected[:-1]
            assert list(outcome.tokens) == expected
            lengths.add(len(expected))
    assert 0 in lengths
    assert len(lengths) > 1
    changes = [skip(layer) for layer in range(model.cfg.n_layers)]
    changed = [sweep(model, changes, asked, method=m).outcomes for m in ("engine", "reference")]
    assert changed[0] == changed[1]


def test_a_decoder_stops_where_generate_does(tmp_path, cache):
    folder = tiny_folder(tmp_path, "llama")
    original = several_ends(folder, AutoModelForCausalLM)
    assert_texts_are_those_of_generate(load_model(folder), original)


@pytest.mark.long
def test_an_encoder_decoder_stops_where_generate_does(tmp_path, cache):
    folder = tmp_path / "t5"
    two_stacks.tiny_original("t5").save_pretrained(folder)
    two_stacks.tiny_tokenizer().save_pretrained(folder)
    original = several_ends(folder, AutoModelForSeq2SeqLM)
    assert_texts_are_those_of_generate(load_model(folder), original)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (7, 3, (7,)),
        ([9, 7, 9], 3, (7, 9)),
        (None, 3, ()),
        ("no file", 3, (3,)),
        ("no file", [5, 4], (4, 5)),
        ("no file", None, ()),
    ],
)
def test_settings_come_from_their_file_else_from_the_configuration(
    tmp_path, generation, config, expected
):
    fields = {"model_type": "llama", "eos_token_id": config}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    if generation != "no file":
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert read_generation_settings(tmp_path).end_tokens == expected


def test_settings_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "generation_config.json").write_text("[1, 2")
    with pytest.raises(UserError, match=r"generation settings in .* cannot be read"):
        read_generation_settings(tmp_path)


def test_what_changes_greedy_texts_and_is_not_used_is_told(tmp_path, cache):
    folder = tiny_folder(tmp_path, "llama")
    set_ends(folder, [1], repetition_penalty=1.3, bad_words_ids=[[0]])
    model, task = load_model(folder), word_task()
    unused = ("repetition_penalty=1.3", "bad_words_ids=[[0]]")
    assert generation_settings(model).unused == unused
    with pytest.warns(UserWarning, match=r"repetition_penalty=1.3, bad_words_ids=\[\[0\]\] of the"):
        setup = prepare(model, task, "generate", limit=1)
    facts = setup.facts({})
    assert facts.model.end_tokens == (1,)
    assert facts.model.unused_generation_settings == unused
    prepare(model, task, "continuation", limit=1)


def test_runs_with_other_ends_are_other_runs(tmp_path, cache):
    folder = tiny_folder(session_folder(), "llama")
    settings = []
    for ends in (1, [1], [1, 7]):
        set_ends(folder, ends)
        settings.append(prepare(load_model(folder), word_task(), "generate", limit=1).settings())
        del settings[-1]["source_hash"]  # that of the very files
    assert settings[0] == settings[1]  # as it was before there were several
    assert settings[2] == settings[0] | {"end_tokens": [1, 7]}


def test_own_models_end_texts_as_their_settings_or_their_tokenizer_say(monkeypatch):
    own = tiny_seq2seq("t5")
    assert generation_settings(own).end_tokens == (1,)
    monkeypatch.setattr(own.original.generation_config, "eos_token_id", [4, 2])
    assert generation_settings(own).end_tokens == (2, 4)
    assert generation_settings(random_model("gpt2")) == GenerationSettings()
    assert lw.models.known_models()
