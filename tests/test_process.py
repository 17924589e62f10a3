"""What the command line settles for its process."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from layerwise.cli import app
from layerwise.errors import UserError
from layerwise.ground import limited, waiting
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError
from layerwise.ground.process import keep_freed_memory
from layerwise.ground.waiting import (
    DECIDED_BY,
    SECONDS,
    Counts,
    Waiting,
    loaded_libraries,
    wait_briefly_beside_others,
)

PAGES = """
import gc, resource, sys
import numpy as np
from layerwise.ground.process import collect_rarely, settle
collect_rarely()
if sys.argv[1] == "settled":
    settle()
def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
taken()
print(taken(), gc.get_freeze_count(), gc.get_threshold()[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for glibc's allocator")
def test_freed_memory_is_kept_and_what_is_loaded_is_not_looked_at_again() -> None:
    def run(how: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True
        )
        return [int(number) for number in done.stdout.split()]

    (new, unfrozen, threshold), (kept, frozen, same) = run("plain"), run("settled")
    assert kept < new / 10
    assert unfrozen == 0 < frozen
    assert threshold == same > 700


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_without_such_an_allocator_nothing_is_done(monkeypatch, error) -> None:
    def no_library(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert keep_freed_memory() is False
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


@pytest.fixture
def command_line(monkeypatch):
    """Runs a function as the command line would run a command; nothing else is settled."""
    for name in ("collect_rarely", "work_beside", "wait_briefly_beside_others"):
        monkeypatch.setattr(app, name, lambda: None)

    def run(command) -> None:
        monkeypatch.setattr(app, "app", lambda **_: command())
        app.main()

    return run


def test_a_device_without_memory_is_told_in_a_sentence(command_line, capsys) -> None:
    def command() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    with pytest.raises(SystemExit) as ended:
        command_line(command)
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("layerwise: the device ran out of memory: expected room for")
    assert "--memory-budget" in said
    assert said.endswith("(CUDA out of memory. Tried to allocate 2 GiB)")


def test_other_errors_of_torch_are_seen_whole(command_line) -> None:
    def command() -> None:
        raise RuntimeError("an error of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        command_line(command)


LINUX = sys.platform.startswith("linux")


def after(looks: list[tuple[float, float]]) -> list[bool]:
    """Whether threads wait briefly after each of some looks: processors taken, and idle."""
    briefly, now = [], Waiting()
    for taken, idle in looks:
        now = now.after(taken, idle)
        briefly.append(now.briefly)
    return briefly


def test_threads_sleep_while_others_want_their_processors():
    a_second, one, two = [(1.0, 0.0), *[(0.0, 0.0)] * 9], round(1 / SECONDS), round(2 / SECONDS)
    assert after([(0.0, 0.0), (0.9, 0.0), (0.9, 0.0)]) == [False, False, True]
    assert not any(after(a_second * 20))  # a moment now and then
    assert not any(after([(1.0, 1.0)] * 20))  # there are idle ones for all
    assert all(after([(2.0, 0.0), *[(0.7, 0.6)] * 100])[1:])  # they sleep on
    briefly = after([(2.0, 0.0)] * 30 + [(0.0, 0.0)] * two)
    assert all(briefly[1 : 30 + one])
    assert not briefly[-1]


@pytest.mark.skipif(not LINUX, reason="asks Linux")
def test_what_others_have_is_what_is_busy_and_not_this_process(monkeypatch):
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda pid: {0, 1})
    before, now = Counts(3.0, 5.0, 1.0), Counts(3.5, 5.9, 1.4)
    assert now.since(before) == pytest.approx((1.0, 0.2))
    assert Counts(3.5, 5.3, 1.4).since(before) == pytest.approx((0.0, 1.4))
    assert 0 < Counts.now().busy <= 2 * psutil.boot_time()


def test_copies_of_the_library_are_found_whatever_their_path():
    lines = [
        "7f00-7f01 r-xp 00000000 08:01 12    /opt/a folder/torch/lib/libgomp.so.1",
        "7f01-7f02 r--p 00001000 08:01 12    /opt/a folder/torch/lib/libgomp.so.1",
        "7f02-7f03 r-xp 00000000 08:01 13    /opt/sklearn.libs/libgomp-a34b3233.so.1.0.0",
        "7f03-7f04 r-xp 00000000 08:01 14    /opt/torch/lib/libtorch_cpu.so",
        "7f04-7f05 rw-p 00000000 00:00 0",
        "",
    ]
    assert list(loaded_libraries(line for line in lines if line)) == [
        "/opt/a folder/torch/lib/libgomp.so.1",
        "/opt/sklearn.libs/libgomp-a34b3233.so.1.0.0",
    ]


@pytest.fixture
def begun(monkeypatch) -> list[str]:
    """Names of threads that would have been started."""
    names: list[str] = []
    monkeypatch.setattr(waiting.threading.Thread, "start", lambda self: names.append(self.name))
    monkeypatch.setattr(waiting.sys, "platform", "linux")
    monkeypatch.setattr(Counts, "now", lambda: Counts(0.0, 1.0, 1.0))
    return names


def test_a_machine_is_looked_after_where_its_user_has_not_decided(begun):
    environment: dict[str, str] = {}
    assert wait_briefly_beside_others(environment)
    assert begun == ["layerwise-waiting"]
    assert environment == {}


@pytest.mark.parametrize("busy", [0.0, 1.0])
def test_what_a_user_has_set_stays(busy, begun, monkeypatch):
    monkeypatch.setattr(Counts, "now", lambda: Counts(0.0, busy, 0.0))
    for name in DECIDED_BY:
        environment = {name: "1"}
        assert not wait_briefly_beside_others(environment)
        assert environment == {name: "1"}
    assert begun == []


def test_threads_always_wait_briefly_where_the_kernel_does_not_tell(begun, monkeypatch):
    monkeypatch.setattr(Counts, "now", lambda: Counts(0.0, 0.0, 0.0))
    environment: dict[str, str] = {}
    assert not wait_briefly_beside_others(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setattr(waiting.sys, "platform", "darwin")
    elsewhere: dict[str, str] = {}
    assert not wait_briefly_beside_others(elsewhere)
    assert elsewhere == {}
    assert begun == []


BEGIN = """
import sys
from layerwise.ground import waiting
def begin():
    print("torch" in sys.modules)
    raise SystemExit(3)
import layerwise.cli.app as app
app.wait_briefly_beside_others = begin
sys.argv = ["layerwise", "models"]
app.main()
"""


def test_the_command_line_begins_with_it_before_torch_is_imported():
    done = subprocess.run([sys.executable, "-c", BEGIN], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (3, "False")


# Two threads add, then there is nothing to do for longer than they would wait awake.
AWAKE = """
import json, os, time
import torch
from layerwise.ground.waiting import Waiting, _MoreThreads
torch.set_num_threads(2)
numbers = torch.ones(2**17)
def awake():
    before = time.process_time()
    for _ in range(20):
        numbers.add_(1)
        time.sleep(0.02)
    return time.process_time() - before
def settled(wanted, n):
    more.set(wanted)
    for _ in range(500):
        time.sleep(0.01)
        if (len(os.listdir("/proc/self/task")) > n) == wanted:
            return awake()
more, _ = _MoreThreads(), awake()
n = len(os.listdir("/proc/self/task"))
found = [awake(), settled(True, n), settled(False, n)]
print(json.dumps([found, torch.get_num_threads()]))
"""


@pytest.mark.long
@pytest.mark.skipif(not LINUX, reason="GNU's library of OpenMP")
def test_more_threads_let_those_that_compute_sleep_soon():
    gnu = list(Path(torch.__file__).parent.glob("lib/libgomp*"))
    if not gnu or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("torch has another library of OpenMP here, or there is one processor")
    plain = {name: value for name, value in os.environ.items() if name not in DECIDED_BY}
    done = subprocess.run(
        [sys.executable, "-c", AWAKE], env=plain, capture_output=True, text=True, check=True
    )
    (alone, with_more, alone_again), threads = json.loads(done.stdout)
    assert with_more < alone / 3
    assert alone_again > 3 * with_more
    assert threads == 2


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
