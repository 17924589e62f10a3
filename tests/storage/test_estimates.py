"""The long table of estimates: every table of estimates stands in it, and is read from it."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import layerwise as lw
from layerwise.errors import UserError
from layerwise.ground.analysis_folders import OWN
from layerwise.storage import base
from layerwise.storage.estimates import KEY, as_estimates, table_from_estimates
from layerwise.storage.parquet import conform, read_table
from layerwise.storage.schemas import LAYOUTS, OWNERS, QUANTITIES, SCHEMAS, TABLES_FILE
from tests import dialect
from tests.synthetic import small_ablation


def made_up_rows(name: str, n: int = 12, seed: int = 0) -> pd.DataFrame:
    """Rows of a table with other values in every cell, and nulls where it allows them."""
    rng = np.random.default_rng(seed)

    def cells(field: pa.Field) -> list[Any]:
        kinds = {
            pa.string(): [f"{name} {field.name} {i}" for i in range(n)],
            pa.int64(): list(range(n)),
            pa.float64(): list(rng.normal(size=n)),
            pa.bool_(): [bool(x) for x in rng.random(n) < 0.5],
            pa.list_(pa.int64()): [list(range(i % 3)) for i in range(n)],
        }
        values = kinds[field.type]
        gone = rng.random(n) < 0.3 if field.nullable and field.name != "layers" else np.zeros(n)
        return [None if lost else value for value, lost in zip(values, gone, strict=True)]

    table = pd.DataFrame({field.name: pd.Series(cells(field), dtype=object)
                          for field in SCHEMAS[name]})  # fmt: skip
    if {"kind", "intervention"} <= set(table):
        table["intervention"] = table["kind"] + ":" + table["intervention"]
    if "heads" in table:
        table["heads"] = [[None, *layers[1:]] if len(layers) > 1 else None
                          for layers in table["layers"]]  # fmt: skip
    if "what" in table:
        table["what"] = ["gain", "needed", "crossing", "spare"] * (n // 4)
    for end in ("p_run", "p_no_loss_run"):  # how many tests is known of what was tested
        tests = {"p_run": "run_tests", "p_no_loss_run": "n_sequences"}[end]
        if tests in table and end in table:
            table[tests] = table[tests].where(table[end].notna(), None)
    return conform(name, table)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_table_goes_into_the_long_one_and_back(name: str):
    table = made_up_rows(name)
    for column, wanted in LAYOUTS[name].only.items():
        table[column] = np.resize(wanted, len(table))
    pd.testing.assert_frame_equal(table_from_estimates(as_estimates({name: table}), name), table)


@pytest.mark.parametrize("analysis", sorted({layout.analysis for layout in LAYOUTS.values()}))
def test_tables_of_an_analysis_are_told_apart(analysis: str):
    names = [name for name, layout in LAYOUTS.items() if layout.analysis == analysis]
    tables = {name: made_up_rows(name) for name in names}
    for name, table in tables.items():
        for column, wanted in LAYOUTS[name].only.items():
            table[column] = np.resize(wanted, len(table))
    together = as_estimates(tables)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table_from_estimates(together, name), table)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_column_has_its_place(name: str):
    layout = LAYOUTS[name]
    told = {theirs for row in layout.rows for theirs in row.values.values()} | set(layout.where)
    told |= {"heads"} if "layers" in told else set()
    told |= {"kind"} if "intervention" in layout.where else set()
    assert told >= set(SCHEMAS[name].names)
    for row in layout.rows:
        assert set(row.values) | set(row.fixed) <= set(SCHEMAS["estimates"].names)
        assert set(row.fixed) <= set(KEY)
        assert not set(row.fixed) & set(row.values)


def test_saved_tables_have_three_names_of_p():
    saved = {column for name in set(SCHEMAS) - set(LAYOUTS) for column in SCHEMAS[name].names}
    assert {name for name in saved if dialect.IS_P.fullmatch(name)} == {"p", "p_table", "p_run"}
    assert dialect.report()["saved"]["tables"] == len(set(SCHEMAS) - set(LAYOUTS))


def test_the_vocabulary_is_what_is_used():
    used = {row.fixed.get("quantity") for layout in LAYOUTS.values() for row in layout.rows}
    assert used - {None} == set(QUANTITIES)


def test_an_estimate_is_place_minus_versus():
    result = small_ablation()
    effects, found = result.effects(), result.estimates()
    lost = lw.results.select(found, "accuracy", versus="intact", hypothesis="differs")
    np.testing.assert_allclose(lost["estimate"], effects["acc"] - effects["acc_intact"])
    np.testing.assert_allclose(lost["low"], -effects["acc_diff_high"])
    np.testing.assert_allclose(lost["high"], -effects["acc_diff_low"])
    assert np.all(lost["low"] <= lost["estimate"])
    assert np.all(lost["estimate"] <= lost["high"])


def test_both_sides_of_a_difference_are_rows():
    found = small_ablation().estimates()
    sides = lw.results.select(found, "accuracy", hypothesis=None, versus=None)
    by_side = sides.set_index(["task", "protocol", "intervention"])["estimate"]
    lost = lw.results.select(found, "accuracy", versus="intact", hypothesis="differs")
    assert len(lost) > 1
    for row in lost.to_dict("records"):
        where = row["task"], row["protocol"]
        difference = by_side[*where, row["intervention"]] - by_side[*where, "intact"]
        np.testing.assert_allclose(difference, row["estimate"], atol=1e-12)


def test_quantities_stand_side_by_side():
    result = small_ablation()
    beside = lw.results.wide(result.estimates(), "accuracy", "log-probability")
    place = ["task", "protocol", "intervention"]
    one = beside.dropna(subset=["log-probability"]).set_index(place)
    effects = result.effects().set_index(place)
    assert len(one) == effects["nats"].notna().sum() > 0
    for name in one.index:
        np.testing.assert_allclose(one.loc[name, "log-probability"], -effects.loc[name, "nats"])
        np.testing.assert_allclose(one.loc[name, "accuracy"], -effects.loc[name, "acc_diff"])


def test_what_is_unknown_is_refused():
    found = small_ablation().estimates()
    with pytest.raises(UserError, match=r"Unknown quantity 'acuracy'\. Did you mean 'accuracy'"):
        lw.results.select(found, "acuracy")
    with pytest.raises(UserError, match=r"Unknown column 'layr'\. Did you mean 'layer'"):
        lw.results.select(found, "accuracy", layr=3)
    with pytest.raises(UserError, match="Unknown quantity"):
        lw.results.wide(found, "accuracy", "nats")
    assert lw.results.wide(found).empty
    with pytest.raises(UserError, match=r"expected what result\.estimates\(\) gives"):
        lw.results.select(small_ablation().effects(), "accuracy")


def test_an_analysis_has_its_tables_in_its_folder():
    for folder in OWN:
        written = tomllib.loads(folder.path(TABLES_FILE).read_text("utf-8"))
        named = {name for name, analysis in OWNERS.items() if analysis == folder.name}
        assert named == written.keys() - {"docs", "types", "quantities"}, folder.name
        assert {LAYOUTS[name].analysis for name in named & LAYOUTS.keys()} <= {folder.name}
    assert {name for name, analysis in OWNERS.items() if not analysis} == {"records", "estimates"}


def test_estimates_are_computed_once_for_a_user_and_all_saves(tmp_path, monkeypatch):
    result, calls = small_ablation(), []
    uncached = as_estimates({n: t for n, t in result.derived_tables().items() if n in LAYOUTS})
    monkeypatch.setattr(
        base, "as_estimates", lambda tables: calls.append(1) or as_estimates(tables)
    )
    result.save(tmp_path / "first")
    estimates = result.estimates()
    estimates["estimate"] = 0.0  # of a copy
    result.save(tmp_path / "second")
    assert calls == [1]
    first, second = (tmp_path / name / "estimates.parquet" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    pd.testing.assert_frame_equal(read_table(first, "estimates")[0], uncached)
