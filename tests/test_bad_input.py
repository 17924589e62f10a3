"""Every mistake of a user's at the command line: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from layerwise.errors import UserError
from tests import analysis, commands
from tests.analysis import word_task, write_jsonl
from tests.commands import assert_refused, refused, run
from tests.models.tiny import session_folder, tiny_folder

ANALYSES = ["ablate", "lens", "patch", "profile"]
COMMA = '{"question": "a", "answer": "b",}'


@pytest.fixture(scope="module")
def model() -> Path:
    return commands.model_folder()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder of a command, with some files of questions."""
    monkeypatch.chdir(tmp_path)
    items = word_task(4).items
    write_jsonl(tmp_path / "good.jsonl", items)
    write_jsonl(tmp_path / "bare.jsonl", [replace(item, choices=()) for item in items])
    write_jsonl(tmp_path / "long.jsonl", [items[0], replace(items[1], question="the key " * 200)])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    good = (tmp_path / "good.jsonl").read_text()
    (tmp_path / "broken.jsonl").write_text(good + COMMA + "\n")
    (tmp_path / "file").write_text("a file")
    return tmp_path


@pytest.mark.parametrize("command", ANALYSES)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm-135m", "Unknown model 'smollm-135m'. Did you mean 'smollm2-135m'?"),
        ("./nothing", "There is no file or folder './nothing': expected a GGUF file or a folder"),
        (".", ". is no model folder: expected a config.json in it"),
        ("file", "file is no GGUF file"),
    ],
)
def test_unknown_model(here, command, name, says):
    refused(command, name, "--task", "good.jsonl", "--out", "run", says=says, unchanged=here)


@pytest.mark.parametrize("command", ANALYSES)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "kv-word"], "Unknown task 'kv-word'. Did you mean 'kv-words'?"),
        (["--task", "none.jsonl"], "File 'none.jsonl' cannot be read (No such file or directory)"),
        (["--task", "empty.jsonl"], "File 'empty.jsonl' is empty; expected one JSON object a line"),
        (["--task", "broken.jsonl"], "File 'broken.jsonl', line 5: not JSON"),
        (["--limit", "0"], "The limit of items must be at least 1, not 0; leave it out for all."),
        (["--seed", "-1"], "The seed is -1; expected 0 or a positive whole number."),
        (["--fewshot", "4"], "has 4 rows, so 4 of them cannot be few-shot examples; ask for a"),
        (["--memory-budget", "lots"], "Cannot read the memory budget 'lots': expected a size such"),
        (["--memory-budget", "1KB"], "A memory budget of 1000 bytes is too small"),
        (["--dtype", "float8"], "Unknown dtype 'float8'. Did you mean 'float"),
        (["--device", "gpu"], "Unknown device 'gpu'."),
        (["--out", "file"], "file is a file: expected a folder for the run; choose another path."),
        (["--out", "file/below"], "Cannot write file/below (file is a file): choose a folder"),
    ],
)
def test_bad_options(here, model, command, options, says):
    chosen = ["--task", "good.jsonl", "--out", "run", *options]
    if command == "lens":
        chosen += ["--protocol", "continuation"]
    if command == "patch" and "--out" in options:  # this one is told only if there are pairs
        chosen = ["--task", "facts", "--fewshot", "0", "--limit", "40", *options]
    refused(command, model, *_last_of_each(chosen), says=says, unchanged=here)


def _last_of_each(options: list[str]) -> list[str]:
    """Each option once, because tasks and protocols would add up."""
    found = dict(zip(options[::2], options[1::2], strict=True))
    return [word for pair in found.items() for word in pair]


@pytest.mark.parametrize("command", ["ablate", "lens", "profile"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--protocol", "leter"], "Unknown protocol 'leter'. Did you mean 'letter'?"),
        (
            ["--task", "bare.jsonl", "--protocol", "letter"],
            "Item 'words/0000' of task 'bare' has no choices, which protocol 'letter' needs; add",
        ),
        (
            ["--task", "long.jsonl", "--protocol", "continuation"],
            "(prompt and answer), but the model takes 256; take fewer few-shot examples or",
        ),
        (["--chat"], "This model's tokenizer has no chat template; expected one because chat"),
    ],
)
def test_questions_that_cannot_be_asked(here, model, command, options, says):
    task = [] if "--task" in options else ["--task", "good.jsonl"]
    refused(command, model, *task, *options, "--out", "run", says=says, unchanged=here)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--site", "resid_post"], "Expected one of: attn_out, cross_attn_out, cross_z, kv_group,"),
        (["--kind", "mean", "--site", "layer"], "Expected one of: attn_out, cross_attn_out,"),
        (["--site", "z", "--heads", "a"], "Cannot read heads 'a'"),
        (["--layers", "0-7"], "Layer 3 is out of range: the model has layers 0 to 2."),
        (["--layers", "first"], "Cannot read layers 'first': expected numbers and ranges like"),
        (["--layers", "1-"], "Cannot read layers '1-'"),
        (["--layers", ""], "Cannot read layers ''"),
        (["--layers", "²"], "Cannot read layers '²'"),
        (["--layers", "0-99999999999"], "Cannot read layers '0-99999999999'"),
    ],
)
def test_ablations_that_do_not_exist(here, model, options, says):
    command = ["ablate", model, "--task", "good.jsonl", *options, "--out", "run"]
    refused(*command, says=says, unchanged=here)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["lens", "--task", "good.jsonl", "--protocol", "generate"],
            "The logit lens reads the prompt of 'letter' or 'continuation'; 'generate' has the",
        ),
        (["patch", "--task", "good.jsonl"], "Task 'good' has no pairs for activation patching"),
        (["patch", "--site", "resid"], "Unknown site 'resid'. Did you mean 'resid_pre'?"),
        (["patch", "--task", "facts", "--pairs", "0"], "At least one pair is needed for patching"),
        (["patch", "--task", "kv-words"], "but the model takes 256; take fewer few-shot examples"),
        (
            ["patch", "--task", "facts", "--fewshot", "0", "--limit", "1"],
            "No pair of task 'facts' can be patched: The answers to item 'facts/0000' and to its ",
        ),
        (["profile", "--task", "good.jsonl", "--pairs", "0"], "At least one pair is needed"),
        (
            ["profile", "--task", "kv-words", "--protocol", "continuation"],
            "but the model takes 256; take fewer few-shot",
        ),
    ],
)
def test_what_lens_and_patching_cannot_do(here, model, command, says):
    name, *options = command
    refused(name, model, *options, "--out", "run", says=says, unchanged=here)


@pytest.mark.parametrize("command", ANALYSES)
def test_a_device_that_is_not_here(here, model, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    says = "Device 'cuda' is not available here: expected 'cpu'; choose that"
    refused(command, model, "--device", "cuda", "--out", "run", says=says, unchanged=here)


@pytest.mark.parametrize("command", ANALYSES)
def test_weights_that_are_no_numbers(here, model, command):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    bad = session_folder() / f"{model.name}-edited"
    if not bad.exists():
        analysis.edited_folder(model, spoil)
    says = "has NaN or infinite weights in model.layers.1.mlp.up_proj.weight"
    refused(command, bad, "--task", "good.jsonl", "--out", "run", says=says, unchanged=here)


def test_model_and_tokenizer_that_do_not_match(here, tmp_path_factory):
    bad = tiny_folder(tmp_path_factory.mktemp("models"), "llama", vocab_size=290)
    says = "do not match: the tokenizer has token id 299, expected ids below the model's"
    refused("ablate", bad, "--task", "good.jsonl", "--out", "run", says=says, unchanged=here)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(here, model):
    (here / "locked").mkdir(mode=0o500)
    command = ["ablate", model, "--task", "good.jsonl", "--out", "locked/run"]
    refused(*command, says="Cannot write", unchanged=here)


@pytest.mark.parametrize("command", ["ablate", "lens", "profile"])
def test_a_folder_of_something_else(here, model, command):
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.tex").write_text("text")
    says = "thesis holds other files (chapter.tex, ...) and no run.json: expected an empty folder"
    options = ["--task", "good.jsonl", "--protocol", "continuation", "--out", "thesis"]
    refused(command, model, *options, says=says, unchanged=here)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seed", "1"], "(seed was 0 and is now 1)"),
        (["--layers", "0"], "(layers was [0, 1, 2] and is now [0])"),
        (["--kind", "zero", "--site", "mlp_out"], '(kind was "skip" and is now "zero"; site was'),
        (["--protocol", "generate"], '(protocols was ["continuation"] and is now ["continuation",'),
        (["--limit", "2"], "(task good: 4 items -> 2 items; task good items not asked: "),
        (
            ["--dtype", "bfloat16"],
            '(dtype was "float32" and is now "bfloat16"; the weights changed',
        ),
        (["--memory-budget", "300MiB"], "(memory_budget was "),
    ],
)
def test_a_folder_of_a_run_with_other_settings(here, model, options, says):
    command = ["ablate", model, "--task", "good.jsonl", "--protocol", "continuation", "--out", "a"]
    commands.done(*command)
    refused(*command, *options, says=f"a holds a run with other settings {says}", unchanged=here)


def test_another_analysis_in_the_folder_is_refused(here, model):
    options = ["--task", "good.jsonl", "--protocol", "continuation", "--out", "a"]
    commands.done("ablate", model, *options)
    says = 'a holds a run with other settings (analysis was "ablation" and is now "logit lens"'
    refused("lens", model, *options, says=says, unchanged=here)


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
def test_reports_that_cannot_be_made(here, model, whole_run, arguments, says):
    (here / "hollow").mkdir()
    (here / "begun").mkdir()
    (here / "begun" / "run.json").write_text('{"finished": false, "settings": {}}')
    for name in ("whole", "broken"):
        (here / name).mkdir()
        for file, content in whole_run.items():
            (here / name / file).write_bytes(content or b"")
    (here / "broken" / "records.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    refused("report", *arguments, says=says, unchanged=here)


@pytest.fixture(scope="module")
def whole_run(model, tmp_path_factory) -> dict[str, bytes | None]:
    root = tmp_path_factory.mktemp("whole")
    path = write_jsonl(root / "good.jsonl", word_task(4).items)
    commands.done("ablate", model, "--task", path, "--protocol", "letter", "--out", root / "run")
    return commands.contents(root / "run")


def full_after(monkeypatch, writes: int) -> None:
    """Let the disk be full after so many files were written."""
    real, done = os.fsync, []

    def fsync(descriptor):
        done.append(descriptor)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("writes", [0, 1, 2, 3, 5, 6, 8])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    here, model, whole_run, monkeypatch, writes
):
    """The files are run.json, two parts, four tables, the requests, and run.json again."""
    command = ["ablate", model, "--task", "good.jsonl", "--protocol", "letter", "--out", "run"]
    with monkeypatch.context() as patch:
        full_after(patch, writes)
        outcome = run(*command)
    assert_refused(outcome, "No space left to write run/", "free some disk space and run again")
    names = list(commands.contents(here / "run"))
    assert not [name for name in names if ".tmp" in name or ".lock" in name]
    commands.done(*command)
    assert commands.contents(here / "run").keys() == whole_run.keys()
    expected = pd.read_parquet(io.BytesIO(whole_run["records.parquet"] or b""))
    pd.testing.assert_frame_equal(pd.read_parquet(here / "run" / "records.parquet"), expected)


def test_the_disk_has_room_for_a_whole_run_after_nine_writes(here, model, monkeypatch):
    full_after(monkeypatch, 9)
    commands.done("ablate", model, "--task", "good.jsonl", "--protocol", "letter", "--out", "run")


def test_a_report_on_a_full_disk(here, model, whole_run, monkeypatch):
    (here / "whole").mkdir()
    for file, content in whole_run.items():
        (here / "whole" / file).write_bytes(content or b"")
    before = commands.contents(here)
    full_after(monkeypatch, 0)
    outcome = run("report", "whole", "--out", "page.html")
    assert_refused(outcome, "No space left to write page.html: free some disk space")
    assert commands.contents(here) == before


def offline_process(monkeypatch, home: Path):
    """In a process of its own, which says no more than commands do in this one."""
    return lambda *args: commands.process(*args, HF_HUB_OFFLINE="1", HF_HOME=str(home))


def offline_here(monkeypatch, home: Path):
    """The variables of these names are read when the library is imported, which it is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    return run


@pytest.mark.parametrize(
    "by", [offline_here, pytest.param(offline_process, marks=pytest.mark.long)]
)
def test_no_network_for_a_hub_model(here, monkeypatch, by):
    says = (
        "Model 'owner/name' is not in the local hub cache and the hub cannot be reached: expected "
        "a network connection (and HF_HUB_OFFLINE unset); connect, or give a local folder."
    )
    refused(
        "lens",
        "owner/name",
        "--out",
        "run",
        says=says,
        unchanged=here,
        by=by(monkeypatch, here / "hub"),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("profile", "./loop"), ("profile-training", "loop", "loop-2"), ("verify", "loop"),
        ("report", "loop"), ("compare", "loop", "loop-2"), ("heal", "loop", "--out", "run"),
    ],
)  # fmt: skip
def test_links_to_themselves(here, monkeypatch, arguments):
    (here / "loop").symlink_to("loop")
    monkeypatch.setattr(commands, "contents", lambda folder: sorted(os.listdir(folder)))
    refused(*arguments, says="loop", unchanged=here)


def test_options_that_are_no_numbers_are_told_by_the_parser(here, model):
    outcome = run("ablate", model, "--limit", "many")
    assert outcome.code == 2
    assert "--limit" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (here / "run").exists()


def test_a_sentence_spells_out_what_is_no_character_that_can_be_shown():
    assert (
        str(UserError("The class \U000682cc and \ue000.")) == "The class \\U000682cc and \\ue000."
    )
    assert str(UserError("12\u202f345 名 e\u0301.")) == "12\u202f345 名 e\u0301."
