"""The command line's contract: what each command writes and says, and what its options do."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import layerwise as lw
from layerwise import cli
from layerwise.cli.commands import default_folder
from layerwise.cli.printing import say_start
from layerwise.models import load_model, weights_hash
from layerwise.stats.effects import (
    BASELINES,
    BLIND,
    GUESSER,
    GUESSER_AT_CHANCE,
    INTACT,
    NO_LAYERS,
)
from layerwise.tasks import languages
from tests import commands
from tests.analysis import solved_file, word_task, write_jsonl
from tests.commands import model_folder, process, run_cleanly
from tests.models.tiny import tiny_model

CONTRACT = ["intervention", "layer", "item", "task", "protocol", "correct", "gold_logprob",
            "margin", "generated"]  # fmt: skip
FIELDS = {"item", "task", "protocol", "context", "continuation", "gold", "context_tokens",
          "continuation_tokens"}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    solved_file(tiny_model("llama"), root / "solved.jsonl", 30)
    write_jsonl(root / "other.jsonl", word_task(4, "other", 9).items, capability="reasoning")
    return root


@pytest.fixture
def working_folder(files, monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def records(folder: str = "run") -> pd.DataFrame:
    return pd.read_parquet(Path(folder) / "records.parquet")


def settings(folder: str = "run") -> dict:
    return json.loads((Path(folder) / "run.json").read_text())


def test_what_scripts_may_rely_on(working_folder):
    said = run_cleanly(
        "ablate", model_folder(), "--task", "solved.jsonl", "--task", "other.jsonl",
        "--protocol", "continuation", "--protocol", "generate", "--limit", 3, "--out", "run",
    )  # fmt: skip
    table = records()
    assert set(CONTRACT) <= set(table.columns)
    assert set(table["task"]) == {"solved", "other"}
    assert set(table["protocol"]) == {"continuation", "generate"}
    assert (table.groupby("task")["item"].nunique() == 3).all()
    intact = table.loc[table["intervention"] == "intact"]
    assert len(intact) == 2 * 2 * 3
    lines = [json.loads(line) for line in Path("run/requests.jsonl").read_text().splitlines()]
    own = [line for line in lines if " asked " not in line["item"]]
    assert len(own) == 2 * (3 * 3 + 3)
    assert len(lines) > len(own)  # the same items under the others' questions
    for line in lines:
        assert line.keys() >= FIELDS
        assert (line["protocol"] == "generate") == (line["continuation"] is None)
    asked = {(line["task"], line["item"], line["protocol"]) for line in own}
    assert asked == set(zip(intact["task"], intact["item"], intact["protocol"], strict=True))
    assert "Tables: run" in said


def test_the_command_and_the_function_find_the_same(working_folder):
    run_cleanly(
        "ablate",
        model_folder(),
        "--task",
        "solved.jsonl",
        "--layers",
        "2,0-1",
        "--limit",
        5,
        "--kind",
        "mean",
        "--fewshot",
        1,
        "--seed",
        4,
        "--out",
        "run",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", commands.environment()["LAYERWISE_CACHE"])
        model = load_model(model_folder())
    result = lw.ablate(
        model, "solved.jsonl", layers=[2, 0, 1], limit=5, kind="mean", site="resid_post",
        fewshot=1, seed=4, progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(lw.load("run")[0].records, result.records)
    assert settings()["model"]["hash"] == weights_hash(model)
    assert settings()["tasks"][0]["n_fewshot"] == 1
    assert settings()["seed"] == 4


@pytest.mark.parametrize(
    ("options", "interventions"),
    [
        (["--layers", "1"], {"skip:layer=1"}),
        (["--layers", "0-1", "--site", "attn_out"], {f"skip:attn_out,layer={k}" for k in (0, 1)}),
        (["--layers", "0, 2", "--kind", "zero"], {f"zero:resid_post,layer={k}" for k in (0, 2)}),
        (["--kind", "mean", "--site", "mlp_out"], {f"mean:mlp_out,layer={k}" for k in range(3)}),
    ],
)
def test_kinds_sites_and_layers(working_folder, options, interventions):
    base = ["--task", "other.jsonl", "--protocol", "letter", "--out", "run"]
    run_cleanly("ablate", model_folder(), *base, *options)
    changed = records().loc[~records()["kind"].isin(BASELINES)]
    assert set(changed["intervention"]) == interventions
    measured = set(records()["kind"])
    assert measured >= {INTACT, BLIND, NO_LAYERS}
    assert measured & {GUESSER, GUESSER_AT_CHANCE}


@pytest.mark.long
def test_number_formats_and_methods(working_folder):
    base = ["ablate", model_folder(), "--task", "other.jsonl", "--protocol", "continuation"]
    run_cleanly(*base, "--out", "run")
    run_cleanly(*base, "--dtype", "bfloat16", "--out", "half")
    run_cleanly(*base, "--method", "reference", "--device", "cpu", "--out", "slow")
    assert settings("half")["model"]["dtype"] == "bfloat16"
    gap = (records()["gold_logprob"] - records("half")["gold_logprob"]).abs()
    assert 1e-4 < gap.max() < 2
    gap = (records()["gold_logprob"] - records("slow")["gold_logprob"]).abs()
    assert gap.max() < 1e-4


@pytest.mark.long
def test_patch_heads_in_both_directions(working_folder):
    run_cleanly("patch", model_folder(), "--task", "arithmetic", "--fewshot", 0, "--limit", 60,
         "--pairs", 1, "--site", "z", "--direction", "denoising", "--direction", "noising",
         "--position", "last", "--kl", "--align", "--out", "run")  # fmt: skip
    (result,) = lw.load("run")
    assert set(result.patching["direction"]) == {"denoising", "noising"}
    assert set(result.patching["pos_label"]) == {"last"}
    assert set(result.patching["head"]) == set(range(4))
    assert result.patching["patched_kl"].notna().all()


def test_nothing_to_show_is_said_in_words(working_folder):
    said = run_cleanly("ablate", model_folder(), "--task", "other.jsonl", "--protocol", "letter")
    assert "No task has signal: the intact model is not better than blind." in " ".join(
        said.split()
    )
    assert [path.name for path in working_folder.iterdir() if path.is_dir()] == []


def test_square_brackets_in_names_are_shown_as_they_are(working_folder):
    folder = model_folder()
    folder = working_folder / "models[" / "]red[" / "x]"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model_folder())
    (working_folder / "[bold]words.jsonl").write_bytes(
        (working_folder / "solved.jsonl").read_bytes()
    )
    said = run_cleanly("ablate", "models[/]red[/x]", "--task", "[bold]words.jsonl", "--fewshot", 0,
                "--protocol", "continuation", "--layers", 0)  # fmt: skip
    flat = "".join(said.split())
    assert "models[/]red[/x]" in flat
    assert "tasks:[bold]words" in flat


def test_tasks_and_models_are_listed():
    said = run_cleanly("tasks")
    built_in, benchmarks, others = said.split("\n\n")
    named = [line.split(" ")[0] for line in built_in.splitlines()[:-2]]
    assert named == [name for one in languages() for name in lw.task_names(one)]
    assert "benchmark:mmlu:[subject=...:]data=FOLDER (knowledge): exam questions" in benchmarks
    assert others.startswith("lm-eval:NAME or lm-eval:FILE.yaml: a task or group of lm-eval")
    assert ".jsonl" in said.splitlines()[-1]
    assert run_cleanly("models").startswith("smollm2-135m: SmolLM2-135M")


def test_a_model_is_described():
    said = run_cleanly("models", model_folder())
    assert "n_layers: 3\n" in said
    assert "parity: " in said
    assert "attention: scaled_dot_product_attention" in said


def test_a_process_of_its_own_says_nothing_else(working_folder):
    """Libraries' own chatter on either stream would drown the answer."""
    ended = process("lens", model_folder(), "--task", "other.jsonl", "--protocol", "continuation")
    assert (ended.code, ended.err) == (0, "")
    assert re.match(r"Took [\d.]+ s\.\nLensResult\(", ended.out)


def test_a_command_goes_on_where_what_it_does_cannot_be_said(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    say_start("Loading", "a model")


@pytest.mark.parametrize(
    ("model", "folder"),
    [("smollm2-135m", "smollm2-135m"), ("owner/name", "name"), ("a/b/", "b"), (".", "here")],
)
def test_a_profile_goes_to_a_folder_named_after_the_model(tmp_path, monkeypatch, model, folder):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert default_folder(model) == Path("runs") / folder


# Imports are wrapped, so that a signal comes in the middle of the command line's own.
INTERRUPTED = """
import builtins, signal
from layerwise.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
real = builtins.__import__
def imported(name, *rest):
    if name == "typer":
        signal.raise_signal(signal.SIGINT)
    return real(name, *rest)
builtins.__import__ = imported
main()
"""


def test_an_interruption_while_the_command_line_is_imported_is_one_sentence():
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "layerwise: interrupted.\n")


def test_an_interruption_while_the_command_line_is_built_is_one_sentence(monkeypatch, capsys):
    def interrupted(app: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "layerwise: interrupted.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["lens", "--help"]])
def test_an_output_that_is_full_is_told_in_one_sentence(arguments):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*commands.COMMAND, *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, env=commands.environment(),
        )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("layerwise: cannot write (No space left on device): expected")
    assert ended.stderr.count("\n") == 1
