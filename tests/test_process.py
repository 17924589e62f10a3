"""Settings of the command line for its process."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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
    Delays,
    ProcessorCounts,
    WaitPolicy,
    busy_seconds,
    loaded_libraries,
    wait_briefly_beside_others,
)
from tests.forking import exit_code, fork_work, needs_fork

PAGES = """
import gc, resource, sys
import numpy as np
from layerwise.ground.process import collect_garbage_rarely, settle
collect_garbage_rarely()
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


@pytest.mark.long
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
    for name in ("collect_garbage_rarely", "work_beside", "wait_briefly_beside_others"):
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


def wait_decisions(looks: list[tuple[float, float]]) -> list[bool]:
    """Decisions to wait briefly after each of some looks: delayed, and processors taken."""
    found, now = [], WaitPolicy()
    for delayed, taken in looks:
        now = now.next_policy(delayed, taken)
        found.append(now.briefly)
    return found


def test_two_looks_beside_a_busy_process_are_enough():
    assert wait_decisions([(0.0, 1.0), (0.5, 1.0), (0.5, 1.0)]) == [False, False, True]


def test_a_moment_now_and_then_changes_nothing():
    a_second = [(0.5, 0.2), *[(0.0, 0.0)] * 9]
    assert not any(wait_decisions(a_second * 20))


def test_threads_that_sleep_sleep_on_while_others_have_their_processors():
    """They hardly wait for processors, which is not to say that nobody else wants these."""
    assert all(wait_decisions([(2.0, 1.0), *[(0.01, 0.7)] * 100]))


def test_threads_wait_awake_again_a_second_or_two_after_the_others_have_ended():
    one, two = round(1 / SECONDS), round(2 / SECONDS)
    found = wait_decisions([(2.0, 1.0)] * 30 + [(0.0, 0.0)] * two)
    assert all(found[: 30 + one])
    assert not found[-1]


def test_delays_are_those_of_threads_in_both_looks():
    before = ProcessorCounts(10.0, {"1": 10, "2": 5 * 10**8}, 0.0, 0.0)
    now = ProcessorCounts(12.0, {"2": 10**9, "3": 7 * 10**9}, 0.0, 0.0)
    assert now.delayed_since(before) == 0.25


@pytest.mark.parametrize(
    ("busy", "own", "usable", "taken"),
    [
        (0.2, 0.19, 2, 0.005 / 0.1 * 2),  # alone: what is left is what was rounded
        (0.2, 0.1, 2, 1.0),  # beside one that is always busy
        (0.4, 0.2, 4, 2.0),
        (0.4, 0.2, 2, 0.0),  # there are as many others as this process may not use
        (0.1, 0.12, 2, 0.0),
    ],
)
def test_processors_are_taken_that_others_are_busy_on(busy, own, usable, taken):
    n = max(usable, round(busy / 0.1))
    before, now = (
        ProcessorCounts(3.0, {}, 5.0, 1.0),
        ProcessorCounts(3.1, {}, 5.0 + busy, 1.0 + own),
    )
    assert now.taken_since(before, usable, n) == pytest.approx(taken)


@pytest.mark.skipif(not LINUX, reason="asks Linux")
def test_processors_have_been_busy_for_as_long_as_the_kernel_says(tmp_path, monkeypatch):
    assert 0 < busy_seconds() <= time.monotonic() * 2 * (os.cpu_count() or 1) + 60
    (tmp_path / "stat").write_text("cpu  100 20 30 7000 900 5 6 39 400 0\ncpu0 1 2 3 4 5 6 7 8\n")
    monkeypatch.setattr(waiting, "_PROCESS", tmp_path / "self")
    assert busy_seconds() * os.sysconf("SC_CLK_TCK") == 200


@pytest.mark.skipif(not LINUX, reason="asks Linux")
def test_every_thread_of_the_process_has_its_delay():
    delays = Delays()
    before = delays.now()
    if not before:
        pytest.skip("this kernel does not tell how long threads wait")
    end = threading.Event()
    more = threading.Thread(target=end.wait)
    more.start()
    after = delays.now()
    end.set()
    more.join()
    assert {*before, str(more.native_id)} <= after.keys()
    assert all(after[each] >= before[each] for each in before)


@pytest.mark.skipif(not LINUX, reason="reads files of Linux")
def test_threads_that_ended_and_files_that_are_not_there_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "_PROCESS", tmp_path)
    assert Delays().now() == {}
    fields = " ".join(str(number) for number in range(100, 140))
    (tmp_path / "stat").write_text(f"7 (a name) of (its own)) R {fields}\n")
    for number, text in {"7": "100 2500 3\n", "8": "", "9": None}.items():
        (tmp_path / "task" / number).mkdir(parents=True)
        if text is not None:
            (tmp_path / "task" / number / "schedstat").write_text(text)
    assert Delays().now() == {"7": 2500}


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
def started_threads(monkeypatch) -> list[str]:
    """Names of threads that would have been started."""
    names: list[str] = []
    monkeypatch.setattr(waiting.threading.Thread, "start", lambda self: names.append(self.name))
    monkeypatch.setattr(waiting.sys, "platform", "linux")
    monkeypatch.setattr(Delays, "now", lambda self: {"1": 0})
    return names


def test_a_machine_is_looked_after_where_its_user_has_not_decided(started_threads):
    environment: dict[str, str] = {}
    assert wait_briefly_beside_others(environment)
    assert started_threads == ["layerwise-waiting"]
    assert environment == {}


@pytest.mark.parametrize("name", DECIDED_BY)
def test_what_a_user_has_set_stays(name, started_threads, monkeypatch):
    for told in ({"1": 0}, {}):
        monkeypatch.setattr(Delays, "now", lambda self, told=told: told)
        environment = {name: "1"}
        assert not wait_briefly_beside_others(environment)
        assert environment == {name: "1"}
    assert started_threads == []


def test_threads_always_wait_briefly_where_the_kernel_does_not_tell(started_threads, monkeypatch):
    monkeypatch.setattr(Delays, "now", lambda self: {})
    environment: dict[str, str] = {}
    assert not wait_briefly_beside_others(environment)
    assert environment == {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setattr(waiting.sys, "platform", "darwin")
    elsewhere: dict[str, str] = {}
    assert not wait_briefly_beside_others(elsewhere)
    assert elsewhere == {}
    assert started_threads == []


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
from layerwise.ground.waiting import _MoreThreads
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


@pytest.mark.parametrize(
    ("end", "part"),
    [
        ("kill -ABRT $$", r"2 GiB of memory"),  # so libraries in Rust end for want of memory
        ("kill -KILL $$", r"2 GiB of memory"),
        ("printf '{\"answer\": 1'; kill -KILL $$", r"2 GiB of memory"),
        ("kill -PROF $$", r"20 seconds of the processor"),
        ("kill -SEGV $$", r"a process survives \(signal 11\)"),
        ("exit 3", r"a process survives \(exit code 3\)"),
    ],
)
def test_a_process_that_ends_in_any_way_is_reported(tmp_path, monkeypatch, end, part):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nread line\n{end}\n")
    script.chmod(0o755)
    monkeypatch.setattr(limited.sys, "executable", str(script))
    with pytest.raises(OverLimitError, match=part):
        LimitedProcess("match_patterns").ask(QUICK)


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


@needs_fork
def test_a_fork_asks_a_process_of_its_own():
    process = LimitedProcess("search_pattern")
    assert process.ask({"pattern": "a|b", "text": "a"}) == "a"

    def answers() -> int:
        return int(process.ask({"pattern": "a|b", "text": "b"}) != "b")

    child = fork_work(answers)
    assert process.ask({"pattern": "x(y)?", "text": "x"}) == "x"
    assert exit_code(child, 60) == 0


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
