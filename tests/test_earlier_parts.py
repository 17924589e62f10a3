"""Interrupted runs of earlier versions go on, whose parts lack columns that came later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import layerwise as lw
from layerwise.analyses import execute
from layerwise.analyses.registry import RESULTS
from layerwise.errors import UserError
from layerwise.runs.checkpoints import MemoryCheckpoints, rows_of
from layerwise.runs.folder import RunFolder
from layerwise.storage.base import Result
from layerwise.storage.earlier_tables import with_later_columns
from layerwise.storage.schemas import SCHEMAS
from tests import synthetic
from tests.cases import LONG

TASKS = ("organism-lookup", "organism-facts")

loaded = cache(lw.load_model)


def of(function: Callable[..., Result], **options: Any) -> Callable[[], Result]:
    """An analysis of a model that can do its tasks."""
    given = {"tasks": TASKS, "progress": False} | options
    return lambda: function(loaded("organism-decoder"), **given)


def read(function: Callable[..., Result], **options: Any) -> Callable[[], Result]:
    """One that takes protocols and a limit."""
    return of(function, **{"protocols": "continuation", "limit": 24} | options)


def transplanted() -> Result:
    models = map(loaded, ("organism-letters", "organism-letters-other"))
    return lw.transplant(*models, TASKS[0], "continuation", layers=[0], limit=24, progress=False)


# Analyses whose parts are tables, with these and how parts are named that have them.
ANALYSES: dict[str, tuple[Callable[[], Result], dict[str, str]]] = {
    "ablate": (read(lw.ablate, layers=[0], limit=8), {"records": "records "}),
    "logit_lens": (read(lw.logit_lens), {"lens": "lens "}),
    "attribution": (read(lw.attribution), {"attribution": "attribution "}),
    "head_scores": (
        lambda: lw.head_scores(
            loaded("organism-decoder"), sequences=2, length=8, progress=False
        ),
        {"heads": "heads"},
    ),
    "patch_activations": (of(lw.patch_activations, pairs=1), {"patching": "records patching "}),
    "patch_paths": (of(lw.patch_paths, pairs=1), {"path_patching": "records paths "}),
    "attribute_patches": (
        of(lw.attribute_patches, pairs=1), {"attribution_patching": "estimates "}
    ),
    "similarity": (read(lw.similarity), {"similarity": "similarity ", "cka": "cka "}),
    "removal_order": (read(lw.removal_order, n_removed=1, by="deep"), {"removal": "removal "}),
    "transplant": (transplanted, {"transplant": "records "}),
}  # fmt: skip


def columns_of_old(table: str) -> Iterator[list[str]]:
    """Columns that came later, each with those that came with it."""
    schema = SCHEMAS[table]
    for column in schema.names:
        others = [name for name in schema.names if name != column]
        arrow = pa.table({name: pa.nulls(0, schema.field(name).type) for name in others})
        now = with_later_columns(table, arrow).column_names
        if column in now:
            yield [column, *{name for name in now if now.count(name) > 1}]


class Kept(MemoryCheckpoints):
    """The parts of a run, as an earlier version would have kept them."""

    lacking: tuple[str, list[str]] = ("", [])

    def read_part(self, name: str) -> pd.DataFrame:
        """A part without the columns that are to be lacking."""
        part, (begins, columns) = super().read_part(name), self.lacking
        if not begins or not name.startswith(begins) or " work" in name:
            return part
        assert set(columns) <= set(part.columns)
        return part.drop(columns=columns)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_parts_of_an_earlier_version_are_completed_when_a_run_goes_on(name, monkeypatch):
    run, tables = ANALYSES[name]
    kept = Kept()
    monkeypatch.setattr(execute, "MemoryCheckpoints", lambda: kept)
    whole = run()
    for table, begins in tables.items():
        lacking = list(columns_of_old(table))
        assert lacking
        if not LONG:  # those of the earliest version alone
            lacking = [sorted(set().union(*lacking))]
        for columns in lacking:
            kept.lacking = (begins, columns)
            again = run()
            for saved in again.tables:
                others = [c for c in getattr(whole, saved).columns if c not in columns]
                pd.testing.assert_frame_equal(
                    getattr(again, saved)[others], getattr(whole, saved)[others]
                )


def test_a_killed_run_of_an_earlier_version_goes_on_in_its_folder(tmp_path):
    rows = synthetic.small_ablation().records
    with RunFolder.open(tmp_path, {}) as run:
        run.write_part("records keys", rows.drop(columns=["cluster", "examples", "draw"]))
    with RunFolder.open(tmp_path, {}) as run:
        found = rows_of(run, "records", ["records keys"])
    assert set(found) == set(rows)
    assert found["cluster"].isna().all()


def test_parts_that_no_version_made_are_told():
    kept = MemoryCheckpoints()
    kept.write_part("lens keys", pd.DataFrame({"task": ["keys"], "rank": [1]}))
    with pytest.raises(UserError, match="Rows of lens that were kept of an interrupted run cannot"):
        rows_of(kept, "lens", ["lens keys"])


def test_every_table_that_is_kept_in_parts_is_tried():
    """Interactions are kept as records; depths and a lens in training are made from others."""
    tried = {table for _, tables in ANALYSES.values() for table in tables}
    others = {"interactions", "emergence", "tuned_lens"}
    measured = {result.tables[0] for result in RESULTS} - others
    assert {table for table in measured if list(columns_of_old(table))} <= tried
