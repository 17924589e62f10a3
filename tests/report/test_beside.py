"""Narrow pictures by a second process: the same as by this one, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path

import pandas as pd
import pytest
from synthetic import Plan, facts

from layerwise.ground.process import has_beside
from layerwise.presentation import page as _beside
from layerwise.presentation.naming import name_layer
from layerwise.presentation.page import narrow_picture, narrow_pictures
from layerwise.presentation.section import FigureSpec
from layerwise.presentation.style import new_figure, styled

MODEL = facts(Plan()).model
MODELS = (
    None,
    MODEL.model_copy(update={"n_layers": 4}),
    MODEL.model_copy(update={"n_layers": 4, "n_encoder_layers": 2}),
)


@styled
def drawn(values: pd.DataFrame, width: float = 6.9):
    figure = new_figure(width, 1.5)
    axes = figure.subplots()
    axes.plot(values["x"], values["y"])
    axes.set_xlabel(name_layer(3))
    return figure


def drawn_here_only(values: pd.DataFrame, width: float = 6.9):
    if parent_process() is not None:
        os._exit(3)
    return drawn(values, width)


@cache
def here(n: int) -> tuple[str, ...]:
    """The first ``n`` pictures, by this process."""
    return tuple(narrow_picture(drawing, model) for drawing, model in jobs(n=n).items())


def jobs(how=drawn, n: int = 6):
    tables = [pd.DataFrame({"x": range(3), "y": [i, i + 1, 0]}) for i in range(n)]
    drawings = [FigureSpec(f"{i}", partial(how, table), "", "") for i, table in enumerate(tables)]
    return {drawing: MODELS[i % 3] for i, drawing in enumerate(drawings)}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(_beside, "has_beside", lambda: True)
    monkeypatch.setattr(_beside, "_n_cores", lambda: 2)
    monkeypatch.setattr(_beside, "_FEWEST", 5)


@pytest.mark.parametrize(
    ("how", "waits"),
    [
        pytest.param(drawn, True, id="draws all", marks=pytest.mark.long),
        pytest.param(drawn, False, id="is helped"),
        pytest.param(drawn_here_only, True, id="is ended", marks=pytest.mark.long),
    ],
)
def test_a_second_process_gives_the_pictures_of_this_one(two_cores, how, waits) -> None:
    mine = jobs(how)
    with narrow_pictures(mine) as narrow:
        if waits:
            wait(narrow.made.values())
        found = narrow.all()
    assert any(made.cancelled() for made in narrow.made.values()) is not waits
    assert found == dict(zip(mine, here(len(mine)), strict=True))
    assert len(set(found.values())) == len(mine)


@pytest.mark.parametrize("reason", ["few", "one core", "not asked for"])
def test_none_is_started_without_need(two_cores, monkeypatch, reason) -> None:
    monkeypatch.setattr(_beside, "get_context", None)  # calling it would fail
    mine = jobs(n=4) if reason == "few" else jobs()
    if reason == "one core":
        monkeypatch.setattr(_beside, "_n_cores", lambda: 1)
    if reason == "not asked for":
        monkeypatch.setattr(_beside, "has_beside", has_beside)
    with narrow_pictures(mine) as narrow:
        found = narrow.all()
    assert found == dict(zip(mine, here(len(mine)), strict=True))


def test_where_none_can_be_started_all_is_drawn_here(two_cores, monkeypatch) -> None:
    def refused(*_):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(_beside.ProcessPoolExecutor, "submit", refused)
    mine = jobs()
    with narrow_pictures(mine) as narrow:
        found = narrow.all()
    assert found == dict(zip(mine, here(len(mine)), strict=True))


def test_after_an_interrupt_nothing_more_is_begun(two_cores) -> None:
    with pytest.raises(KeyboardInterrupt), narrow_pictures(jobs(n=20)) as narrow:
        raise KeyboardInterrupt
    assert sum(made.cancelled() for made in narrow.made.values()) >= 15


WAITING = """
import multiprocessing, sys, time
from test_beside import jobs
from layerwise.ground.process import work_beside
from layerwise.presentation import page as _beside
if __name__ == "__main__":
    work_beside()
    _beside._n_cores = lambda: 2
    with _beside.narrow_pictures(jobs(n=8)) as narrow:
        narrow.all()
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_it_ends_with_the_first_process(tmp_path) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    first = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert first.stdout is not None
    with first:
        second = int(first.stdout.readline())
        assert runs(second)
        first.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while runs(second) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(second)


def runs(process: int) -> bool:
    """Whether it does; one that has ended may stay listed as a zombie."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
