"""Words for what holds over everything that a run asked, beside one table.

Nothing is computed here; the columns are those of ``stats.families``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .claim import ESTABLISHED, IN_TABLE
from .rows import numbers
from .wording import count_noun, p_value

LEVEL = 0.05
HOLM, RATE = "Holm", "Benjamini-Hochberg"


def n_tests(table: pd.DataFrame) -> int:
    """Number of tests of the run that were corrected together, tasks without signal among them."""
    known = pd.DataFrame(table.loc[np.isfinite(numbers(table, "p_run"))])
    counted = numbers(known, "run_tests") if "run_tests" in known else np.full(len(known), np.nan)
    return int(np.nanmax(counted)) if np.isfinite(counted).any() else len(known)


def every_test(n: int) -> str:
    """``"all 450 tests"``, or ``"the one test"``."""
    return "the one test" if n == 1 else f"all {count_noun(n, 'test')}"


def that_hold(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are significant over the whole run."""
    return pd.DataFrame(table.loc[numbers(table, "p_run") < LEVEL])


def family_text(table: pd.DataFrame, correction: str = HOLM) -> str:
    """``"over all 450 tests of the run (Holm)"``."""
    return f"over {every_test(n_tests(table))} of the run ({correction})"


def run_bounds_text(table: pd.DataFrame) -> str:
    """``"bounds for all 450 tests of the run together"``: what an interval of the largest is."""
    return f"bounds for {every_test(n_tests(table))} of the run together"


def holm_text(n: int) -> str:
    """``"after Holm's correction over all 12 tests of the run"``, of tables corrected as one."""
    return f"after Holm's correction over {every_test(n)} of the run"


def count_that_hold(sure: pd.DataFrame, every: pd.DataFrame, correction: str = HOLM) -> str:
    """``"of 81 significant effects 51 hold over all 450 tests of the run (Holm)"``, or nothing."""
    if not n_tests(every) or sure.empty:
        return ""
    held, words = len(that_hold(sure)), family_text(every, correction)
    if len(sure) == 1:
        return f"this one effect {'holds' if held else 'does not hold'} {words}"
    verb = "holds" if held == 1 else "hold"
    return f"of {count_noun(len(sure), 'significant effect')} {held or 'none'} {verb} {words}"


def run_wide_evidence(
    row: dict[str, Any], every: pd.DataFrame, test: str, within: tuple[str, str],
    correction: str = HOLM,
) -> dict[str, Any]:  # fmt: skip
    """A claim's evidence, p-value and test: over the run, or ``within`` a column and its family."""
    whole = family_text(every, correction) if n_tests(every) else ""
    if whole and row["p_run"] < LEVEL:
        return {"evidence": ESTABLISHED, "p": float(row["p_run"]), "test": f"{test}, {whole}"}
    column, over = within
    beyond = f"; {p_value(row['p_run'])} {whole}" if whole else ""
    return {"evidence": IN_TABLE, "p": float(row[column]), "test": f"{test}, {over}{beyond}"}
