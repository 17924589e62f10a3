"""Mistakes at the command line: one sentence, exit code 2, nothing left behind.

Wrong values of single options, in Python and at the command line, are in
``tests/hostile/wrong_calls.py``; here are those of files, models, folders and their combinations.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from layerwise.errors import UserError
from tests import analysis, commands
from tests.analysis import word_task, write_jsonl
from tests.commands import assert_command_refused, assert_refused, run
from tests.models.tiny import tiny_folder

COMMA = '{"question": "a", "answer": "b",}'
ORGANISM = "organism-decoder"
LOOKUP = ["--task", "organism-lookup", "--limit", "6"]


@pytest.fixture(scope="module")
def model() -> Path:
    return commands.model_folder()


def write_files(folder: Path) -> Path:
    """Files of questions and texts, good and bad."""
    items = word_task(4).items
    write_jsonl(folder / "good.jsonl", items)
    write_jsonl(folder / "bare.jsonl", [replace(item, choices=()) for item in items])
    write_jsonl(folder / "long.jsonl", [items[0], replace(items[1], question="the key " * 200)])
    (folder / "empty.jsonl").write_text("\n\n")
    (folder / "broken.jsonl").write_text((folder / "good.jsonl").read_text() + COMMA + "\n")
    (folder / "file").write_text("a file")
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "short.txt").write_text("ask k8 -> v2")
    return folder


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> Path:
    """The working folder of a command."""
    monkeypatch.chdir(tmp_path)
    return write_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm-135m", "Unknown model 'smollm-135m'. Did you mean 'smollm2-135m'?"),
        ("./nothing", "There is no file or folder './nothing': expected a GGUF file or a folder"),
        (".", ". is no model folder: expected a config.json in it"),
        ("file", "file is no GGUF file"),
    ],
)
def test_unknown_model(working_folder, name, says):
    assert_command_refused(
        "profile", name, "--task", "good.jsonl", "--out", "run", says=says, unchanged=working_folder
    )


TOO_LONG = "but the model takes 256; take fewer few-shot examples or"
OF_THE_TINY_MODEL = [
    ("lens --task empty.jsonl", "File 'empty.jsonl' is empty; expected one JSON object a line"),
    ("ablate --task broken.jsonl", "File 'broken.jsonl', line 5: not JSON"),
    ("profile --out file", "file is a file: expected a folder for the run; choose another path."),
    ("ablate --out file/below", "Cannot write file/below (file is a file): choose a folder"),
    ("ablate --task bare.jsonl --protocol letter",
     "Item 'words/0000' of task 'bare' has no choices, which protocol 'letter' needs; add"),
    ("lens --task long.jsonl", TOO_LONG),
    ("profile --task kv-words", TOO_LONG),
    ("patch --task kv-words", TOO_LONG),
    ("ablate --site resid_post", "Expected one of: attn_out, cross_attn_out, cross_z, kv_group,"),
    ("ablate --kind mean --site layer", "Expected one of: attn_out, cross_attn_out,"),
    ("ablate --site z --heads a", "Cannot read heads 'a'"),
    ("ablate --layers 0-7", "Layer 3 is out of range: the model has layers 0 to 2."),
    ("ablate --layers first", "Cannot read layers 'first': expected numbers and ranges like"),
    ("ablate --layers 1-", "Cannot read layers '1-'"),
    ("ablate --layers ''", "Cannot read layers ''"),
    ("ablate --layers ²", "Cannot read layers '²'"),
    ("ablate --layers 0-99999999999", "Cannot read layers '0-99999999999'"),
    ("patch --task facts --pairs 0", "At least one pair is needed for patching"),
    ("profile --pairs 0", "At least one pair is needed"),
    ("patch --task facts --fewshot 0 --limit 1",
     "No pair of task 'facts' can be patched: The answers to item 'facts/0000' and to its "),
    ("ablate --ray --seed 1", "--ray has no value: expected one behind it and found --seed"),
    ("ablate --dtype --device cpu", "--dtype has no value"),
]  # fmt: skip


def command_words(text: str, **usual: str) -> list[str]:
    """The words of a command, with options that it does not name."""
    words = shlex.split(text)
    more = [(f"--{name}", value) for name, value in usual.items() if f"--{name}" not in words]
    return [*words[1:], *(word for pair in more for word in pair)]


@pytest.mark.parametrize(("command", "says"), OF_THE_TINY_MODEL)
def test_what_a_model_cannot_be_asked(working_folder, model, command, says):
    name = command.split()[0]
    usual = {} if name == "patch" else {"protocol": "continuation"}
    words = command_words(command, task="good.jsonl", out="run", **usual)
    assert_command_refused(name, model, *words, says=says, unchanged=working_folder)


OF_THE_ORGANISM = [
    ("lens --over generated --protocol letter", "ask for that protocol alone"),
    ("lens --over continuation --positions -2", "Positions are those of the"),
    ("lens --positions -1,x", "Cannot read positions '-1,x': expected negative"),
    ("lens --positions -99", "no position -99; ask for positions from"),
    ("train-lens --texts -3", "At most -3 texts were asked for; expected 10 at least"),
    ("train-lens --text none.txt", "Cannot read none.txt (No such file or directory)"),
    ("train-lens --text latin.txt", "latin.txt is no UTF-8 text; save it as UTF-8."),
    ("train-lens --text good.jsonl", "'good.jsonl', line 1: not a JSON object"),
    ("train-lens --text short.txt", "Only 1 text to train a tuned lens on came from"),
    ("path-patch --receiver q:3", "Cannot read the receiver 'q:3': expected logits,"),
    ("path-patch --receiver q:3.9", "expected logits, q:0.0 to q:7.3, k:0.0 to k:7.3"),
    ("path-patch --receiver mlp:8", "mlp:0 to mlp:7; choose one of these."),
    ("attribution-patch --site layer", "Unknown site 'layer'. Expected one of: attn_"),
    ("attribution-patch --position end", "Unknown position 'end'. Expected one of:"),
    ("attribution-patch --direction both", "Unknown direction 'both'."),
    ("attribution-patch --sample -2", "A sample of -2 cells says nothing about"),
    ("remove --layers -1", "The number of layers to remove is -1; expected 1 to 7,"),
    ("prune --remove -1", "Cannot read layers '-1': expected numbers and ranges"),
    ("distill organism-decoder-1 --out .", "choose another"),
    ("similarity --task good.jsonl", "it speaks a toy language only; expected organism-lookup,"),
]


@pytest.mark.parametrize(("command", "says"), OF_THE_ORGANISM)
def test_what_other_analyses_cannot_do(working_folder, command, says):
    words = command_words(command, task="organism-lookup", limit="6", out="run")
    assert_command_refused(
        command.split()[0], ORGANISM, *words, says=says, unchanged=working_folder
    )


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (1, "Sequences of 1 different tokens were asked for; expected 2 to"),
        (90, "expected 2 to 63: the model takes 128, in which they are repeated"),
    ],
)
def test_heads_that_cannot_be_scored(working_folder, length, says):
    assert_command_refused(
        "heads", ORGANISM, "--length", length, "--out", "run", says=says, unchanged=working_folder
    )


def test_a_device_that_is_not_here(working_folder, model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    says = "Device 'cuda' is not available here: expected 'cpu'; choose that"
    assert_command_refused(
        "profile", model, "--device", "cuda", "--out", "run", says=says, unchanged=working_folder
    )


def test_weights_that_are_no_numbers(working_folder):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    bad = analysis.edited_folder(tiny_folder(working_folder, "llama"), spoil)
    says = "has NaN or infinite weights in model.layers.1.mlp.up_proj.weight"
    assert_command_refused(
        "profile", bad, "--task", "good.jsonl", "--out", "run", says=says, unchanged=working_folder
    )


def test_model_and_tokenizer_that_do_not_match(working_folder, tmp_path_factory):
    bad = tiny_folder(tmp_path_factory.mktemp("models"), "llama", vocab_size=290)
    says = "do not match: the tokenizer has token id 299, expected ids below the model's"
    assert_command_refused(
        "ablate", bad, "--task", "good.jsonl", "--out", "run", says=says, unchanged=working_folder
    )


def test_a_model_without_files_cannot_be_pruned(working_folder):
    says = "The model has no Hugging Face original to write from: expected one that load_model"
    command = ["prune", "wired-decoder", "--remove", "0", "--task", "wired-lookup", "--out", "run"]
    assert_command_refused(*command, says=says, unchanged=working_folder)


@pytest.mark.parametrize("model", [ORGANISM, "organism-seq2seq"])
def test_a_lens_of_another_model(working_folder, model):
    commands.run_cleanly(
        "train-lens",
        f"{model}-1",
        *LOOKUP,
        "--kind",
        "bias",
        "--texts",
        20,
        "--steps",
        1,
        "--out",
        "other",
    )
    command = ["lens", model, *LOOKUP, "--lens", "tuned", "--tuned", "other", "--out", "run"]
    says = f"This tuned lens was trained on '{model}-1' with weights "
    assert_command_refused(*command, says=says, unchanged=working_folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(working_folder, model):
    (working_folder / "locked").mkdir(mode=0o500)
    command = ["ablate", model, "--task", "good.jsonl", "--out", "locked/run"]
    assert_command_refused(*command, says="Cannot write", unchanged=working_folder)


def test_a_folder_of_something_else(working_folder, model):
    (working_folder / "thesis").mkdir()
    (working_folder / "thesis" / "chapter.tex").write_text("text")
    says = "thesis holds other files (chapter.tex, ...) and no run.json: expected an empty folder"
    options = ["--task", "good.jsonl", "--protocol", "continuation", "--out", "thesis"]
    assert_command_refused("profile", model, *options, says=says, unchanged=working_folder)


RUN = ["--task", "good.jsonl", "--protocol", "continuation", "--out", "a"]


@pytest.fixture(scope="module")
def finished_run(model, tmp_path_factory) -> Path:
    """A folder in which there is a finished run; do not change it."""
    folder = write_files(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        commands.run_cleanly("ablate", model, *RUN)
    return folder


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ("ablate", ["--seed", "1"], "(seed was 0 and is now 1)"),
        ("ablate", ["--layers", "0"], "(layers was [0, 1, 2] and is now [0])"),
        ("ablate", ["--kind", "zero", "--site", "mlp_out"],
         '(kind was "skip" and is now "zero"; site was'),
        ("ablate", ["--protocol", "generate"], '(protocols was ["continuation"] and is now ["cont'),
        ("ablate", ["--limit", "2"], "(task good: 4 items -> 2 items; task good items not asked: "),
        ("ablate", ["--dtype", "bfloat16"],
         '(dtype was "float32" and is now "bfloat16"; the weights changed'),
        ("ablate", ["--memory-budget", "300MiB"], "(memory_budget was "),
        ("lens", [], '(analysis was "ablation" and is now "logit lens"'),
    ],
)  # fmt: skip
def test_a_folder_of_a_run_with_other_settings(
    finished_run, model, monkeypatch, command, options, says
):
    monkeypatch.chdir(finished_run)
    says = f"a holds a run with other settings {says}"
    assert_command_refused(command, model, *RUN, *options, says=says, unchanged=finished_run)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "No folder nowhere: expected the folder of a run; check the path."),
        (["hollow"], "No results in hollow: expected records.parquet, lens.parquet,"),
        (["file"], "No folder file: expected the folder of a run; check the path."),
        (["begun"], "The run in begun is not finished: expected a finished one; give the same"),
        (
            ["broken"],
            "results in broken are not as they were written (records.parquet is changed or dam",
        ),
        (["whole", "nowhere"], "No folder nowhere"),
        (["whole", "--out", "hollow"], "hollow is a folder: expected the name of the file to"),
        (["whole", "--out", "file/page.html"], "Cannot write file/page.html ("),
    ],
)
def test_reports_that_cannot_be_made(working_folder, model, whole_run, arguments, says):
    (working_folder / "hollow").mkdir()
    (working_folder / "begun").mkdir()
    (working_folder / "begun" / "run.json").write_text('{"finished": false, "settings": {}}')
    for name in ("whole", "broken"):
        (working_folder / name).mkdir()
        for file, content in whole_run.items():
            (working_folder / name / file).write_bytes(content or b"")
    (working_folder / "broken" / "records.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    assert_command_refused("report", *arguments, says=says, unchanged=working_folder)


@pytest.fixture(scope="module")
def whole_run(model, tmp_path_factory) -> dict[str, bytes | None]:
    root = tmp_path_factory.mktemp("whole")
    path = write_jsonl(root / "good.jsonl", word_task(4).items)
    commands.run_cleanly(
        "ablate", model, "--task", path, "--protocol", "letter", "--out", root / "run"
    )
    return commands.contents(root / "run")


def fill_disk_after(monkeypatch, writes: int) -> None:
    """Let the disk be full after so many files were written."""
    real, done = os.fsync, []

    def fsync(descriptor):
        done.append(descriptor)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("writes", [0, 2, 6])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    working_folder, model, whole_run, monkeypatch, writes
):
    """The files are run.json, two parts, two tables, the requests, and run.json again."""
    command = ["ablate", model, "--task", "good.jsonl", "--protocol", "letter", "--out", "run"]
    with monkeypatch.context() as patch:
        fill_disk_after(patch, writes)
        outcome = run(*command)
    assert_refused(outcome, "No space left to write run/", "free some disk space and run again")
    names = list(commands.contents(working_folder / "run"))
    assert not [name for name in names if ".tmp" in name or ".lock" in name]
    commands.run_cleanly(*command)
    assert commands.contents(working_folder / "run").keys() == whole_run.keys()
    expected = pd.read_parquet(io.BytesIO(whole_run["records.parquet"] or b""))
    pd.testing.assert_frame_equal(
        pd.read_parquet(working_folder / "run" / "records.parquet"), expected
    )


def test_a_report_on_a_full_disk(working_folder, model, whole_run, monkeypatch):
    (working_folder / "whole").mkdir()
    for file, content in whole_run.items():
        (working_folder / "whole" / file).write_bytes(content or b"")
    before = commands.contents(working_folder)
    fill_disk_after(monkeypatch, 0)
    outcome = run("report", "whole", "--out", "page.html")
    assert_refused(outcome, "No space left to write figures/", "free some disk space")
    after = commands.contents(working_folder)
    assert after.pop("figures", None) is None
    assert after == before


def test_no_network_for_a_hub_model(working_folder, monkeypatch):
    # The variables of these names are read when the library is imported, which it is.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(working_folder / "hub"))
    says = (
        "Model 'owner/name' is not in the local hub cache and the hub cannot be reached: expected "
        "a network connection (and HF_HUB_OFFLINE unset); connect, or give a local folder."
    )
    assert_command_refused(
        "lens", "owner/name", "--out", "run", says=says, unchanged=working_folder
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("profile", "./loop"), ("profile-training", "loop", "loop-2"), ("verify", "loop"),
        ("report", "loop"), ("compare", "loop", "loop-2"), ("heal", "loop", "--out", "run"),
    ],
)  # fmt: skip
def test_links_to_themselves(working_folder, monkeypatch, arguments):
    (working_folder / "loop").symlink_to("loop")
    monkeypatch.setattr(commands, "contents", lambda folder: sorted(os.listdir(folder)))
    assert_command_refused(*arguments, says="loop", unchanged=working_folder)


def test_a_sentence_spells_out_what_is_no_character_that_can_be_shown():
    assert (
        str(UserError("The class \U000682cc and \ue000.")) == "The class \\U000682cc and \\ue000."
    )
    assert str(UserError("12\u202f345 名 e\u0301.")) == "12\u202f345 名 e\u0301."
