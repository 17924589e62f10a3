"""Jobs in a limited process: answered, ended at their limits, started anew."""

from __future__ import annotations

import os
import signal

import pytest

from layerwise.errors import UserError
from layerwise.ground import limited
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError

SLOW = {"patterns": ["(a+)+b"], "names": ["a" * 60]}
QUICK = {"patterns": ["(a+)+b"], "names": ["a"]}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(limited, "SECONDS", 0.3)


def test_a_request_that_takes_too_long_is_ended_and_the_next_is_answered(quick):
    process = LimitedProcess("match_patterns")
    with pytest.raises(OverLimitError, match=r"0\.3 seconds of the processor"):
        process.ask(SLOW)
    assert process.ask(QUICK) is None


def test_a_long_request_is_given_longer(quick):
    with pytest.raises(OverLimitError, match=r"0\.6 seconds"):
        LimitedProcess("match_patterns").ask(SLOW, 1_000_000)


def test_a_request_that_needs_too_much_memory_is_ended(monkeypatch):
    monkeypatch.setattr(limited, "MEMORY", 2**28)
    template = "{{ messages[0].content * 10**9 }}"
    setup = {"template": template, "special_tokens": {}, "most": 100}
    process = LimitedProcess("render_template", lambda: setup)
    assert process.ask([{"content": ""}])["text"] == ""
    with pytest.raises(OverLimitError, match=r"0\.25 GiB of memory"):
        process.ask([{"content": "a"}])


def test_a_failure_is_reported_with_its_type():
    with pytest.raises(JobError, match="Exception: "):
        LimitedProcess("count_tokens", lambda: {"json": "{"}).ask(["a"])


def test_a_process_that_ended_idle_is_started_again():
    process = LimitedProcess("match_patterns")
    process.ask(QUICK)
    first = process._process
    assert first is not None
    os.kill(first.pid, signal.SIGALRM)  # what its own alarm does
    first.wait()
    process.ask(QUICK)
    assert process._process is not first


def test_an_idle_process_ends(monkeypatch):
    monkeypatch.setattr(limited, "_IDLE_SECONDS", 1)
    process = LimitedProcess("match_patterns")
    process.ask(QUICK)
    assert process._process is not None
    assert process._process.wait(timeout=20) == -signal.SIGALRM


def test_an_interrupted_request_leaves_no_answer_behind():
    process = LimitedProcess("match_patterns")
    process.ask(QUICK)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            process.ask(SLOW)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert process._process is None
    assert process.ask(QUICK) is None


def test_a_process_ends_with_its_owner():
    process = LimitedProcess("match_patterns")
    process.ask(QUICK)
    started = process._process
    del process
    assert started is not None
    assert started.returncode is not None


def test_a_process_that_cannot_be_started_is_reported(monkeypatch):
    monkeypatch.setattr(limited.sys, "executable", "/nowhere/python")
    with pytest.raises(UserError, match=r"No process can be started.*expected"):
        LimitedProcess("match_patterns").ask(QUICK)
