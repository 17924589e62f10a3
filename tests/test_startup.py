from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.models.real import smollm2

RUNS = 3
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def startup():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("startup")


def test_heavy_modules_are_seen(startup):
    assert "pandas" in startup.heavy_modules("import pandas")


@pytest.mark.parametrize("name", ["IMPORT", "HELP"])
def test_start_is_quick(startup, name):
    start = getattr(startup, name)
    # Processor time, which other programs on the machine change little; twice the goal, as they
    # do change it.
    assert startup.best_cost(start, RUNS).cpu_seconds < 2 * start.limit


@pytest.mark.long
@pytest.mark.smollm2
def test_cached_model_is_ready_soon_after_its_libraries(startup):
    """Importing what it is made of takes two thirds of the time, and sets the scale."""
    smollm2()  # fills the cache where it is empty
    libraries, model = startup.share_of_libraries()
    assert model < 2.5 * libraries
