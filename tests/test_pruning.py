"""Written models against Hugging Face's own modules without the layers, and what is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerwise as lw
from layerwise.errors import MadeAgainWarning, UserError
from layerwise.models import load_model
from tests import analysis, commands
from tests.analysis import documented_columns, word_task
from tests.models.real import smollm2
from tests.models.test_gguf import write_gguf
from tests.models.tiny import FAMILIES, TEXT, tiny_folder, tiny_model

REMOVED = [0, 2]
N_LAYERS = {"gpt_neo": "num_layers"}
N_LAYERS |= dict.fromkeys(("gpt2", "gptj", "bloom"), "n_layer")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def folder_of(place: Path, family: str, n_layers: int = 4, **more) -> Path:
    return tiny_folder(
        place, family, **{N_LAYERS.get(family, "num_hidden_layers"): n_layers}, **more
    )


def original(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def without_layers(model, removed):
    """The Hugging Face model with the modules of some layers taken out of their list."""
    n_layers = model.config.num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    (layers,) = (one for one in lists if len(one) == n_layers)
    for layer in sorted(removed, reverse=True):
        del layers[layer]
    model.config.num_hidden_layers = n_layers - len(removed)
    return model


@torch.inference_mode()
def logits(model, folder: Path) -> torch.Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    return model(input_ids=tokens, use_cache=False).logits


# Their tensors and configurations are named as those of a family that is tried by day.
LIKE_OTHERS = ("mistral", "qwen2", "gptj")
OF_ALL = [
    pytest.param(family, marks=pytest.mark.long if family in LIKE_OTHERS else [])
    for family in FAMILIES
]


@pytest.mark.parametrize("family", OF_ALL)
def test_the_written_model_is_the_original_without_the_modules(place, family):
    folder = folder_of(place, family)
    result = lw.prune_model(load_model(folder), REMOVED, place / "out", word_task(2))
    expected = logits(without_layers(original(folder), REMOVED), folder)
    torch.testing.assert_close(logits(original(place / "out"), folder), expected, atol=1e-5, rtol=0)
    table = result.pruning
    assert list(table.columns) == documented_columns("pruning.parquet")
    assert len(table) == 2 * 3
    gap = table["predicted_gold_logprob"] - table["measured_gold_logprob"]
    assert gap.abs().max() < 1e-4
    assert gap.isna().sum() == 2  # of ``generate``
    wrote = table["protocol"] == "generate"
    assert table.loc[wrote, "measured_generated"].notna().all()
    assert (table.loc[wrote, "predicted_generated"] == table.loc[wrote, "measured_generated"]).all()
    assert (table["intact_gold_logprob"] - table["measured_gold_logprob"]).abs().max() > 1e-3


def test_weights_are_copied_bit_by_bit_with_new_numbers(place):
    folder = folder_of(place, "llama", 5)
    lw.prune_model(load_model(folder), [1, 3], place / "out", word_task(2))
    before, after = (load_file(f / "model.safetensors") for f in (folder, place / "out"))
    numbers = {0: 0, 2: 1, 4: 2}
    of_layers = {name for name in before if name.startswith("model.layers.")}
    expected = {name: before[name] for name in before.keys() - of_layers}
    for name in of_layers:
        _, _, layer, rest = name.split(".", 3)
        if int(layer) in numbers:
            expected[f"model.layers.{numbers[int(layer)]}.{rest}"] = before[name]
    assert expected.keys() == after.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, after[name])


def test_of_weights_on_disk_the_same_is_written(place):
    folder, task = folder_of(place, "llama"), word_task(2)
    for where in (None, "disk"):
        model = load_model(folder, offload=where)
        lw.prune_model(model, REMOVED, place / str(where), task, "continuation")
    written = [place / str(where) / "model.safetensors" for where in (None, "disk")]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_folder_of_several_files_is_written_as_several(place):
    folder = folder_of(place, "llama")
    model = original(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    lw.prune_model(load_model(folder), REMOVED, place / "out", word_task(2))
    index = json.loads((place / "out" / "model.safetensors.index.json").read_text())
    on_disk = {path.name for path in (place / "out").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == on_disk
    expected = logits(without_layers(model, REMOVED), folder)
    torch.testing.assert_close(logits(original(place / "out"), folder), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "more", "field", "value"),
    [
        ("qwen3", {}, "layer_types", ["full_attention"] * 2),
        ("gpt_neo", {"attention_types": [[["global", "local"], 2]]}, "attention_layers",
         ["local", "local"]),
    ],
)  # fmt: skip
def test_lists_with_an_entry_for_each_layer_are_cut(place, family, more, field, value):
    folder = folder_of(place, family, **more)
    assert len(json.loads((folder / "config.json").read_text())[field]) == 4
    lw.prune_model(load_model(folder), REMOVED, place / "out", word_task(2))
    assert json.loads((place / "out" / "config.json").read_text())[field] == value
    assert getattr(original(place / "out").config, field) == value


def test_the_comparison_is_saved_and_shown(place):
    model = tiny_model("llama", num_hidden_layers=4)
    result = lw.prune_model(model, [2], place / "out", word_task(6), "letter")
    written_files = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in written_files}) == 1
    (loaded,) = lw.load_results(place / "out" / "compared")
    pd.testing.assert_frame_equal(loaded.pruning, result.pruning)
    assert loaded.facts.settings["removed"] == [2]
    written = load_model(place / "out")
    assert loaded.facts.settings["written_hash"] == lw.models.model_facts(written).hash
    ablated = lw.ablate(model, word_task(6), "letter", layers=[2], progress=False).records
    accuracy = ablated.groupby("kind")["correct"].mean()
    summary = result.summary().iloc[0]
    assert summary["intact_accuracy"] == accuracy["intact"]
    assert summary["predicted_accuracy"] == summary["measured_accuracy"] == accuracy["skip"]
    assert "same texts" in result._repr_html_()


def test_a_model_whose_layers_depend_on_their_numbers_is_refused_and_nothing_is_left(place):
    folder = folder_of(place, "gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="The written model is not the original without these"):
        lw.prune_model(load_model(folder), [0], place / "out", word_task(2))
    assert not (place / "out").exists()
    assert not list(place.glob(".out*"))


def test_what_has_no_original_is_refused(place):
    model = load_model(folder_of(place, "llama"))
    with torch.no_grad():
        model.W_E[0] += 1
    with pytest.raises(
        UserError, match=r"weights or settings of .* were changed after it was loaded"
    ):
        lw.prune_model(model, [0], place / "out", word_task(2))
    del model.layerwise_origin
    with pytest.raises(UserError, match="has no Hugging Face original to write from"):
        lw.prune_model(model, [0], place / "out", word_task(2))
    assert not (place / "out").exists()


def test_tensors_that_do_not_tell_their_layer_are_refused(place):
    from layerwise.models.files.pruned_folder import layers_prefix

    names = ["wte.weight", "a.0.w", "a.1.w", "b.0.w", "b.1.w"]
    with pytest.raises(UserError, match="do not tell the layer that they belong to"):
        layers_prefix(place, 2, names)
    assert layers_prefix(place, 2, [*names[:3], "a.0.experts.5.w"]) == "a."


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    analysis.write_jsonl(tmp_path / "words.jsonl", word_task(4).items)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    return tmp_path


def test_the_command_writes_a_model_that_can_be_asked_for(here):
    said = commands.done(
        "prune", commands.model_folder(), "--remove", 1, "--out", "new", "--task", "words.jsonl"
    )
    assert "Model: new" in said
    assert "Tables: new/compared" in said
    assert "n_layers: 2" in commands.done("models", here / "new")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--remove", "0-2"], "All 3 layers would be removed: expected that at least one stays;"),
        (["--remove", "1-3"], "Layer 3 is out of range: the model has layers 0 to 2."),
        (["--remove", "a"], "Cannot read layers 'a': expected numbers and ranges like 0-5,9."),
        (["--out", "full"], "full is not empty: expected a new or empty folder for the model, or"),
        (["--out", "words.jsonl"], "words.jsonl is a file: expected a folder"),
        (["--task", "nothing"], "Unknown task 'nothing'"),
    ],
)
def test_what_cannot_be_written_is_told_and_nothing_is_changed(here, options, says):
    given = {"--remove": 1, "--out": "new", "--task": "words.jsonl"} | dict([options])
    words = [word for pair in given.items() for word in pair]
    commands.refused("prune", commands.model_folder(), *words, says=says, unchanged=here)


def test_a_model_from_a_gguf_file_can_be_written_without_layers(place):
    folder = write_gguf(place / "small.gguf")
    result = lw.prune_model(load_model(folder), [0], place / "out", word_task(2), "letter")
    assert load_model(place / "out").cfg.n_layers == 1
    assert result.summary()["largest_difference"].max() < 1e-3


@pytest.mark.long
@pytest.mark.smollm2
def test_smollm2_from_its_gguf_file_can_be_written_without_layers(tmp_path):
    result = lw.prune_model(
        smollm2(), range(3, 27), tmp_path / "out", "kv-words", "continuation", limit=2
    )
    assert load_model(tmp_path / "out").cfg.n_layers == 6
    assert result.summary()["largest_difference"].max() < 1e-3


class StopError(Exception):
    """Stands for whatever may end a process."""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A call that writes a tiny model without a layer, and the folder it makes when left alone."""
    model, task = tiny_model("llama"), word_task(4)
    whole = tmp_path_factory.mktemp("whole") / "out"

    def prune(out: Path):
        return lw.prune_model(model, [1], out, task, "letter")

    prune(whole)
    return prune, commands.contents(whole)


def stop_at(monkeypatch, name: str, number: int = 1) -> None:
    """End the process the n-th time that a file whose name begins like this takes its name."""
    real, done = os.replace, []

    def replace(source, target):
        if Path(target).name.startswith(name):
            done.append(target)
            if len(done) == number:
                raise StopError
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    ("name", "number"),
    [("run.json", 1), ("model", 1), ("config.json", 1), ("written", 1), ("pruning", 1),
     ("pruning", 2), ("pruning.parquet", 1), ("run.json", 2)],
)  # fmt: skip
def test_pruning_goes_on_wherever_it_was_stopped(pruned, tmp_path, monkeypatch, name, number):
    prune, whole = pruned
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(patch, name, number)
        with pytest.raises(StopError):
            prune(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # what a killed process could not clear away
    (out / ".writing").mkdir()
    (out / ".writing" / "model.safetensors").write_bytes(b"half")
    written = []
    from layerwise.analyses.pruning import api as pruning

    real = pruning.write_pruned_folder
    monkeypatch.setattr(
        pruning, "write_pruned_folder", lambda *given: written.append(given) or real(*given)
    )
    prune(out)
    assert bool(written) == (name in ("model", "config.json", "written", "run.json") and number < 2)
    found = commands.contents(out)
    assert found.keys() == whole.keys()
    for file in whole.keys() - {"compared/run.json", "compared/pruning.parquet"}:
        assert found[file] == whole[file], file
    tables = [pd.read_parquet(io.BytesIO(c["compared/pruning.parquet"])) for c in (found, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert lw.verify(out).ok


def test_the_same_pruning_again_reads_what_is_there_and_makes_what_is_lost(pruned, tmp_path):
    prune, _ = pruned
    out = tmp_path / "out"
    first = prune(out).pruning
    before = commands.contents(out)
    pd.testing.assert_frame_equal(prune(out).pruning, first)
    assert commands.contents(out) == before
    content = bytearray(before["model.safetensors"] or b"")
    content[-1] ^= 1
    (out / "model.safetensors").write_bytes(content)
    assert lw.verify(out).files["../model.safetensors"] == "changed"
    with pytest.warns(MadeAgainWarning, match=r"\.\./model\.safetensors is changed or damaged"):
        prune(out)
    assert (out / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert lw.verify(out).ok
    with pytest.raises(UserError, match=r"other settings \(removed was \[1\] and is now \[0\]\)"):
        lw.prune_model(tiny_model("llama"), [0], out, word_task(4), "letter")


def test_the_folder_of_something_else_beside_a_comparison_is_refused(tmp_path):
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        lw.prune_model(tiny_model("llama"), [1], tmp_path, word_task(2))
