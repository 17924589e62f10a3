"""Runs that are stopped after some of their parts, as by whatever may end a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from layerwise.runs.folder import RunFolder


class StopError(Exception):
    """Stands for whatever may end a process."""


@contextlib.contextmanager
def kept_parts(most: int | None = None) -> Iterator[list[str]]:
    """Names of the parts that runs in the block keep; with one more than ``most`` they end."""
    names, write = [], RunFolder.write_part

    def write_part(self: RunFolder, name: str, *more: Any) -> None:
        if len(names) == most:
            raise StopError
        names.append(name)
        write(self, name, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_part", write_part)
        yield names


@contextlib.contextmanager
def stop_after(n_parts: int) -> Iterator[list[str]]:
    """Expect the run in the block to be stopped when it has kept so many parts; their names."""
    with kept_parts(n_parts) as names, pytest.raises(StopError):
        yield names
