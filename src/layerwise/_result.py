"""What every result can do: check its tables, save, load, and show itself in short.

Which results there are is in ``results``; drawing is left to ``report/``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from layerwise import _html
from layerwise._facts import (
    RUN_FILE,
    Facts,
    is_finished,
    join_facts,
    parse_facts,
    read_facts,
    read_run_file,
)
from layerwise._files import write_atomically
from layerwise._tables import conform, read_table, write_table

AnyResult = TypeVar("AnyResult", bound="Result")
Tables = TypeVar("Tables", pd.DataFrame, dict[str, pd.DataFrame])


def computed_once(method: Callable[[AnyResult], Tables]) -> Callable[[AnyResult], Tables]:
    """Keep what a result's method computes from its tables, which never change.

    Saving, the report, and a person in a notebook ask for the same; each gets a copy.
    """

    @wraps(method)
    def known(self: AnyResult) -> Tables:
        kept = self.__dict__.setdefault("_computed", {})
        if method.__name__ not in kept:
            kept[method.__name__] = method(self)
        found: Any = kept[method.__name__]
        several = isinstance(found, dict)
        copied: Any = {n: t.copy() for n, t in found.items()} if several else found.copy()
        return copied

    return known


class Result:
    """What all results have in common.

    Attributes:
        facts: what is needed to repeat the run.
    """

    # Whether it follows from other results, and so adds nothing to a finished run's settings.
    joins_others: ClassVar[bool] = False
    tables: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    if_empty: ClassVar[str] = ""

    facts: Facts

    def __post_init__(self) -> None:
        for name in self.tables:
            object.__setattr__(self, name, conform(name, getattr(self, name)))

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the main table; ``docs/results.md`` describes its columns."""
        return getattr(self, self.tables[0]).copy()

    def plot(self) -> Any:
        """Draw the result.

        Returns:
            The matplotlib figure that ``layerwise.report.figures.plot_result`` makes.
        """
        # by name, because drawing loads matplotlib and seaborn
        from importlib import import_module

        return import_module("layerwise.report.figures").plot_result(self)

    def derived(self) -> dict[str, pd.DataFrame]:
        """Tables that are computed from the result's own and saved beside them."""
        return {}

    def save(self, folder: str | Path) -> None:
        """Write the result's tables, and ``run.json`` unless a run in the folder goes on.

        Args:
            folder: made if it does not exist. Results of the same model may share one.

        Raises:
            UserError: if the folder holds results of another model or of other items, cannot be
                written, or the disk is full.
        """
        folder = Path(folder)
        joined = _facts_for(folder, self.facts, self.joins_others)
        own = {name: getattr(self, name) for name in self.tables}
        for name, table in (own | self.derived()).items():
            write_table(folder / f"{name}.parquet", name, table, self.facts.model_dump_json())
        if joined:
            write_atomically(folder / RUN_FILE, joined.model_dump_json(indent=2).encode())

    @classmethod
    def load(cls: type[AnyResult], folder: str | Path) -> AnyResult:
        """Read a result that was saved.

        Raises:
            UserError: if a file is missing, damaged, not Parquet, or lacks columns.
        """
        folder, saved = Path(folder), None
        fields: dict[str, Any] = {}
        for name in cls.tables:
            fields[name], saved = read_table(folder / f"{name}.parquet", name)
        path = folder / f"{cls.tables[-1]}.parquet"
        fields["facts"] = read_facts(folder) if saved is None else parse_facts(saved, path)
        return cls(**fields)

    def summary_rows(self) -> pd.DataFrame:
        """The compact table that a notebook shows."""
        raise NotImplementedError

    def _heading(self) -> str:
        table = self.to_pandas()
        tasks = sorted(table["task"].unique())
        n_items = len(table[["task", "item"]].drop_duplicates())
        return _html.heading(self.facts, n_items, sorted(table["protocol"].unique()), tasks)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._heading()})"

    def _repr_html_(self) -> str:
        return _html.to_html(self.title, self._heading(), self.summary_rows(), self.if_empty)


def _facts_for(folder: Path, facts: Facts, joins_others: bool) -> Facts | None:
    """What ``run.json`` is to hold; None where it stays as it is.

    That is while a run in the folder goes on, and where a result only joins what is there.
    """
    if not (folder / RUN_FILE).exists():
        return facts
    if not is_finished(read_run_file(folder)):
        return None
    joined = join_facts([read_facts(folder), facts])
    return None if joins_others else joined
