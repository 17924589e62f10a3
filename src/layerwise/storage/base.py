"""Base of every result: it checks its tables, saves, loads, and shows itself in short."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from layerwise.errors import DamagedFileWarning, DamagedResultsError, UserError, count_noun

from .atomic_files import refuse_special, remove_temporaries
from .estimates import (
    ESTIMATES,
    as_estimates,
    in_files,
    rows_of_other_analyses,
    table_from_estimates,
)
from .file_list import file_hashes
from .parquet import conform, is_table, read_table, write_table
from .places import refuse_foreign
from .provenance import (
    RUN_FILE,
    Facts,
    is_finished,
    join_facts,
    listed_files,
    parse_facts,
    read_facts,
    read_run_file,
    write_run_file,
)
from .schemas import LAYOUTS
from .written import JOINED_TABLES, LOST_WITH_RUN_FILE, drop_from_file_list, refuse_other_results

AnyResult = TypeVar("AnyResult", bound="Result")
Tables = TypeVar("Tables", pd.DataFrame, dict[str, pd.DataFrame])


INTO: ContextVar[Any] = ContextVar("INTO", default=None)
"""The user's axes that are drawn into; None where figures are made for themselves."""


def cache_tables(method: Callable[[AnyResult], Tables]) -> Callable[[AnyResult], Tables]:
    """Keep what a result's method computes from its tables, which never change."""
    # Saving, the report, and a person in a notebook ask for the same; each gets a copy.

    @wraps(method)
    def return_cached(self: AnyResult) -> Tables:
        kept = self.__dict__.setdefault("_computed", {})
        if method.__name__ not in kept:
            kept[method.__name__] = method(self)
        value: Any = kept[method.__name__]
        several = isinstance(value, dict)
        copied: Any = {n: t.copy() for n, t in value.items()} if several else value.copy()
        return copied

    return return_cached


class Result:
    """Base class of results.

    Attributes:
        facts: what is needed to repeat the run.
    """

    # Whether it follows from other results, and so adds nothing to a finished run's settings.
    joins_others: ClassVar[bool] = False
    tables: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    if_empty: ClassVar[str] = ""
    # Tables that follow from its own and are saved beside them, and the methods that give them.
    derived_by: ClassVar[dict[str, str]] = {}

    facts: Facts

    def __post_init__(self) -> None:
        for name in self.tables:
            object.__setattr__(self, name, conform(name, getattr(self, name)))

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the main table; ``docs/results.md`` describes its columns."""
        return getattr(self, self.tables[0]).copy()

    def plot(self, ax: Any = None) -> Any:
        """The figure that says most about the result, its layers named as its model has them.

        Args:
            ax: axes of matplotlib to draw into, such as those of a figure of your own; a figure
                by itself if None. Only a figure of one panel can be drawn so, such as that of one
                task and protocol.

        Returns:
            A matplotlib figure; with ``ax`` these axes.

        Raises:
            UserError: if the result has nothing to show, or its figure has several panels.
        """
        if ax is None:
            return self._figure()
        if not (hasattr(ax, "get_figure") and hasattr(ax, "set_xlabel")):
            raise UserError(
                f"Argument 'ax' is of type {type(ax).__name__}; expected axes of matplotlib, such "
                "as those of figure.subplots()."
            )
        before = INTO.set(ax)
        try:
            self._figure()
        finally:
            INTO.reset(before)
        return ax

    def _figure(self) -> Any:
        """The figure of ``plot``, or what is drawn into ``INTO`` where that is set."""
        raise UserError(f"There is no figure of this result; show its table instead. {self.title}.")

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """Tables that are computed from the result's own and saved beside them."""
        return {name: getattr(self, method)() for name, method in self.derived_by.items()}

    @cache_tables
    def estimates(self) -> pd.DataFrame:
        """All that is estimated here, as one long table; see ``select`` and ``wide``.

        Returns:
            A row for each thing that was estimated: what, where, its value, its bounds and tests.
            ``docs/results.md`` describes the columns.
        """
        tables = self._tables()
        return as_estimates({name: table for name, table in tables.items() if name in LAYOUTS})

    def _tables(self) -> dict[str, pd.DataFrame]:
        """The result's own tables, and those derived from them."""
        return {name: getattr(self, name) for name in self.tables} | self.derived_tables()

    def save(self, folder: str | Path) -> None:
        """Write the result's tables, and ``run.json`` unless a run in the folder goes on.

        Args:
            folder: made if it does not exist. Results of the same model may share one.

        Raises:
            UserError: if the folder holds results of another model or of other items, a comparison
                or series, results without their ``run.json``, or files that are no results under
                their names; if it cannot be written, or the disk is full.
        """
        folder = Path(folder)
        refuse_other_results(folder, (), JOINED_TABLES)
        # The facts for ``run.json``, which stays as it is where a result only joins what is there;
        # none while a run in the folder goes on.
        joined: Facts | None = self.facts
        if (folder / RUN_FILE).exists():
            joined = None
            if is_finished(read_run_file(folder)):
                before = read_facts(folder)
                together = join_facts([before, self.facts])
                joined = before if self.joins_others else together
        tables = in_files(self._tables())
        if joined is not None:
            listed = listed_files(folder) or {}
            for name in (f"{name}.parquet" for name in tables):
                if name not in listed:
                    refuse_foreign(folder / name, "table", is_table)
        self.write_tables(folder, tables, joined)

    def write_tables(self, folder: Path, tables: Collection[str], joined: Facts | None) -> None:
        """Write some of the saved tables, and list them in ``run.json`` with the joined facts.

        Args:
            folder: an existing folder.
            tables: names of their files; ``estimates`` is one table.
            joined: the facts for ``run.json``; None while a run in the folder goes on.
        """
        # A table that is to be written is not listed meanwhile, so that a process that is killed
        # leaves none that differs from the list. A run that goes on (no joined facts) lists its
        # tables when it is finished.
        own = self._tables()
        whole = {name: own[name] for name in tables if name != ESTIMATES}
        if ESTIMATES in tables:
            whole[ESTIMATES] = self._joined_estimates(folder)
        names = [f"{name}.parquet" for name in whole]
        for name in names:  # before the list forgets a table that cannot be written
            refuse_special(folder / name)
        files = None if joined is None else drop_from_file_list(folder, names)
        if joined is not None:  # a run that goes on cleared its folder when it began
            remove_temporaries(folder)
        facts = self.facts.model_dump_json(exclude={"files"})
        for name, table in whole.items():
            write_table(folder / f"{name}.parquet", name, table, facts)
        if joined is not None and files is not None:
            write_run_file(folder, joined, files | file_hashes(folder, names))

    def _joined_estimates(self, folder: Path) -> pd.DataFrame:
        """The estimates, behind those of other analyses that are in the folder."""
        path, parts = folder / f"{ESTIMATES}.parquet", [self.estimates()]
        if path.is_file():
            digest = (listed_files(folder) or {}).get(path.name)
            before, _ = read_table(path, ESTIMATES, digest)
            own = [name for name in self._tables() if name in LAYOUTS]
            parts.insert(0, rows_of_other_analyses(before, own))
        whole = pd.concat([part.astype(object) for part in parts], ignore_index=True)
        return conform(ESTIMATES, whole)

    @classmethod
    def load(cls: type[AnyResult], folder: str | Path) -> AnyResult:
        """Read a result that was saved.

        Raises:
            UserError: if a file is missing, damaged, changed since, not listed in ``run.json``
                though others are, not Parquet, or lacks columns.

        Warns:
            DamagedFileWarning: if the folder has no ``run.json``: the tables are read unchecked,
                with the facts that each of them carries.
        """
        folder, saved = Path(folder), None
        listed = listed_files(folder)
        fields: dict[str, Any] = {}
        read: dict[str, pd.DataFrame] = {}
        for name in in_files(cls.tables):
            path = folder / f"{name}.parquet"
            if listed is not None and path.name not in listed and path.exists():
                raise DamagedResultsError(
                    f"{path} is not in the list of {RUN_FILE}, as if it was being saved when the "
                    "process ended, or was put there later: expected a table that is listed; save "
                    "the result again, or delete the file."
                )
            read[name], saved = read_table(path, name, (listed or {}).get(path.name))
        fields |= {
            n: read[n] if n in read else table_from_estimates(read[ESTIMATES], n)
            for n in cls.tables
        }
        path = folder / f"{in_files(cls.tables)[-1]}.parquet"
        if saved is not None and not (folder / RUN_FILE).exists():
            warnings.warn(
                f"There is no {RUN_FILE} in {folder}: {LOST_WITH_RUN_FILE}. The tables of "
                f"{cls.__name__} are read unchecked, with the facts in {path.name}.",
                DamagedFileWarning, stacklevel=2,
            )  # fmt: skip
        fields["facts"] = read_facts(folder) if saved is None else parse_facts(saved, path)
        return cls(**fields)

    def summary_rows(self) -> pd.DataFrame:
        """The compact table that a notebook shows."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Sentences that belong under the compact table."""
        return []

    def _heading_line(self) -> str:
        table = self.to_pandas()
        tasks = sorted(table["task"].unique())
        n_items = len(table[["task", "item"]].drop_duplicates())
        return heading_line(self.facts, n_items, sorted(table["protocol"].unique()), tasks)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._heading_line()})"

    def _repr_html_(self) -> str:
        title, text = html.escape(self.title), html.escape(self._heading_line())
        rows = self.summary_rows()
        shown = rows.to_html(index=False, escape=True, border=0, float_format=number, na_rep="")
        empty = html.escape(" ".join([self.if_empty, *self.notes()]))
        return f"<h4>{title}</h4><p>{text}</p>{shown if len(rows) else f'<p>{empty}</p>'}"


def intervals(
    table: pd.DataFrame, estimate: str, low: str, high: str, digits: int = 2
) -> list[str]:
    """Estimates with their bounds as text, or that there are none; a dash if there is nothing."""
    shown = ([number(value, digits) for value in table[name]] for name in (estimate, low, high))
    return [
        "–" if e == "?" else f"{e} (no interval)" if lo == hi == "?" else f"{e} [{lo}, {hi}]"
        for e, lo, hi in zip(*shown, strict=True)
    ]


def number(value: float, digits: int = 2) -> str:
    """A number to some digits after the point, a question mark if there is none."""
    return "?" if pd.isna(value) else f"{value:z.{digits}f}"


def heading_line(facts: Facts, n_items: int, protocols: Sequence[str], tasks: Sequence[str]) -> str:
    """Model, tasks, protocols and number of items in one line of text."""
    return (
        f"{facts.model.name}; tasks: {', '.join(tasks) or 'none'}; "
        f"protocols: {', '.join(protocols) or 'none'}; {count_noun(n_items, 'item')}"
    )
