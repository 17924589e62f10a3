"""Processes that are forked from the tests' own, and so need not import everything anew."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork_work(work: Callable[[], int]) -> int:
    """Fork this process; the child, whose id is returned, does the work and ends with its code."""
    with warnings.catch_warnings():
        # Newer Pythons warn of threads that the child lacks; those of pytest's workers only wait.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # without pytest's own end


def exit_code(child: int, seconds: float = 60.0) -> int:
    """Wait for a child's end; its exit code, or the negative number of the signal it died of."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"a forked process did not end within {seconds} seconds")
        time.sleep(0.002)
