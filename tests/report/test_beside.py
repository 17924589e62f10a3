"""Narrow pictures by a second process: the same as by this one, and none is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path

import pandas as pd
import pytest
from synthetic import Plan, facts

from layerwise.ground import process
from layerwise.ground.process import has_beside
from layerwise.presentation import page
from layerwise.presentation.naming import name_layer
from layerwise.presentation.page import narrow_picture, narrow_pictures
from layerwise.presentation.section import FigureSpec
from layerwise.presentation.style import new_figure, with_style

MODEL = facts(Plan()).model
MODELS = (
    None,
    MODEL.model_copy(update={"n_layers": 4}),
    MODEL.model_copy(update={"n_layers": 4, "n_encoder_layers": 2}),
)


@with_style
def draw_line(values: pd.DataFrame, width: float = 6.9):
    figure = new_figure(width, 1.5)
    axes = figure.subplots()
    axes.plot(values["x"], values["y"])
    axes.set_xlabel(name_layer(3))
    return figure


def draw_in_this_process(values: pd.DataFrame, width: float = 6.9):
    if parent_process() is not None:
        os._exit(3)
    return draw_line(values, width)


@cache
def _pictures_here() -> tuple[str, ...]:
    return tuple(narrow_picture(drawing, model) for drawing, model in jobs().items())


def pictures_here() -> list[str]:
    """The pictures, by this process."""
    return list(_pictures_here())


def jobs(how=draw_line, n: int = 3):
    tables = [pd.DataFrame({"x": range(3), "y": [i, i + 1, 0]}) for i in range(n)]
    drawings = [FigureSpec(f"{i}", partial(how, table), "", "") for i, table in enumerate(tables)]
    return {drawing: MODELS[i % 3] for i, drawing in enumerate(drawings)}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(page, "has_beside", lambda: True)
    monkeypatch.setattr(page, "_n_cores", lambda: 2)
    monkeypatch.setattr(page, "_FEWEST", 3)


@pytest.mark.long  # by day the last test has the pictures of a second process
@pytest.mark.parametrize("how", [draw_line, draw_in_this_process])
def test_a_second_process_gives_the_pictures_of_this_one_also_if_it_is_ended(two_cores, how):
    drawings = jobs(how)
    with narrow_pictures(drawings) as narrow:
        assert [narrow(drawing) for drawing in drawings] == pictures_here()
    assert len(set(pictures_here())) == len(drawings)


@pytest.mark.long(but=["few", "not asked for"])
@pytest.mark.parametrize("reason", ["few", "one core", "not asked for", "none can be started"])
def test_without_need_or_means_all_is_drawn_here(two_cores, monkeypatch, reason) -> None:
    if reason == "none can be started":
        monkeypatch.setattr(page.ProcessPoolExecutor, "submit", refuse_process)
    else:
        monkeypatch.setattr(page, "get_context", None)  # calling it would fail
        monkeypatch.setattr(process, "_beside", False)  # whatever commands this process ran
        name, value = {"few": ("_FEWEST", 9), "one core": ("_n_cores", lambda: 1),
                       "not asked for": ("has_beside", has_beside)}[reason]  # fmt: skip
        monkeypatch.setattr(page, name, value)
    drawings = jobs()
    with narrow_pictures(drawings) as narrow:
        assert [narrow(drawing) for drawing in drawings] == pictures_here()


def refuse_process(*_):
    raise BlockingIOError("no more processes")


@pytest.mark.long
def test_after_an_interrupt_nothing_more_is_begun(two_cores, monkeypatch) -> None:
    begun, submit = [], page.ProcessPoolExecutor.submit

    def kept(*args):
        begun.append(submit(*args))
        return begun[-1]

    monkeypatch.setattr(page.ProcessPoolExecutor, "submit", kept)
    with pytest.raises(KeyboardInterrupt), narrow_pictures(jobs(n=20)):
        raise KeyboardInterrupt
    assert sum(each.cancelled() for each in begun) >= 15


WAITING = """
import hashlib, multiprocessing, sys, time
from test_beside import jobs
from layerwise.ground.process import work_beside
from layerwise.presentation import page
if __name__ == "__main__":
    work_beside()
    page._n_cores, page._FEWEST = (lambda: 2), 1
    drawings = jobs()
    with page.narrow_pictures(drawings) as narrow:
        made = "".join(map(narrow, drawings))
        (child,) = multiprocessing.active_children()
        print(child.pid, hashlib.md5(made.encode()).hexdigest(), flush=True)
        time.sleep(60)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_it_gives_the_same_pictures_and_ends_with_the_first_process(tmp_path) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    first = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert first.stdout is not None
    with first:
        process, digest = first.stdout.readline().split()
        second = int(process)
        assert runs(second)
        first.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while runs(second) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(second)
    assert digest == hashlib.md5("".join(pictures_here()).encode()).hexdigest()


def runs(process: int) -> bool:
    """True if it runs; one that has ended may stay listed as a zombie."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
