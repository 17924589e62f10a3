"""Whatever is typed, whatever files lie there: a shell is given plain names, and runs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from layerwise.cli import completion
from tests import commands
from tests.hostile.documents import TEXTS
from tests.hostile.extent import fuzz
from tests.hostile.limits import within_limits
from tests.hostile.strings import FILE_NAMES

PARTS = 4
PLAIN = re.compile(r"[\w./+:=-]+", re.ASCII)
COMMANDS = ["ablate", "look", "compare", "plan m --analysis", "report", "transplant a", "--", "no"]
RUNNING = ["$(touch ran)", "`touch ran`", "a;touch ran", "'|touch ran", "a\ntouch ran", "*", "-x"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A folder of files and models whose names are hostile, and of pipes, links and devices."""
    monkeypatch.chdir(tmp_path)
    for name in (*FILE_NAMES.values(), *RUNNING, "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        (tmp_path / f"{name}.jsonl").touch()
        (tmp_path / f"{name}.gguf").touch()
    os.mkfifo("pipe.jsonl")
    for name, target in (("loop", "loop"), ("device.toml", "/dev/zero"), ("up", ".")):
        Path(name).symlink_to(target)
    (tmp_path / "odd").mkdir()
    os.mkfifo("odd/config.json")
    Path(os.fsdecode(b"\xff.jsonl")).touch()
    return tmp_path


def typed_words() -> st.SearchStrategy[str]:
    """Texts before the cursor: beginnings of names, hostile texts, and both."""
    begun = st.sampled_from(
        ["", "smol", "fact", "benchmark:", "hf:", "up/up/pl", "./", "loop/", "~/", "device.toml/",
         "odd", "../", "/", "//proc/self/", "/dev/", "a\0"]
    )  # fmt: skip
    ends = st.one_of(st.just(""), TEXTS, st.sampled_from([*RUNNING, *FILE_NAMES.values()]))
    return st.builds(str.__add__, begun, ends)


def test_any_word_is_completed_to_plain_names_that_begin_with_it(here: Path, count):
    completers = (
        completion.complete_model, completion.complete_task, completion.complete_protocol,
    )  # fmt: skip
    before = sorted(map(str, here.rglob("*")))

    @fuzz(PARTS, typed=typed_words())
    def tried(typed: str):
        with within_limits():
            names = [name for complete in completers for name in complete(typed)]
        assert all(name.startswith(typed) and PLAIN.fullmatch(name) for name in names)
        count("completed words")

    assert sorted(map(str, here.rglob("*"))) == before


@pytest.mark.usefixtures("here")
def test_any_line_is_completed_for_each_shell_without_an_error(monkeypatch, count):
    @fuzz(
        4 * PARTS,
        shell=st.sampled_from(["bash", "zsh", "fish", "powershell"]),
        command=st.sampled_from(COMMANDS),
        typed=typed_words().filter(lambda word: word.isprintable() and "\0" not in word),
        place=st.sampled_from([0, 1, 2, 3, 99]),
    )
    def tried(shell: str, command: str, typed: str, place: int):
        line = f"layerwise {command} {typed}"
        for name, value in {
            "_LAYERWISE_COMPLETE": f"complete_{shell}", "COMP_WORDS": line,
            "COMP_CWORD": str(place), "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_WORD_TO_COMPLETE": typed,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        with within_limits():
            ended = commands.run()
        assert (ended.code, ended.err) == (0, "")
        if shell == "bash":
            assert all(map(PLAIN.fullmatch, filter(None, ended.out.split("\n"))))
        count("completed lines")


@pytest.mark.long
@pytest.mark.parametrize("typed", ["", *RUNNING, "plain", "a"])
def test_a_real_shell_completes_and_runs_nothing(here: Path, typed: str, count):
    made = [sys.executable, "-m", "layerwise.cli"]
    environment = commands.environment(_LAYERWISE_COMPLETE="source_bash")
    script = subprocess.run(made, capture_output=True, text=True, env=environment, check=True)
    (function,) = re.findall(r"complete -o default -F (\w+)", script.stdout)
    (here / "run me").write_text(f'#!/bin/sh\nexec {" ".join(made)} "$@"\n')
    (here / "run me").chmod(0o755)
    asked = f"""{script.stdout}
    COMP_WORDS=(layerwise ablate m --task "$1") COMP_CWORD=4
    {function} "$2" && printf '%s\\0' "${{COMPREPLY[@]}}" """
    ended = subprocess.run(
        ["bash", "--norc", "-c", asked.replace(" $1 )", ' "$1" )'), "bash", typed, here / "run me"],
        capture_output=True, text=True, env=commands.environment(), cwd=here, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    names = [name for name in ended.stdout.split("\0") if name]
    assert all(map(PLAIN.fullmatch, names))
    assert ("plain.jsonl" in names) == (typed in ("", "plain"))
    assert not (here / "ran").exists()
    count("completed lines")
