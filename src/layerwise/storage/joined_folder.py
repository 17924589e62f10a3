"""Tables made of several runs, in a folder of their own with a list of their checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from pydantic import BaseModel

from layerwise.errors import DamagedResultsError
from layerwise.ground.regular_files import read_regular

from .atomic_files import disk_errors, remove_temporaries, write_atomically
from .estimates import ESTIMATES, as_estimates, in_files, table_from_estimates
from .file_list import FILES, file_hashes, files_without, refuse_edited_file_list, with_list
from .parquet import conform, is_table, read_table, write_table
from .places import FIGURES, refuse_foreign, refuse_unusable_folder, refuse_unusable_page
from .schemas import LAYOUTS, SCHEMAS
from .written import refuse_other_results

_Facts = TypeVar("_Facts", bound=BaseModel)
_Joined = TypeVar("_Joined", bound="JoinedRuns")


@dataclass(frozen=True)
class JoinedFolder(Generic[_Facts]):
    """Place of the tables of one kind of joined runs, and of their list."""

    own: str  # the name of all of it, with which the names of tables and files begin
    facts: type[_Facts]  # what is needed to repeat the joining, with the list under ``files``
    page: str  # the file name of the page
    what: str  # what the folder is for, in words
    # The command that writes it, and what to do if it must be written anew.
    command: tuple[str, str]

    @property
    def list_file(self) -> str:
        """The file that says the facts and lists the others."""
        return f"{self.own}.json"

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        start = self._schema("")
        return tuple(name.removeprefix(start) for name in SCHEMAS if name.startswith(start))

    @property
    def _files(self) -> dict[str, str]:
        """The files of the tables, with the names of what is in them."""
        names = in_files(self._schema(name) for name in self.tables)
        return {self._file(name): name for name in names}

    def table_file(self, table: str) -> str:
        """The file that a table is in."""
        return self._file(*in_files([self._schema(table)]))

    def _file(self, inside: str) -> str:
        return f"{self.own if inside == ESTIMATES else inside}.parquet"

    @property
    def table_files(self) -> tuple[str, ...]:
        """The files of the tables."""
        return tuple(self._files)

    def _schema(self, name: str) -> str:
        return f"{self.own}_{name}"

    def refuse_unusable(self, folder: Path) -> None:
        """Refuse a folder that cannot be written, or holds what is not of such joined runs."""
        refuse_unusable_folder(folder, self.what)
        refuse_unusable_page(folder / self.page)
        refuse_other_results(folder, (self.list_file, *self.table_files))
        place = folder / self.list_file
        refuse_foreign(place, "list of results", lambda path: _listed_files(path) is not None)
        known = (_listed_files(place) if place.exists() else None) or {}
        for name in self.table_files:
            if name not in known:
                refuse_foreign(folder / name, "table", is_table)

    def is_in(self, folder: Path) -> bool:
        """True if joined runs of this kind were written there, as a table or a list tells."""
        try:
            files = _listed_files(folder / self.list_file)
        except (OSError, ValueError, RecursionError):
            files = None
        return files is not None or any((folder / name).exists() for name in self.table_files)

    def write(self, folder: Path, tables: Mapping[str, pd.DataFrame], facts: _Facts) -> None:
        """Write the tables and their list, in the place of earlier ones."""
        self.refuse_unusable(folder)
        text = facts.model_dump_json(exclude={"files"})
        remove_temporaries(folder)
        with disk_errors(folder / self.list_file):
            # Tables of two joinings never stand under one list.
            (folder / self.list_file).unlink(missing_ok=True)
        whole = {self._schema(name): tables[name] for name in self.tables}
        whole[ESTIMATES] = as_estimates({n: t for n, t in whole.items() if n in LAYOUTS})
        for file, name in self._files.items():
            write_table(folder / file, name, whole[name], text)
        files = file_hashes(folder, self.table_files)
        content = with_list(json.loads(text), self.list_file, files)
        write_atomically(folder / self.list_file, content)

    def read(self, folder: Path) -> tuple[dict[str, pd.DataFrame], _Facts]:
        """The tables by name, and the facts, without the list."""
        content = self.read_list(folder)
        files = files_without(content, self.list_file)
        facts = self.facts.model_validate_json(json.dumps(content))
        whole = {}
        for file, name in self._files.items():
            whole[name], _ = read_table(folder / file, name, files.get(file))
        own = {name: self._schema(name) for name in self.tables}
        read = {
            name: whole[schema]
            if schema in whole
            else table_from_estimates(whole[ESTIMATES], schema)
            for name, schema in own.items()
        }
        return read, facts.model_copy(update={"files": {}})

    def read_list(self, folder: Path) -> dict[str, Any]:
        """The file that lists the others, as plain values."""
        path = folder / self.list_file
        try:
            content = json.loads(read_regular(path))
            self.facts.model_validate_json(json.dumps(content))
        except (OSError, ValueError, RecursionError) as error:
            command, again = self.command
            raise DamagedResultsError(
                f"{path} is missing or damaged: expected what `{command}` wrote; {again}."
            ) from error
        refuse_edited_file_list(content, path)
        return content


def _listed_files(path: Path) -> dict[str, str] | None:
    """The files that a JSON file lists; None if it has no such list."""
    content = json.loads(read_regular(path))
    files = content.get(FILES) if isinstance(content, dict) else None
    return files if isinstance(files, dict) else None


class JoinedRuns:
    """Base class of results that are made of several runs.

    Attributes:
        facts: what is needed to repeat the joining.
    """

    home: ClassVar[JoinedFolder[Any]]
    tables: ClassVar[tuple[str, ...]]
    facts: Any

    def __post_init__(self) -> None:
        for name in self.tables:
            table = conform(f"{self.home.own}_{name}", getattr(self, name))
            object.__setattr__(self, name, table)

    def report(self) -> Any:
        """The page with figures, sentences and tables."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> Path:
        """Write the tables, the list of their checksums, the page and ``figures/``.

        Args:
            folder: made if it does not exist; earlier results of the same kind are replaced.

        Returns:
            The path of the page.

        Raises:
            UserError: if the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        self.home.write(folder, {name: getattr(self, name) for name in self.tables}, self.facts)
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / self.home.page)

    @classmethod
    def load(cls: type[_Joined], folder: str | Path) -> _Joined:
        """Read what was saved.

        Raises:
            UserError: if a file is missing, damaged, or changed since it was written.
        """
        tables, facts = cls.home.read(Path(folder))
        fields: dict[str, Any] = {**tables, "facts": facts}
        return cls(**fields)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
