"""A pruned model taught by its original: the distillation that it is, and what is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import layerwise as lw
from layerwise.analyses.distillation import job
from layerwise.errors import UserError
from layerwise.models import load_model
from tests.analysis import word_task, write_jsonl
from tests.commands import assert_refused, contents, run
from tests.models.tiny import tiny_folder
from tests.test_distillation import words

QUICK: dict[str, Any] = {"steps": 3, "batch": 4, "n_texts": 20, "rate": 1e-3, "progress": False}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model's folder, and that of it without its second layer."""
    place = tmp_path_factory.mktemp("pruned")
    folder = tiny_folder(place, "llama", num_hidden_layers=4)
    lw.prune_model(load_model(folder), [1], place / "short", word_task(2), "continuation")
    return folder, place / "short"


def test_healing_is_the_distillation_from_the_original(pruned, tmp_path):
    folder, short = pruned
    before = contents(short)
    healed = lw.heal(short, words(), "continuation", out=tmp_path / "healed", **QUICK)
    plain = lw.distill(
        load_model(folder), load_model(short), words(), "continuation", out=tmp_path / "plain",
        **QUICK,
    )  # fmt: skip
    pd.testing.assert_frame_equal(healed.distillation, plain.distillation)
    one, other = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("healed", "plain"))
    assert one == other
    assert contents(short) == before
    assert healed.facts.settings["removed"] == ["1"]
    assert healed.facts.settings["teacher"] == str(folder)
    card = (tmp_path / "healed" / "README.md").read_text("utf-8")
    assert f"# {str(folder)[:1]}" in card
    assert "without layer 1, healed" in card
    again = lw.heal(short, words(), "continuation", out=tmp_path / "healed", **QUICK)
    pd.testing.assert_frame_equal(again.distillation, healed.distillation)


def test_streams_are_compared_with_the_very_layers_that_stayed(pruned, tmp_path, monkeypatch):
    """Not with those of the same relative depth."""
    found, teacher = [], job.Teacher
    monkeypatch.setattr(
        job, "Teacher", lambda model, layers: found.append(layers) or teacher(model, layers)
    )
    lw.heal(pruned[1], words(), "continuation", out=tmp_path / "out", hidden=1.0, **QUICK)
    assert found == [(0, 2, 3)]


def test_what_came_back_of_what_was_lost_is_told(tmp_path):
    """The trained organism without a layer that look-ups need; the layers around it learn."""
    lw.prune_model(load_model("organism-decoder"), [3], tmp_path / "short", "organism-lookup",
                   "continuation", limit=2)  # fmt: skip
    healed = lw.heal(
        tmp_path / "short", "organism-lookup", "continuation", out=tmp_path / "healed", limit=16,
        layers=[2], steps=2, batch=8, n_texts=60, progress=False,
    )  # fmt: skip
    (row,) = healed.gains().to_dict("records")
    assert row["leads"]
    assert row["acc_teacher"] > 0.9
    assert row["closed_low"] <= row["closed"] <= row["closed_high"]
    assert load_model(tmp_path / "healed").cfg.n_layers == 7


def refused(folder: Path, says: str, out: Path) -> None:
    with pytest.raises(UserError) as caught:
        lw.heal(folder, words(), "continuation", out=out, **QUICK)
    assert says in str(caught.value), str(caught.value)
    assert not out.exists()


def test_what_cannot_be_healed(pruned, tmp_path):
    folder, short = pruned
    out = tmp_path / "out"
    refused(folder, "holds no model that layerwise wrote without some layers", out)
    refused(tmp_path / "nowhere", "holds no model that layerwise wrote", out)
    changed = tmp_path / "changed"
    shutil.copytree(short, changed)
    weights = load_file(changed / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    refused(changed, "is not as it was written (model.safetensors is changed or missing)", out)
    ends = run("heal", short, "--out", out, "--temperature", 0)
    assert_refused(ends, "The temperature is 0; expected a number above 0")


def test_an_original_that_is_another_by_now_is_refused(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    lw.prune_model(load_model(folder), [1], tmp_path / "short", word_task(2), "continuation")
    weights = load_file(folder / "model.safetensors")
    before = copy.deepcopy(weights)
    weights["lm_head.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "short", "is not the model that", tmp_path / "out")
    save_file(before, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder)
    refused(tmp_path / "short", "expected", tmp_path / "out")


def test_an_original_that_was_moved_is_found_where_it_is_now(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    short, moved = tmp_path / "short", tmp_path / "elsewhere"
    lw.prune_model(load_model(folder), [1], short, word_task(2), "continuation")
    folder.rename(moved)
    refused(short, f"is not at '{folder}' any more: expected its folder", tmp_path / "out")
    ends = run("heal", short, "--original", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert_refused(ends, "There is no file or folder")
    ends = run("heal", short, "--original", short, "--out", tmp_path / "out")
    assert_refused(ends, "is not the model that")
    healed = lw.heal(
        short, words(), "continuation", out=tmp_path / "healed", original=moved, **QUICK
    )
    assert healed.facts.settings["teacher"] == str(moved)


def test_a_model_is_healed_at_the_command_line(pruned, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(f"the key {i} opens the door {i + 1} of two" for i in range(20)))
    words_file = tmp_path / "words.jsonl"
    write_jsonl(words_file, word_task(4).items)
    ended = run("heal", pruned[1], "--task", words_file, "--fewshot", 0, "--protocol",
                "continuation", "--text", file, "--steps", 2, "--batch", 2, "--out",
                tmp_path / "healed")  # fmt: skip
    assert ended.code == 0, ended
    assert f"Model: {tmp_path / 'healed'}" in ended.out
