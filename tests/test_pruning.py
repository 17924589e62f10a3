"""Written models against Hugging Face's own modules without the layers, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import layerwise as lw
from layerwise.errors import MadeAgainWarning, UserError
from layerwise.models import load_model
from layerwise.models.seq2seq import Seq2SeqModel
from tests import analysis, commands
from tests.analysis import documented_columns, word_task
from tests.cases import in_long_runs
from tests.models.seq2seq.tiny import CASES
from tests.models.seq2seq.tiny import tiny_folder as seq2seq_folder
from tests.models.test_gguf import write_gguf
from tests.models.tiny import FAMILIES, TEXT, tiny_folder, tiny_model
from tests.stopping import StopError

REMOVED = [0, 2]
OF_DECODER = [(0, layer) for layer in REMOVED]
FIRST = ["encoder.0", "decoder.0"]
N_LAYERS = {"gpt_neo": "num_layers"}
N_LAYERS |= dict.fromkeys(("gpt2", "gptj", "bloom"), "n_layer")
FIELDS = {"T5Config": ("num_layers", "num_decoder_layers")}
FIELDS["MT5Config"] = FIELDS["T5Config"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def family_folder(place: Path, family: str, n_layers: int = 4, **more) -> Path:
    return tiny_folder(
        place, family, **{N_LAYERS.get(family, "num_hidden_layers"): n_layers}, **more
    )


def original(folder: Path):
    of_two = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder")
    kind = AutoModelForSeq2SeqLM if of_two else AutoModelForCausalLM
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def stacks(model: Any) -> list[torch.nn.ModuleList]:
    """The lists of layers, the encoder's first."""
    if model.config.is_encoder_decoder:
        return [getattr(stack, "block", None) or stack.layers
                for stack in (model.get_encoder(), model.get_decoder())]  # fmt: skip
    n_layers = model.config.num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    (layers,) = (one for one in lists if len(one) == n_layers)
    return [layers]


def without_layers(model: Any, removed: list[tuple[int, int]]) -> Any:
    """The Hugging Face model without the modules of some layers, each named with its stack."""
    for number, blocks in enumerate(stacks(model)):
        first, n_layers = blocks[0], len(blocks)
        gone = [layer for of, layer in removed if of == number]
        for layer in sorted(gone, reverse=True):
            del blocks[layer]
        if not model.config.is_encoder_decoder:
            model.config.num_hidden_layers = n_layers - len(gone)
        elif 0 in gone and hasattr(first, "layer"):  # T5's first block has the bias for all
            attention, given = blocks[0].layer[0].SelfAttention, first.layer[0].SelfAttention
            attention.has_relative_attention_bias = True
            attention.relative_attention_bias = given.relative_attention_bias
    return model


@torch.inference_mode()
def logits(model: Any, folder: Path) -> torch.Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    if not model.config.is_encoder_decoder:
        return model(input_ids=tokens, use_cache=False).logits
    said = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), tokens[:, :9]], dim=1)
    return model(input_ids=tokens, decoder_input_ids=said, use_cache=False).logits


# By day one of each way in which layers' tensors are named, and of the biases of T5.
BY_DAY = ("gpt2", "gpt_neox", "llama", "opt", "t5", "bart")
OF_ALL = [
    pytest.param(case, removed, marks=[] if case in BY_DAY else pytest.mark.long)
    for cases, removed in ((FAMILIES, REMOVED), (CASES, FIRST)) for case in cases
    if case != "t5-one-layer"
]  # fmt: skip
OF_ALL += [("t5", ["encoder.1", "decoder.1"])]


@pytest.mark.long(but=["t5-removed12", "gpt2-removed0"])
@pytest.mark.parametrize(("family", "removed"), OF_ALL)
def test_the_written_model_is_the_original_without_the_modules(place, family, removed):
    folder = family_folder(place, family) if family in FAMILIES else seq2seq_folder(family)
    result = lw.prune_model(load_model(folder), removed, place / "out", word_task(2))
    by_stack = [
        (0, one) if isinstance(one, int) else (int(one.startswith("dec")), int(one[-1]))
        for one in removed
    ]
    found = logits(original(place / "out"), folder)
    expected = logits(without_layers(original(folder), by_stack), folder)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - logits(original(folder), folder)).abs().max() > 1e-2
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
    if family in CASES:
        fields, known = json.loads((place / "out" / "config.json").read_text()), CASES[family]
        for name in FIELDS.get(known.config, ("encoder_layers", "decoder_layers")):
            assert fields[name] == known.given[name] - 1


def test_weights_are_copied_bit_by_bit_with_new_numbers(place):
    folder = family_folder(place, "llama", 5)
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


def test_a_folder_of_several_files_is_written_as_several_also_of_weights_on_disk(place):
    folder = family_folder(place, "llama")
    model = original(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    lw.prune_model(load_model(folder, offload="disk"), REMOVED, place / "out", word_task(2))
    index = json.loads((place / "out" / "model.safetensors.index.json").read_text())
    on_disk = {path.name for path in (place / "out").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == on_disk
    expected = logits(without_layers(model, OF_DECODER), folder)
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
    folder = family_folder(place, family, **more)
    assert len(json.loads((folder / "config.json").read_text())[field]) == 4
    lw.prune_model(load_model(folder), REMOVED, place / "out", word_task(2))
    assert json.loads((place / "out" / "config.json").read_text())[field] == value
    assert getattr(original(place / "out").config, field) == value


@pytest.mark.long
def test_the_comparison_is_saved_and_shown(place):
    model = tiny_model("llama", num_hidden_layers=4)
    result = lw.prune_model(model, [2], place / "out", word_task(6), "letter")
    written_files = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in written_files}) == 1
    (loaded,) = lw.load(place / "out" / "compared")
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
    folder = family_folder(place, "gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="The written model is not the original without these"):
        lw.prune_model(load_model(folder), [0], place / "out", word_task(2))
    assert not (place / "out").exists()
    assert not list(place.glob(".out*"))


def test_what_has_no_original_is_refused(place):
    model = load_model(family_folder(place, "llama"))
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
    from layerwise.models.files.written_folder import layers_prefix

    names = ["wte.weight", "a.0.w", "a.1.w", "b.0.w", "b.1.w"]
    with pytest.raises(UserError, match="do not tell the layer that they belong to"):
        layers_prefix(place, 2, names)
    assert layers_prefix(place, 2, [*names[:3], "a.0.experts.5.w"]) == "a."


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    analysis.write_jsonl(tmp_path / "words.jsonl", word_task(4).items)
    for folder in ("full", "half/compared"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("mine")
    return tmp_path


def test_the_command_writes_a_model_that_can_be_asked_for(working_folder):
    said = commands.run_cleanly(
        "prune", commands.model_folder(), "--remove", 1, "--out", "new", "--task", "words.jsonl"
    )
    assert "Model: new" in said
    assert "Tables: new/compared" in said
    assert "n_layers: 2" in commands.run_cleanly("models", working_folder / "new")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--remove", "0-2"], "All 3 layers would be removed: expected that at least one stays;"),
        (["--remove", "1-3"], "Layer 3 is out of range: the model has layers 0 to 2."),
        (["--remove", "a"], "Cannot read layers 'a': expected numbers and ranges like 0-5,9"),
        (["--out", "full"], "full is not empty: expected a new or empty folder for the model, or"),
        (["--out", "words.jsonl"], "words.jsonl is a file: expected a folder"),
        (["--task", "nothing"], "Unknown task 'nothing'"),
        (["--out", "half"], "half is not empty"),  # beside a comparison something else
    ],
)
def test_what_cannot_be_written_is_told_and_nothing_is_changed(working_folder, options, says):
    given = {"--remove": 1, "--out": "new", "--task": "words.jsonl"} | dict([options])
    words = [word for pair in given.items() for word in pair]
    commands.assert_command_refused(
        "prune", commands.model_folder(), *words, says=says, unchanged=working_folder
    )


def test_a_model_from_a_gguf_file_can_be_written_without_layers(place):
    folder = write_gguf(place / "small.gguf")
    result = lw.prune_model(load_model(folder), [0], place / "out", word_task(2), "letter")
    assert load_model(place / "out").cfg.n_layers == 1
    assert result.summary()["largest_difference"].max() < 1e-3


@pytest.fixture(scope="module")
def pruning_call(tmp_path_factory):
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
    [("model", 1), ("written", 1),
     *in_long_runs(("run.json", 1), ("run.json", 2), ("config.json", 1), ("pruning", 1),
                   ("pruning", 2), ("pruning.parquet", 1))],
)  # fmt: skip
def test_pruning_goes_on_wherever_it_was_stopped(pruning_call, tmp_path, monkeypatch, name, number):
    prune, whole = pruning_call
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


def test_the_same_pruning_again_reads_what_is_there_and_makes_what_is_lost(pruning_call, tmp_path):
    prune, _ = pruning_call
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


def test_the_bias_of_all_layers_goes_to_the_first_that_is_left(tmp_path):
    removed = ["encoder.0", "encoder.1"]
    lw.prune_model(load_model(seq2seq_folder("t5")), removed, tmp_path / "out", word_task(2))
    before, after = (load_file(f / "model.safetensors") for f in (seq2seq_folder("t5"),
                                                                  tmp_path / "out"))  # fmt: skip
    end = "layer.0.SelfAttention.relative_attention_bias.weight"
    assert [name for name in after if name.startswith("encoder") and name.endswith(end)] == [
        f"encoder.block.0.{end}"
    ]
    first = len(removed)
    for name, tensor in after.items():
        _, _, number, *_ = [*name.split(".", 3), "", "", ""]
        moved = name.startswith("encoder.block.") and not name.endswith(end)
        of = name.replace(f".{number}.", f".{int(number) + first}.", 1) if moved else name
        assert torch.equal(tensor, before[of])


@pytest.mark.long
def test_a_decoder_of_another_length_than_the_encoder_is_said_to_be(tmp_path: Path) -> None:
    """T5's configuration may leave out the decoder's layers where they are as many."""
    folder = tmp_path / "equal"
    lw.prune_model(load_model(seq2seq_folder("t5")), ["encoder.1"], folder, word_task(2))
    fields = json.loads((folder / "config.json").read_text())
    del fields["num_decoder_layers"]
    (folder / "config.json").write_text(json.dumps(fields))
    lw.prune_model(load_model(folder), ["decoder.1"], tmp_path / "out", word_task(2))
    written = load_model(tmp_path / "out")
    assert isinstance(written, Seq2SeqModel)
    assert (written.cfg.n_encoder_layers, written.cfg.n_decoder_layers) == (2, 1)


@pytest.mark.long
def test_names_without_the_head_of_the_model_are_known_too(tmp_path: Path) -> None:
    """Some published weights are of the model alone: ``encoder.layers``, without ``model.``."""
    seq2seq_folder("bart")
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in seq2seq_folder("bart").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    kept = load_file(folder / "model.safetensors")
    kept.pop("final_logits_bias")
    bare = {name.removeprefix("model."): tensor for name, tensor in kept.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    result = lw.prune_model(load_model(folder), ["decoder.2", 0], tmp_path / "out", word_task(2))
    assert result.facts.settings["removed"] == [0, 4]
    expected = without_layers(copy.deepcopy(original(folder)), [(0, 0), (1, 2)])
    found = logits(original(tmp_path / "out"), folder)
    torch.testing.assert_close(found, logits(expected, folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("removed", "says"),
    [
        ("encoder.0-2", "All 3 layers of the encoder would be removed: expected that at least"),
        ("decoder.0-1,encoder.1", "All 2 layers of the decoder would be removed: expected that"),
        ("encoder.3", "There is no layer 'encoder.3': expected one of encoder.0 to encoder.2, "),
        ("middle.1", "Cannot read layers 'middle.1': expected numbers and ranges like 0-5,9, or"),
    ],
)
def test_layers_of_two_stacks_that_cannot_be_removed(working_folder, removed, says):
    refused = ["prune", seq2seq_folder("t5"), "--remove", removed, "--out", "new"]
    commands.assert_command_refused(
        *refused, "--task", "words.jsonl", says=says, unchanged=working_folder
    )


TO_ASK = """
task = "lines.jsonl"
question_prefix = ""
answer_cue = ""
separator = " "
answer_end = " ;"
context_end = " "
"""


@pytest.mark.long
def test_the_documented_example_runs_as_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "how" / "prune.md").read_text("utf-8")
    block = page.partition("## Example: ")[2].split("```")[1]
    rows = [
        {"question": item.question, "context": item.context, "answer": item.answer,
         "choices": item.choices, "capability": "retrieval"}
        for item in lw.load_task("organism-lookup").items[:20]
    ]  # fmt: skip
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "questions.toml").write_text(TO_ASK, "utf-8")
    names = {"smollm2-135m": "organism-decoder", "questions.jsonl": "questions.toml"}
    printed, removed = [], ()
    for line in block.strip().splitlines():
        words = [names.get(word, word) for word in line.split()[1:]]
        printed.append(commands.run_cleanly(*words))
        if words[0] == "remove":
            (removal,) = lw.load("runs/removal")
            assert isinstance(removal, lw.RemovalResult)
            removed = removal.order[-1]
            names["20-22"] = ",".join(map(str, removed))
    assert "selected by 10 items; the other 10 are held out" in printed[0]
    assert f"--remove {','.join(map(str, sorted(removed)))} " in printed[0]
    shown = lw.Comparison.load("runs/compared")
    accuracy = shown.differences.query("family == 'accuracy'")
    assert accuracy["n_items"].tolist() == [20]
    assert accuracy["estimate_first"].tolist() == [1.0]
