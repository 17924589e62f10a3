"""Where an analysis keeps its finished pieces: a run's folder, or memory.

A piece is a table under a name; an analysis does only the pieces that are not there yet.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import pandas as pd

from layerwise.storage.parquet import as_of_now
from layerwise.storage.provenance import distinct, installed_versions

from .environment import Environment, environment_now


@runtime_checkable
class CheckpointStore(Protocol):
    """What ``results.RunFolder`` and ``MemoryCheckpoints`` offer."""

    def has_part(self, *names: str) -> bool:
        """Whether all of these pieces are there, whole and of this very run."""
        ...

    def write_part(
        self, name: str, table: pd.DataFrame, environment: Environment | None = None
    ) -> None:
        """Keep a piece, and what another process made it under."""
        ...

    def read_part(self, name: str) -> pd.DataFrame:
        """A piece as it was kept."""
        ...

    def environments(self) -> list[dict[str, Any]]:
        """What the pieces were made under, each once."""
        ...


class MemoryCheckpoints:
    """Pieces in memory, for a run without a folder."""

    def __init__(self) -> None:
        self._tables: dict[str, pd.DataFrame] = {}
        self._elsewhere: dict[str, Environment | None] = {}

    def has_part(self, *names: str) -> bool:
        """Whether all of these pieces are there."""
        return self._tables.keys() >= set(names)

    def write_part(
        self, name: str, table: pd.DataFrame, environment: Environment | None = None
    ) -> None:
        """Keep a piece, and what another process made it under."""
        self._tables[name], self._elsewhere[name] = table, environment

    def read_part(self, name: str) -> pd.DataFrame:
        """A piece as it was kept."""
        return self._tables[name]

    def environments(self) -> list[dict[str, Any]]:
        """What the pieces were made under, each once."""
        here = environment_now(installed_versions())
        return distinct(here if one is None else one for one in self._elsewhere.values())


def together(parts: CheckpointStore, names: list[str]) -> pd.DataFrame:
    """The pieces under some names as one table, in that order; empty for no names."""
    tables = [parts.read_part(name) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def rows_of(parts: CheckpointStore, table: str, names: list[str]) -> pd.DataFrame:
    """The pieces of a table as one, those of an earlier version as well."""
    tables = [as_of_now(table, parts.read_part(name)) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
