"""Progress where there is no terminal: lines that are due by a clock, and their text."""

from __future__ import annotations

import time

import pytest

from layerwise.runs.line_meter import EVERY, FIRST, LineMeter, ticking
from layerwise.runs.progress import SilentMeter, meter


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
def told(clock, lines) -> LineMeter:
    return LineMeter(lines.append, clock)


def test_a_short_command_says_nothing(told, clock, lines):
    told.expect(10.0)
    clock.now += FIRST - 0.1
    told.done(10.0)
    told.tick()
    assert lines == []


def test_lines_come_at_intervals_with_the_share_done_and_the_time_left(told, clock, lines):
    told.expect(100.0)
    told.doing("ablation, facts")
    for _ in range(360):  # six minutes, a hundredth of the work every six seconds
        clock.now += 1
        if (clock.now - 100) % 6 == 0:
            told.done(1.0)
        told.tick()
    assert lines[0] == "5% done after 30 s, about 9.5 min left (ablation, facts)"
    assert lines[1] == "15% done after 1.5 min, about 8.5 min left (ablation, facts)"
    assert len(lines) == 1 + int((360 - FIRST) // EVERY)


def test_a_piece_that_takes_long_is_told_of_before_it_is_done(told, clock, lines):
    told.expect(100.0)
    told.doing("ablation, facts")
    clock.now += FIRST
    told.tick()
    assert lines == ["0% done after 30 s (ablation, facts)"]


def test_pieces_of_an_interrupted_run_do_not_make_the_rest_seem_short(told, clock, lines):
    told.expect(100.0)
    told.done(80.0)
    clock.now += 60.0
    told.done(10.0)
    told.tick()
    assert lines == ["90% done after 1.0 min, about 1.0 min left (starting)"]


def test_names_in_lines_are_shown_and_not_obeyed(told, clock, lines):
    told.doing("ablation, \x1b[2J")
    clock.now += FIRST
    told.tick()
    assert lines == ["0% done after 30 s (ablation, \\x1b[2J)"]


def test_lines_are_written_while_work_goes_on_and_not_afterwards(clock, lines):
    with ticking(LineMeter(lines.append, clock), pause=0.001):
        clock.now += FIRST
        until = time.monotonic() + 10
        while not lines and time.monotonic() < until:
            time.sleep(0.001)
    clock.now += EVERY
    time.sleep(0.01)
    assert len(lines) == 1


def test_nobody_is_told_who_does_not_want_to_be(capsys):
    with meter(False) as silent:
        assert isinstance(silent, SilentMeter)
        silent.note("a note")
    with meter(True) as lines:
        assert isinstance(lines, LineMeter)
        lines.note("a note")
    assert capsys.readouterr().err == "layerwise: a note\n"
