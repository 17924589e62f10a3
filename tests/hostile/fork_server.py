"""Commands as processes of their own that need not import everything anew.

A server imports the package once and forks for each command, so that hundreds can be started and
killed. A killed command is a killed process; nothing of it is left but what it wrote.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.hostile.moments import Counter, Moment, end_at_length

_IMPORTED = (
    "scipy.stats", "transformer_lens", "transformers.models.llama.modeling_llama",
    "transformers.models.t5.modeling_t5", "layerwise.cli.app", "layerwise.analyses.comparison.api",
    "layerwise.profiling.api", "layerwise.analyses.pruning.api", "layerwise.report.figures",
)  # fmt: skip
ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 120.0


class CommandEnd(NamedTuple):
    """End of a command.

    ``code`` is the negative number of a signal that ended it, and then ``steps`` on the disk None.
    """

    code: int
    out: str
    err: str
    seconds: float
    steps: int | None


@dataclass
class ForkServer:
    """The server's process, a context manager; all commands have its environment variables."""

    variables: Mapping[str, str]
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **self.variables},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate()

    def run(self, args: Sequence[object], folder: Path, moment: Moment | None = None) -> CommandEnd:
        """Run ``layerwise ARGS`` in a folder, to its end or to the moment of its end."""
        asked = {
            "args": list(map(str, args)),
            "folder": str(folder),
            "moment": None if moment is None else moment.as_json(),
        }
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        return CommandEnd(**json.loads(stdout.readline()))


def _serve(requests: IO[str], answers: IO[str]) -> None:
    _import_commands()
    for line in requests:
        answers.write(json.dumps(_start_command(json.loads(line))._asdict()) + "\n")
        answers.flush()
    os._exit(0)  # to forget all that was imported takes seconds


def _import_commands() -> None:
    """Import what the commands import, and do none of what they do."""
    for name in _IMPORTED:
        import_module(name)


def _start_command(asked: dict[str, Any]) -> CommandEnd:
    """One command as a child of the server."""
    moment = None if asked["moment"] is None else Moment(**asked["moment"])
    outs = [os.memfd_create(name) for name in ("out", "err")]
    counted, tell = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(counted)
        _be_command(asked, moment, outs, tell)
    os.close(tell)
    code = _wait_for(child, moment)
    seconds = time.monotonic() - began
    with os.fdopen(counted) as pipe:
        steps = pipe.read()
    return CommandEnd(code, *map(_content, outs), seconds, int(steps) if steps else None)


def _wait_for(child: int, moment: Moment | None) -> int:
    """Wait for the child, and kill it at its moment if that is a time."""
    after = moment.at if moment is not None and moment.kind == "seconds" else LIMIT_SECONDS
    timer = threading.Timer(after, os.kill, (child, signal.SIGKILL))
    timer.start()
    _, status, _ = os.wait4(child, 0)
    timer.cancel()
    timer.join()
    return os.waitstatus_to_exitcode(status)


def _content(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _be_command(asked: dict[str, Any], moment: Moment | None, outs: list[int], tell: int) -> None:
    """In the child: run the command line, and never come back."""
    counter = Counter(moment.at if moment is not None and moment.kind == "step" else None)
    code = 70
    try:
        for descriptor, target in zip((outs[0], outs[1]), (1, 2), strict=True):
            os.dup2(descriptor, target)
        os.chdir(asked["folder"])
        sys.argv = ["layerwise", *asked["args"]]
        counter.watch()
        if moment is not None and moment.kind == "byte":
            end_at_length(int(moment.at))
        code = _exit_code()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(tell, str(counter.steps).encode())
        os._exit(code)


def _exit_code() -> int:
    """The exit code of the command line, whose second processes would import this module."""
    import traceback

    import layerwise.cli.app

    layerwise.cli.app.work_beside = lambda: None
    try:
        layerwise.cli.app.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
