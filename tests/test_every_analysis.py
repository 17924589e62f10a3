"""Behaviour of every analysis: it goes on where it was stopped, and is read as it was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layerwise as lw
from layerwise.errors import UserError
from tests.analysis import documented_columns
from tests.cases import few_by_day
from tests.every import ANALYSES, MODEL, measured_tables
from tests.stopping import kept_parts, stop_after

LOOKUP = {"tasks": "organism-lookup", "limit": 8, "progress": False, "memory_budget": 2**24}
BOTH_STACKS = {
    "ablate": lambda model, **more: lw.ablate(model, protocols="continuation", **LOOKUP, **more),
    "logit lens": lambda model, **more: lw.logit_lens(model, **LOOKUP, **more),
    "attribution": lambda model, **more: lw.attribution(model, **LOOKUP, **more),
    "patching": lambda model, **more: lw.patch_activations(model, pairs=2, **LOOKUP, **more),
    "heads": lambda model, **more: lw.head_scores(
        model, sequences=2, length=6, progress=False, **more
    ),
}  # fmt: skip


# An option of each that makes it another run.
OTHER = {
    "ablate": {"layers": [0]}, "logit lens": {"sites": "resid_mid"},
    "attribution": {"against": "best"}, "similarity": {"protocols": "letter"},
    "patching": {"directions": "noising"}, "path patching": {"direction": "denoising"},
    "estimates": {"direction": "noising"}, "interactions": {"permutations": 2},
    "heads": {"threshold": 0.3}, "text loss": {"changes": "skip"}, "transplant": {"steps": 2},
    "head sets": {"share": 0.1}, "removal": {},
}  # fmt: skip


def assert_equal(found: Any, expected: Any) -> None:
    ours, theirs = measured_tables(found), measured_tables(expected)
    assert ours.keys() == theirs.keys()
    for name, table in theirs.items():
        pd.testing.assert_frame_equal(ours[name], table)


def check(run: Any, model: Any, folder: Path, **other: Any) -> None:
    with kept_parts() as parts:
        whole = run(model, out=folder / "whole")
    out = folder / "run"
    with stop_after(len(parts) // 2) as before:
        run(model, out=out)
    with kept_parts() as after:
        again = run(model, out=out)
    made = [name for name in before + after if "work" not in name]  # kept before what was made
    assert sorted(made) == sorted(set(made)), "a part was made twice"
    assert_equal(again, whole)
    seconds = {"seconds": 0.0}
    assert [one | seconds for one in again.facts.work] == [
        one | seconds for one in whole.facts.work
    ]
    if "generate" not in whole.facts.protocols:  # how long texts get is not known beforehand
        for work in whole.facts.work:
            made = work.get("token_passes")  # readings count no more than they planned
            assert made is None or work.get("planned_token_passes", made) == made
    names = sorted(path.name for path in (folder / "whole").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    with kept_parts(0):
        assert_equal(run(model, out=out), whole)  # read, and not made again
    for option in other:
        with pytest.raises(UserError, match=rf"holds a run with other settings .*{option}s? was"):
            run(model, out=out, **other)
    (loaded,) = lw.load(out)
    assert_equal(loaded, whole)
    assert loaded.facts == again.facts
    assert loaded._repr_html_() == again._repr_html_()
    for name, table in loaded.derived_tables().items():
        pd.testing.assert_frame_equal(table, whole.derived_tables()[name])
    for path in out.glob("*.parquet"):
        if path.stem in [*measured_tables(whole), *whole.derived_tables()]:
            assert list(pd.read_parquet(path).columns) == documented_columns(path.name)
    assert lw.verify(out).ok


# By day one that is made item by item, pair by pair, step by step, sequence by sequence and of two
# models, and one whose tables are of two kinds; others are made of such pieces, too.
# Of profiles and of series of checkpoints see test_resume and test_training.
BY_DAY = ("ablate", "patching", "removal", "heads", "transplant", "estimates")


@pytest.mark.long(but=["patching", "heads"])
@pytest.mark.parametrize("name", few_by_day(OTHER, *BY_DAY))
def test_an_analysis_goes_on_where_it_was_stopped_and_is_read_as_it_was_saved(name, tmp_path):
    check(ANALYSES[name], lw.load_model(MODEL), tmp_path, **OTHER[name])


# Of the others only what they compute differs, which tests of their own hold.
@pytest.mark.long
@pytest.mark.parametrize("name", few_by_day(BOTH_STACKS, "ablate"))
def test_an_analysis_of_two_stacks_goes_on_and_is_read(name, tmp_path):
    check(BOTH_STACKS[name], lw.load_model("organism-seq2seq"), tmp_path)
