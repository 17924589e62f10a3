"""How claims of a transplant name the two models, and say what one does put into the other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import ESTABLISHED, Estimate
from layerwise.presentation.over_run import every_test, n_tests, together
from layerwise.presentation.rows import asked_of
from layerwise.presentation.wording import capitalised, number, when
from layerwise.storage.run_tables import RunTables

from .names import BASE, DESTROYS
from .naming import counted_noun

KIND = "transplant"
_LONGEST = 7
NOUNS = {True: "the base", False: "the other model"}
Row = dict[str, Any]


def models_of(row: Row) -> tuple[str, str]:
    """The better model and the other, in words."""
    base_is_better = (row["host"] == BASE) == (row["direction"] == DESTROYS)
    return NOUNS[base_is_better], NOUNS[not base_is_better]


def named_models(run: RunTables) -> tuple[str, ...]:
    """A sentence with the names of the two models, where they have different ones."""
    base, other = run.facts.model.name, run.facts.settings.get("other")
    return () if base == other else (f"The base is {base}, the other model {other}.",)


def where(row: Row) -> str:
    """``"in keys when it chooses"``."""
    return f"in {row['task']} {when(row['protocol'])}"


def brief(what: str, row: Row) -> str:
    """What was put in; of a long list how many."""
    n = len(row["layers"])
    return what if len(what.split()) <= _LONGEST else f"{n} {counted_noun(row['site'], n)} together"


def put_in(what: str, row: Row, *, is_plural: bool) -> str:
    """What a change brings or destroys, in a sentence."""
    better, worse = models_of(row)
    host, giver = (better, worse) if row["direction"] == DESTROYS else (worse, better)
    verb = row["direction"][:-1] if is_plural else row["direction"]
    points = number(100 * row["moved"])
    start = f"{capitalised(brief(what, row))} of {giver}, put into {host},"
    return f"{start} {verb} {points} points {where(row)}."


def measured(row: Row, every: pd.DataFrame) -> dict[str, Any]:
    """What a change moves, over all changes of the run, as a claim has it."""
    moved, low, high = (100 * float(row[name]) for name in ("moved", "run_low", "run_high"))
    verb = f"accuracy points {'destroyed' if row['direction'] == DESTROYS else 'brought'}"
    return asked_of(pd.DataFrame([row])) | {
        "kind": KIND,
        "evidence": ESTABLISHED,
        "layers": tuple(map(int, row["layers"])),
        "estimate": Estimate(moved, low, high, verb, together(every)),
        "p": float(row["p_run"]),
        "test": "exact McNemar test, and against guessing of what is brought; Holm over "
        f"{every_test(n_tests(every))} of the run",
    }
