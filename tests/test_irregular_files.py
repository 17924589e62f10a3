"""Pipes and devices where a file is to be read: refused in a sentence, at once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerwise as lw
from layerwise.analyses.shared.translators import TunedLens
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.report import report_from_folders
from layerwise.results import AblationResult, RunFolder, load
from layerwise.tasks import load_task
from tests import commands, synthetic

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")


def as_pipe(path: Path) -> None:
    """Put a pipe to which nobody writes in a file's place."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_endless(path: Path) -> None:
    """Put a link to the device that gives zeros without an end in a file's place."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


class _WaitsError(BaseException):
    """A reader waits; no ``except OSError`` takes it for a damaged file."""


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """End a test that waits or reads for ever."""

    def over(*_: object) -> None:
        raise _WaitsError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


KINDS = [as_pipe, as_endless]
NAMES = [
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("generation_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "model.safetensors.index.json", "adapter_config.json"),
    *("tokenizer.model", "additional_chat_templates/tools.jinja"),
]


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_folder_with_a_pipe_or_a_device_is_refused(tmp_path, name, put):
    folder = tmp_path / "model"
    shutil.copytree(commands.model_folder(), folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    put(path)
    with pytest.raises(UserError, match=r"is a pipe or a device.*: expected a folder of ordinary"):
        load_model(folder)


@pytest.mark.parametrize("put", KINDS)
def test_a_gguf_or_lens_that_is_a_pipe_or_a_device_is_refused(tmp_path, put):
    put(tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"cannot be read \(a pipe or a device"):
        load_model(tmp_path / "model.gguf")
    put(tmp_path / "lens.safetensors")
    with pytest.raises(UserError, match="is missing, damaged or not a tuned lens"):
        TunedLens.load(tmp_path / "lens.safetensors")


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", ["run.json", "records.parquet"])
def test_results_that_are_a_pipe_or_a_device_are_refused(tmp_path, name, put):
    folder = tmp_path / "run"
    synthetic.small_ablation().save(folder)
    put(folder / name)
    for read in (load, AblationResult.load, report_from_folders):
        with pytest.raises(UserError):
            read(folder)
    assert lw.verify(folder).files[name] == "changed"
    if name == "run.json":
        with pytest.raises(UserError, match=r"run\.json cannot be read"):
            RunFolder.open(folder, {})


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", ["requests.jsonl", "not_kept.txt"])
def test_what_lies_beside_tables_may_be_a_pipe_or_a_device(tmp_path, name, put):
    folder = tmp_path / "run"
    with RunFolder.open(folder, {}) as run:
        result = synthetic.small_ablation()
        result.save(folder)
        (folder / "requests.jsonl").write_text("{}\n")
        run.finish(result.facts)
    put(folder / name)
    if name == "requests.jsonl":
        with pytest.raises(UserError, match=r"requests\.jsonl was changed after it was written"):
            load(folder)
    else:
        load(folder)
    assert lw.verify(folder).ok == (name == "not_kept.txt")


@pytest.mark.parametrize("put", KINDS)
def test_a_part_of_a_run_that_is_a_pipe_or_a_device_counts_as_missing(tmp_path, put):
    with RunFolder.open(tmp_path, {}) as run:
        run.write_bytes("part", b"content")
        put(tmp_path / "parts" / "part.part")
        assert not run.has_part("part")
        assert run.read_bytes("part") is None


QUESTIONS = [
    *((name, f"HERE/{name}") for name in ("a.jsonl", "a.csv", "a.parquet", "a.toml")),
    *(("beside.jsonl", f"HERE/{name}.toml") for name in ("asked", "examples")),
    *((f"data/test.{kind}", "hf:x:data=HERE") for kind in ("jsonl", "csv", "parquet")),
    ("test.jsonl", "benchmark:gsm8k:data=HERE"),
    ("SVAMP.json", "benchmark:svamp:data=HERE"),
    ("test/a_test.csv", "benchmark:mmlu:data=HERE"),
    ("kind/a.json", "benchmark:relations:data=HERE"),
    ("SVAMP.json", "benchmark:svamp:data=HERE/SVAMP.json"),
    ("test.jsonl", "hf:x:data=HERE/test.jsonl"),
]


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize(("file", "name"), QUESTIONS)
def test_questions_that_are_a_pipe_or_a_device_are_refused(tmp_path, file, name, put):
    (tmp_path / "asked.toml").write_text('task = "beside.jsonl"')
    (tmp_path / "examples.toml").write_text('task = "facts"\nfewshot = "beside.jsonl"')
    (tmp_path / file).parent.mkdir(exist_ok=True)
    put(tmp_path / file)
    itself = name.endswith(f"data=HERE/{file}")  # where a folder, or an ordinary file, is expected
    says = (
        "has no file of" if itself else r"cannot be read \(a pipe or a device, no ordinary file\);"
    )
    with pytest.raises(UserError, match=says):
        load_task(name.replace("HERE", str(tmp_path)))


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize("name", ["comparison.json", "training.json"])
def test_lists_of_joined_runs_that_are_a_pipe_or_a_device_are_told(tmp_path, name, put):
    put(tmp_path / name)
    with pytest.raises(UserError, match="expected the folder of a finished run, a comparison"):
        lw.verify(tmp_path)
