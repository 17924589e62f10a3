"""Made-up runs, each computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pandas as pd
import pytest
import synthetic
from synthetic import Plan

from layerwise.analyses.registry import run_tables
from layerwise.report import Report, report
from layerwise.results import AblationResult, PatchingResult, Result
from layerwise.storage.run_tables import RunTables
from tests.pages import without_pictures

# As the default plan, but quick to draw in full.
SMALL = Plan(
    n_layers=6,
    n_items=40,
    tasks=(("facts", "knowledge"), ("two-hop", "reasoning"), (synthetic.HOSTILE, "coherence")),
    protocols=("letter", "generate"),
    silent=(("two-hop", "letter"),),
    critical={"letter": (0,), "generate": (0, 3, 4)},
)


N_ENCODER = 2
MODEL_OF_TWO_STACKS = synthetic.facts(SMALL).model.model_copy(
    update={"n_encoder_layers": N_ENCODER}
)

# Where pictures are looked at, not only the figures that they are made of.
WITH_PICTURES = ("test_beside", "test_figures", "test_report_page")


@pytest.fixture(scope="module", autouse=True)
def pictures_of_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures of pages are drawn, but made into pictures only where pictures are looked at."""
    with nullcontext() if request.path.stem in WITH_PICTURES else without_pictures():
        yield


@pytest.fixture(scope="session")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="session")
def results(plan: Plan) -> list[Result]:
    return synthetic.results(plan)


@pytest.fixture(scope="session")
def run(results: list[Result]) -> RunTables:
    return run_tables(results)


@pytest.fixture(scope="session")
def effects(run: RunTables) -> pd.DataFrame:
    return run.tables["effects"]


@pytest.fixture(scope="session")
def patching_summary(run: RunTables) -> pd.DataFrame:
    return run.tables["patching_summary"]


@pytest.fixture(scope="session")
def small() -> Plan:
    return SMALL


@pytest.fixture(scope="session")
def small_results(small: Plan) -> list[Result]:
    return synthetic.results(small)


@pytest.fixture(scope="session")
def small_run(small_results: list[Result]) -> RunTables:
    return run_tables(small_results)


@pytest.fixture(scope="module")
def page(small_results: list[Result]) -> Report:
    return report(small_results)


def make_run(plan: Plan) -> RunTables:
    """Tables of a run of four analyses, quick to make."""
    told = synthetic.facts(plan)
    results = [
        AblationResult(synthetic.records(plan), told),
        PatchingResult(synthetic.patching_rows(plan, n_pairs=2), told),
    ]
    return synthetic.with_tables(
        run_tables(results),
        lens=synthetic.lens(plan, protocols=("letter",)),
        emergence=synthetic.emergence(plan),
    )
