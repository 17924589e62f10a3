"""The command line as tests use it: in this process, or as a process of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from layerwise.cli import app as cli
from layerwise.cli import commands
from tests.models.tiny import session_folder, tiny_folder

COMMAND = [sys.executable, "-m", "layerwise.cli"]


_folders: set[str] = set()


# Of runs of so few items that no signal is possible, which is said beforehand.
_FEW = re.compile(r"^layerwise: Too few items for any signal: .*\n", re.MULTILINE)
START = re.compile(r"\Alayerwise: (Loading|Reading|Checking|Comparing) .* \.\.\.\n")


def without_notes(err: str) -> str:
    """Output of a command beside its work, but for what it does first and for too few items."""
    return _FEW.sub("", START.sub("", err))


class Outcome(NamedTuple):
    """Outcome of a command."""

    code: int
    out: str
    err: str  # without the line that says at once what takes a while


@functools.cache
def model_folder(name: str = "tiny", **config: int) -> Path:
    """A tiny random model's folder, made once a session; do not change it."""
    folder = tiny_folder(session_folder(), "llama", **config)
    folder = folder.rename(folder.with_name(name))
    _folders.add(str(folder))
    return folder


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that must neither see the user's cache nor take more cores."""
    cache = str(session_folder() / "cache")
    return os.environ | {"LAYERWISE_CACHE": cache, "OMP_NUM_THREADS": "1"} | more


@functools.cache
def _load_named(load: Callable[..., Any], name: str, **options: str | None) -> Any:
    return load(name, **options)


def _load(name: str, **options: str | None) -> Any:
    """Load a model as commands do, but toy models and ``model_folder`` once a session."""
    from layerwise.models import load_model

    unchanging = name.startswith(("organism-", "wired-")) or name in _folders
    load = _load_named if unchanging else lambda load, *args, **options: load(*args, **options)
    return load(load_model, name, **options)


_parser = functools.cache(typer.main.get_command)


def run(*args: object, load: Callable[..., Any] = _load) -> Outcome:
    """Run a command in this process, as ``layerwise ARGS`` would."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", environment()["LAYERWISE_CACHE"])
        patch.setattr(commands, "load_for_process", load)
        patch.setattr(typer.main, "get_command", _parser)
        patch.setattr(sys, "argv", ["layerwise", *map(str, args)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _exit_code(cli.main)
    return Outcome(code, out.getvalue(), START.sub("", err.getvalue(), count=1))


def _exit_code(main: Callable[[], None]) -> int:
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def run_cleanly(*args: object) -> str:
    """Run a command that must end well without an error or a warning; what it said."""
    outcome = run(*args)
    # Most tests have a handful of items, which it warns of; and on a busy machine it says after
    # half a minute how far it is.
    usual = re.compile(r"Too few items for any signal|^layerwise: (starting for|\d+% done)")
    lines = [one for one in outcome.err.splitlines() if not usual.search(one)]
    assert (outcome.code, lines) == (0, []), outcome
    return outcome.out


def process(*args: object, **variables: str) -> Outcome:
    """Run a command as a process of its own."""
    ended = subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True, text=True, timeout=120, env=environment(**variables),
    )  # fmt: skip
    return Outcome(ended.returncode, ended.stdout, START.sub("", ended.stderr, count=1))


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """One sentence with all ``parts`` on the error stream, nothing else, and exit code 2."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("layerwise: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.endswith("\n")
    for part in parts:
        assert part in outcome.err, outcome.err


def assert_command_refused(
    *args: object, says: str, unchanged: Path, by: Callable[..., Outcome] = run
) -> None:
    """Run a command that must be refused and must leave a folder as it was."""
    before = contents(unchanged)
    assert_refused(by(*args), says)
    assert contents(unchanged) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder with their bytes, and its folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
