"""Small jobs over untrusted input in a process of their own, with limits of time and memory.

Patterns, normalizers and templates cannot be interrupted in this process. The jobs are in
``limited_jobs``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerwise.errors import UserError

SECONDS = 20.0
"""Processor time of one request, and again for each million characters of it."""

MEMORY = 2 * 2**30
"""Bytes that the process may allocate."""

_IDLE_SECONDS = 30  # then it ends, and gives its memory back
_WAITED = 15  # times as long by the clock, for what waits for ever
_ALONE = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class OverLimitError(Exception):
    """A request needs more than its process has; the message says what and how much that is."""


class JobError(Exception):
    """A job raised an exception; the message is its type and its own."""


class _IdleError(Exception):
    """The process ended because there was nothing to do."""


class LimitedProcess:
    """A process for one job, started when it is needed."""

    def __init__(self, job: str, setup: Callable[[], Any] = lambda: None) -> None:
        # job: the name of a function in ``limited_jobs``; setup: makes what the job starts from,
        # each time that a process is started.
        self._job, self._setup = job, setup
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_by = 0
        self._stop: Callable[[], Any] = lambda: None

    def ask(self, request: Any, n_characters: int = 0) -> Any:
        """The job's answer to a request of so many characters."""
        with self._lock, contextlib.suppress(_IdleError):
            return self._answer(request, n_characters)
        with self._lock:
            return self._answer(request, n_characters)

    def _answer(self, request: Any, n_characters: int) -> Any:
        if self._started_by != os.getpid():  # a fork would take its parent's answers
            self._process = None
        try:
            if self._process is None:
                self._process = self._start()
                _exchange(self._process, self._setup(), 0)
            return _exchange(self._process, request, n_characters)
        except BaseException:  # one that was interrupted would answer the next request with this
            self._process = None
            self._stop()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("limited_jobs.py")
        limits = (str(MEMORY), str(_IDLE_SECONDS))
        paths = (path for path in sys.path if os.path.isdir(path))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), self._job, *limits, *paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ALONE,
            )
        except OSError as error:
            raise UserError(
                f"No process can be started ({error.strerror or error}): expected one, in which "
                "files from elsewhere are tried; free memory or raise its limits."
            ) from error
        self._started_by = os.getpid()
        self._stop = weakref.finalize(self, _stop, process, self._started_by)
        return process


def _exchange(process: subprocess.Popen[bytes], request: Any, n_characters: int) -> Any:
    seconds = SECONDS * (1 + n_characters / 1e6)
    time = f"{seconds:.3g} seconds of the processor"
    line = json.dumps({"seconds": seconds, "request": request}).encode() + b"\n"
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended, and why is asked below
        process.stdin.write(line)
        process.stdin.flush()
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(1000 * seconds * _WAITED):
        raise OverLimitError(time)
    reply = process.stdout.readline()
    if not reply.endswith(b"\n"):
        raise _reason_of_end(process.wait(), time)
    answer = json.loads(reply)
    if "error" in answer:
        raise JobError(": ".join(answer["error"]))
    return answer["answer"]


def _reason_of_end(code: int, time: str) -> Exception:
    """The exception for a process that ended before its answer was whole."""
    if code == -signal.SIGALRM:
        return _IdleError()
    if code == -signal.SIGPROF:
        return OverLimitError(time)
    # MemoryError ends it by 1; libraries abort, and the system kills, for want of memory.
    if code in (1, -signal.SIGABRT, -signal.SIGKILL):
        return OverLimitError(f"{MEMORY / 2**30:.3g} GiB of memory")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return OverLimitError(f"a process survives ({how})")


def _stop(process: subprocess.Popen[bytes], started_by: int) -> None:
    if os.getpid() == started_by:  # not in a fork of this process
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()
