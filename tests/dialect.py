"""Number of words in the saved tables: ``python -m tests.dialect`` prints it. No limit is set."""

from __future__ import annotations

import re
from pathlib import Path

from layerwise.storage.schemas import LAYOUTS, QUANTITIES, SCHEMAS

DOCS = Path(__file__).parents[1] / "docs"
IS_P = re.compile(r"p(_\w+)?|\w+_p(_holm)?")


def counts(names: set[str]) -> dict[str, int]:
    """Kinds of tables, names of columns, and names of p-values, of some tables."""
    columns = {column for name in names for column in SCHEMAS[name].names}
    tests = {column for column in columns if IS_P.fullmatch(column)}
    return {"tables": len(names), "columns": len(columns), "names of p": len(tests)}


def report() -> dict[str, dict[str, int]]:
    """These counts of what is saved and of the frames that results give, and words of the page."""
    frames = set(LAYOUTS)
    words = len((DOCS / "results.md").read_text("utf-8").split())
    return {
        "saved": counts(set(SCHEMAS) - frames) | {"words of results.md": words},
        "frames": counts(frames),
        "vocabulary": {"quantities": len(QUANTITIES)},
    }


if __name__ == "__main__":
    for what, found in report().items():
        print(what, *(f"{n} {name}" for name, n in found.items()), sep=": ")
