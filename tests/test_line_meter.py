"""Progress where there is no terminal: lines that are due by a clock, and their text."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.removal.api import removal_order
from layerwise.profiling.api import profile
from layerwise.runs.progress import (
    EVERY,
    FIRST,
    BarMeter,
    LineMeter,
    Meter,
    PartMeter,
    _TimeLeftColumn,
    meter,
    sweep_progress,
    telling_of_piece,
    tick_in_background,
)
from tests.analysis import decided_by_layers, word_task
from tests.cases import in_long_runs
from tests.models.tiny import tiny_model


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def line_meter(clock, lines) -> LineMeter:
    return LineMeter(lines.append, clock=clock)


# What a meter is told, and seconds that pass; it looks whether a line is due behind each.
COURSES: dict[str, tuple[list[float | tuple[str, Any]], list[str]]] = {
    "a short command": ([("expect", 10.0), FIRST - 0.1, ("add_work", 10.0), ("end", ())], []),
    "a piece that takes long": (
        [("expect", 100.0), ("set_activity", "ablation, facts"), FIRST],
        ["0% done after 30 s (ablation, facts)"],
    ),
    "pieces of an interrupted run do not make the rest seem short": (
        [("expect", 100.0), ("add_work", 80.0), 25.0, ("add_work", 10.0), 5.0],
        ["90% done after 30 s, about 20 s left (starting)"],
    ),
    "the time that a piece takes is no time that is left": (
        [("expect", 100.0), 10.0, ("add_work", 10.0), 30.0, EVERY],
        ["10% done after 40 s, about 1.0 min left (starting)", "10% done after 1.7 min (starting)"],
    ),
    "what is counted before the work takes no part in the rate": (
        [20.0, ("expect", 100.0), 10.0 - 0.1, ("add_work", 25.0), 0.1],
        ["25% done after 30 s, about 30 s left (starting)"],
    ),
    "the end": (
        [("expect", 10.0), ("add_work", 10.0), FIRST, ("end", ())],
        ["99% done after 30 s (starting)", "100% done after 30 s"],
    ),
    "names are shown and not obeyed": (
        [("set_activity", "ablation, \x1b[2J"), FIRST], ["ablation, \\x1b[2J for 30 s"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("course", COURSES)
def test_lines_say_how_far_the_work_is(line_meter, clock, lines, course):
    events, expected = COURSES[course]
    for event in events:
        if isinstance(event, tuple):
            name, value = event
            getattr(line_meter, name)(*([] if name == "end" else [value]))
        else:
            clock.now += event
        line_meter.tick()
    assert lines == expected


def test_lines_come_at_intervals(line_meter, clock, lines):
    line_meter.expect(100.0)
    for _ in range(60):  # six minutes, a hundredth of the work every six seconds
        clock.now += 6
        line_meter.add_work(1.0)
        line_meter.tick()
    assert lines[:2] == [
        "5% done after 30 s, about 9.5 min left (starting)",
        "15% done after 1.5 min, about 8.5 min left (starting)",
    ]
    assert len(lines) == 1 + int((360 - FIRST) // EVERY)


def test_the_share_that_is_done_never_falls(line_meter):
    line_meter.expect(10.0)
    line_meter.add_work(5.0)
    assert line_meter.share == 0.5
    line_meter.expect(10.0)
    assert line_meter.share == 0.5


def test_a_part_expects_only_what_was_not_counted_of_it():
    whole = LineMeter()
    whole.expect(100.0)
    part = PartMeter(whole, 40.0)
    part.expect(30.0)
    assert (whole.total, part.counted) == (100.0, 10.0)
    part.expect(25.0)
    assert (whole.total, part.counted) == (115.0, 0.0)
    part.add_work(55.0)
    assert whole.finished == 55.0
    less = PartMeter(whole, 60.0)
    less.set_expected(20.0)
    assert whole.total == 75.0
    less.expect(20.0)
    less.add_work(20.0)
    less.set_expected(0.0)
    assert whole.total == whole.finished == 75.0


def test_a_bar_shows_the_same_share_and_time(clock):
    bar = BarMeter(Console(file=io.StringIO()), clock)
    bar.expect(100.0)
    clock.now += 10.0
    bar.add_work(25.0)
    bar.expect(100.0)
    (task,) = bar.progress.tasks
    assert task.percentage == 25.0
    assert str(_TimeLeftColumn(bar).render(task)) == "1.2 min left"


def test_lines_are_written_while_work_goes_on_and_not_afterwards(clock, lines):
    with tick_in_background(LineMeter(lines.append, clock=clock), pause=0.001):
        clock.now += FIRST
        until = time.monotonic() + 10
        while not lines and time.monotonic() < until:
            time.sleep(0.001)
    clock.now += EVERY
    time.sleep(0.01)
    assert len(lines) == 1


def test_nobody_is_told_who_does_not_want_to_be(capsys):
    with meter(False) as silent:
        assert type(silent) is Meter
        silent.note("a note")
    with meter(True) as lines:
        assert isinstance(lines, LineMeter)
        lines.note("a note")
    assert capsys.readouterr().err == "layerwise: a note\n"


def test_a_piece_moves_while_its_sweeps_go_on(line_meter, clock, monkeypatch):
    monkeypatch.setattr("layerwise.runs.progress.time.monotonic", clock)
    line_meter.expect(200.0)
    with telling_of_piece(line_meter, 100.0):
        sweep = sweep_progress()
        assert sweep is not None
        for share, finished in ((0.5, 45.0), (0.4, 45.0), (1.0, 90.0)):
            clock.now += 1.0
            sweep(share)
            assert line_meter.finished == pytest.approx(finished)
        then = sweep_progress()  # a second sweep has most of what is left
        assert then is not None
        then(1.0)
        assert line_meter.finished == pytest.approx(90.0)  # too soon after the last word
        clock.now += 1.0
        then(1.0)
        assert line_meter.finished == pytest.approx(99.0)
    assert line_meter.finished == pytest.approx(100.0)
    assert sweep_progress() is None


def test_a_piece_that_fails_is_not_done(line_meter):
    line_meter.expect(100.0)
    with pytest.raises(ValueError, match="a reason"), telling_of_piece(line_meter, 100.0):
        raise ValueError("a reason")
    assert line_meter.finished == 0.0
    assert sweep_progress() is None


@pytest.fixture
def shares(monkeypatch) -> Iterator[list[float]]:
    """The share of a job that was done, whenever it was reported; all is done at the end."""
    monkeypatch.setattr("layerwise.runs.progress._PAUSE", 0.0)
    shares: list[float] = []

    class Shares(LineMeter):
        def add_work(self, amount):
            super().add_work(amount)
            shares.append(self.share)

    lines = Shares()
    monkeypatch.setattr("layerwise.runs.progress.LineMeter", lambda: lines)
    yield shares
    assert shares[0] < 0.2
    assert len(shares) > 10
    assert sorted(shares) == shares
    assert lines.finished == pytest.approx(lines.total)


def test_an_ablation_moves_within_its_first_piece(shares):
    ablate(tiny_model("llama"), word_task(4), "generate", progress=True)


@pytest.mark.long
@pytest.mark.parametrize("by", [["greedy"], *in_long_runs((["deep", "block"],), (["angular"],))])
def test_a_removal_moves_within_each_piece(shares, by):
    model = tiny_model("llama", num_hidden_layers=5)
    task = decided_by_layers(model, word_task(160), 24)
    removal_order(model, task, "continuation", n_removed=2, by=by, progress=True)


def test_a_removal_without_signal_expects_no_further_pieces(shares):
    model = tiny_model("llama", num_hidden_layers=5)
    removal_order(model, word_task(8), "letter", n_removed=2, progress=True)


def test_what_is_done_is_said_in_the_users_words(monkeypatch):
    doing: list[str] = []

    class Words(LineMeter):
        def set_activity(self, what):
            doing.append(what)

    monkeypatch.setattr("layerwise.runs.progress.LineMeter", Words)
    ablate(tiny_model("llama"), word_task(4), ("continuation", "generate"), progress=True)
    ablate(tiny_model("llama"), word_task(4), "letter", kind="zero", site="z", progress=True)
    profile(tiny_model("llama"), word_task(4), "letter", pairs=1, progress=True)
    assert doing[:3] == [
        "skipping layers: words, chooses and writes",
        "setting heads to zero: words, picks a letter",
        "asking the model: words, picks a letter",
    ]
    assert "reading layers: words" in doing
    assert doing[-2:] == ["statistics and report", "drawing the page"]


@pytest.mark.parametrize("width", [120, 80, 50])
def test_a_bar_is_one_line_with_the_share_and_the_time_left(clock, width):
    console = Console(width=width, file=io.StringIO())
    bar = BarMeter(console, clock)
    bar.expect(100.0)
    bar.set_activity("skipping layers: facts-open-book, chooses and writes")
    clock.now += 8.9 * 3600
    bar.add_work(10.0)
    console.print(bar.progress.get_renderable())
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("skippin")
    assert " 10%" in line
    assert "80 h 06 min left" in line
