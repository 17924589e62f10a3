"""The tables of one run by the names of their files, as sentences and pages read them.

Nothing is concluded here, nothing is read from disk, and no analysis is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pandas as pd

from .estimates import in_files
from .provenance import Facts

Derived = TypeVar("Derived")
# A table, or what reads one that few need.
TableSource = pd.DataFrame | Callable[[], pd.DataFrame]


@dataclass(frozen=True, eq=False)
class RunTables:
    """The tables of one run."""

    facts: Facts  # what is needed to repeat the run
    # By the names of their files without the ending, or, of what is in no file of its own, by a
    # name of that kind; or what reads a table that few need.
    tables: Mapping[str, TableSource] = field(default_factory=dict, repr=False)
    # Where a table is, in words, if not in the file of its name.
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    # What was computed from the tables, by the function that did.
    _derived: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)

    def table(self, name: str) -> pd.DataFrame | None:
        """A table with at least one row; None if there is none, as of what was not run."""
        source = self.tables.get(name)
        table = source() if callable(source) else source
        return None if table is None or table.empty else table

    def compute_cached(self, compute: Callable[[RunTables], Derived]) -> Derived:
        """Compute what a function makes of these tables, at the first call alone."""
        if compute not in self._derived:
            self._derived[compute] = compute(self)
        return cast(Derived, self._derived[compute])

    def file(self, name: str) -> str:
        """Path of a table, in words."""
        (file,) = in_files([name])
        whole = f"{file}.parquet" if file == name else f"{name} ({file}.parquet)"
        return self.files.get(name, whole)
