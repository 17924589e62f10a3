"""Mistakes at the commands beyond the main ones: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis import word_task, write_jsonl
from tests.commands import done, refused

MODEL = "organism-decoder"
LOOKUP = ["--task", "organism-lookup", "--limit", "6"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "english.jsonl", word_task(4).items)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "short.txt").write_text("ask k8 -> v2")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["lens", "--lens", "tund"], "Unknown lens 'tund'. Did you mean 'tuned'?"),
        (["lens", "--tuned", "lens"], "A tuned lens was given, but the lens to read with is"),
        (["lens", "--lens", "tuned", "--tuned", "none"], "none is missing, damaged or not a tuned"),
        (["lens", "--lens", "tuned", "--tuned", "file"], "file is missing, damaged or not a tuned"),
        (["lens", "--site", "z"], "Unknown site of the lens 'z'. Expected one of: resid_mid,"),
        (["lens", "--over", "answer"], "Unknown kind of tokens to read 'answer'."),
        (["lens", "--over", "generated", "--protocol", "letter"], "ask for that protocol alone"),
        (["lens", "--over", "continuation", "--positions", "-2"], "Positions are those of the"),
        (["lens", "--positions", "2"], "The positions to read are [2]; expected negative numbers"),
        (["lens", "--positions", "-1,x"], "Cannot read positions '-1,x': expected negative"),
        (["lens", "--positions", "-99"], "no position -99; ask for positions from"),
        (["train-lens", "--kind", "half"], "Unknown kind of tuned lens 'half'."),
        (["train-lens", "--texts", "-3"], "At most -3 texts were asked for; expected 10 at least"),
        (["train-lens", "--steps", "-1"], "A tuned lens cannot be trained in -1 steps at rate"),
        (["train-lens", "--rate", "nan"], "Argument 'rate' is nan; expected a finite number"),
        (["train-lens", "--text", "none.txt"], "Cannot read none.txt (No such file or directory)"),
        (["train-lens", "--text", "latin.txt"], "latin.txt is no UTF-8 text; save it as UTF-8."),
        (["train-lens", "--text", "english.jsonl"], "'english.jsonl', line 1: not a JSON object"),
        (["train-lens", "--text", "short.txt"], "Only 1 text to train a tuned lens on came from"),
        (["train-lens", "--text", "file"], "Cannot take text from file: expected a .txt file, or"),
        (["attribution", "--against", "worst"], "Unknown distractor to compare with 'worst'."),
        (["attribution", "--protocol", "generate"], "Attribution reads the prompt of 'letter' or"),
        (["similarity", "--protocol", "generate"], "Similarity is read on the prompts of 'letter'"),
        (["path-patch", "--receiver", "q:3"], "Cannot read the receiver 'q:3': expected logits,"),
        (["path-patch", "--receiver", "q:3.9"], "which has layers 0 to 7 and heads 0 to 3 for it"),
        (["path-patch", "--receiver", "mlp:8"], "has layers 0 to 7; choose one of these."),
        (["path-patch", "--direction", "denois"], "Unknown direction 'denois'. Did you mean"),
        (["path-patch", "--pairs", "-4"], "At least one pair is needed for patching, not -4."),
        (["attribution-patch", "--site", "layer"], "Unknown site 'layer'. Expected one of: attn_"),
        (["attribution-patch", "--position", "end"], "Unknown position 'end'. Expected one of:"),
        (["attribution-patch", "--direction", "both"], "Unknown direction 'both'."),
        (["attribution-patch", "--sample", "-2"], "A sample of -2 cells says nothing about"),
        (["remove", "--layers", "8"], "The number of layers to remove is 8; expected 1 to 7,"),
        (["remove", "--layers", "-1"], "The number of layers to remove is -1; expected 1 to 7,"),
        (["remove", "--layers", "2", "--by", "size"], "Unknown way to remove layers 'size'."),
        (["remove", "--layers", "2", "--held-out", "1"], "The share of items held out is 1.0;"),
        (["remove", "--layers", "2", "--method", "slow"], "Unknown method 'slow'."),
        (["prune", "--remove", "8"], "Layer 8 is out of range: the model has layers 0 to 7."),
        (["prune", "--remove", "-1"], "Cannot read layers '-1': expected numbers and ranges"),
        (["prune", "--remove", "0-7"], "All 8 layers would be removed: expected that at least one"),
        (["prune", "--remove", "7", "--protocol", "free"], "Unknown protocol 'free'."),
        (["plan", "--analysis", "prof"], "Unknown analysis 'prof'. Did you mean 'profile'?"),
    ],
)
def test_bad_options(here, command, says):
    name, *options = command
    out = [] if name == "plan" else ["--out", "run"]
    refused(name, MODEL, *LOOKUP, *options, *out, says=says, unchanged=here)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sequences", "-1"], "-1 sequences were asked for; expected at least 1, so ask for"),
        (["--length", "1"], "Sequences of length 1 were asked for; expected at least 2 tokens"),
        (["--length", "90"], "need 181 when they are repeated, but the model takes 128; choose a"),
        (["--threshold", "2"], "The threshold is 2.0; expected 0 or more, below 1."),
        (["--threshold", "nan"], "Argument 'threshold' is nan; expected a finite number"),
        (["--seed", "-1"], "The seed is -1; expected 0 or a positive whole number."),
    ],
)
def test_heads_that_cannot_be_scored(here, options, says):
    refused("heads", MODEL, *options, "--out", "run", says=says, unchanged=here)


COMMANDS = {
    "train-lens": ["--texts", "12"],
    "attribution": [],
    "similarity": [],
    "path-patch": ["--pairs", "1"],
    "attribution-patch": ["--pairs", "1"],
    "remove": ["--layers", "1"],
    "prune": ["--remove", "1"],
    "distill": ["organism-decoder-1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "organism-lokup"], "Unknown task 'organism-lokup'. Did you mean 'organism-"),
        (["--task", "english.jsonl"], "it speaks a toy language only; expected organism-lookup,"),
        (["--limit", "0"], "The limit of items must be at least 1, not 0; leave it out for all."),
        (["--seed", "-1"], "The seed is -1; expected 0 or a positive whole number."),
        (["--dtype", "float8"], "Unknown dtype 'float8'. Did you mean 'float"),
        (["--out", "file"], "file is a file: expected a folder"),
        (["--out", "."], "choose another"),
    ],
)
def test_bad_options_that_many_commands_have(here, command, options, says):
    given = {"--task": "organism-lookup", "--limit": "6", "--out": "run"}
    given |= dict([options])
    words = [word for pair in given.items() for word in pair]
    refused(command, MODEL, *COMMANDS[command], *words, says=says, unchanged=here)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ray", "--out", "run"], "--ray has no value: expected one behind it and found --out"),
        (["--task", "--limit", "6"], "--task has no value: expected one behind it and found"),
        (["--out", "--seed", "1"], "--out has no value: expected one behind it and found --seed"),
        (["--dtype", "--device", "cpu"], "--dtype has no value"),
    ],
)
def test_an_option_that_is_taken_for_a_value(here, options, says):
    refused("ablate", MODEL, *options, says=says, unchanged=here)


@pytest.mark.parametrize("model", [MODEL, "organism-seq2seq"])
def test_a_lens_of_another_model(here, model):
    done("train-lens", f"{model}-1", *LOOKUP, "--kind", "bias", "--texts", 20, "--steps", 1,
         "--out", "other")  # fmt: skip
    command = ["lens", model, *LOOKUP, "--lens", "tuned", "--tuned", "other", "--out", "run"]
    says = f"This tuned lens was trained on '{model}-1' with weights "
    refused(*command, says=says, unchanged=here)


def test_a_folder_of_a_run_with_other_settings(here):
    command = ["attribution", MODEL, *LOOKUP, "--protocol", "continuation", "--out", "run"]
    done(*command)
    says = '(against was "mean" and is now "best")'
    refused(*command, "--against", "best", says=says, unchanged=here)


def test_a_folder_that_holds_a_pruned_model(here):
    command = ["prune", MODEL, "--remove", "7", *LOOKUP, "--protocol", "continuation", "--out", "p"]
    done(*command)
    says = "p/compared holds a run with other settings (removed was [7] and is now [6])"
    refused(*(part.replace("7", "6") for part in command), says=says, unchanged=here)


def test_a_model_without_files_cannot_be_pruned(here):
    says = "The model has no Hugging Face original to write from: expected one that load_model"
    command = ["prune", "wired-decoder", "--remove", "0", "--task", "wired-lookup", "--out", "run"]
    refused(*command, says=says, unchanged=here)
