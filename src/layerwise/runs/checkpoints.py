"""Places of an analysis' finished pieces: a run's folder, or memory.

A piece is a table under a name; an analysis does only the pieces that are not there yet. A run
that is spread over several machines keeps which of them made which piece.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from layerwise.errors import UserError
from layerwise.ground.regular_files import read_regular
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.base import Result
from layerwise.storage.parquet import parse_table, refuse_other_columns
from layerwise.storage.provenance import distinct, installed_versions

AnyResult = TypeVar("AnyResult", bound=Result)
Environment = Mapping[str, Any]

_PART = "machines"
_COLUMNS = ["piece", "machine", "device", "environment"]


def environment_now(versions: Mapping[str, str]) -> dict[str, Any]:
    """This process's versions, threads and kernels, as plain JSON values."""
    import torch

    environment: dict[str, Any] = {
        **versions,
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": bool(torch.backends.mkldnn.enabled),
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic kernels": torch.are_deterministic_algorithms_enabled(),
    }
    if torch.cuda.is_initialized():
        environment["GPU"] = torch.cuda.get_device_name()
    return environment


@dataclass(frozen=True)
class Machine:
    """The machine that made a piece."""

    machine: str  # its name in the network
    device: str  # what the model was on, such as ``cpu`` or ``NVIDIA H100 80GB HBM3``
    # Versions, threads and kernels there; empty if it did not say.
    environment: Mapping[str, Any] = field(default_factory=dict)


def note_machine(parts: CheckpointStore, piece: str, machine: Machine | None) -> None:
    """Keep which machine made a piece; of one that this process makes, that no other did."""
    known = _recorded_machines(parts)
    others = known.loc[known["piece"] != piece]
    if machine is not None:
        values = [piece, machine.machine, machine.device, json.dumps(machine.environment)]
        table = pd.concat([others, pd.DataFrame([values], columns=_COLUMNS)], ignore_index=True)
        parts.write_part(_PART, table, machine.environment)
    elif len(others) < len(known):
        parts.write_part(_PART, others.reset_index(drop=True))


def machines_used(parts: CheckpointStore) -> tuple[dict[str, Any], ...]:
    """The machines that made pieces for a run, each with their names, for its facts."""
    grouped: Any = _recorded_machines(parts).groupby(_COLUMNS[1:], sort=True)["piece"]
    return tuple(
        {"machine": str(machine), "device": str(device), "pieces": sorted(pieces)}
        | ({"environment": made_under} if (made_under := json.loads(environment)) else {})
        for (machine, device, environment), pieces in grouped
    )


def with_origin(result: AnyResult, parts: CheckpointStore) -> AnyResult:
    """A result whose facts say what made its pieces: machines, versions, threads, kernels."""
    origin = {"machines": machines_used(parts), "environments": tuple(parts.environments())}
    frozen: Any = result
    return replace(frozen, facts=result.facts.model_copy(update=origin))


def _recorded_machines(parts: CheckpointStore) -> pd.DataFrame:
    return parts.read_part(_PART) if parts.has_part(_PART) else pd.DataFrame(columns=_COLUMNS)


_HEAD = b"layerwise part "
_LONGEST_HEAD = 10_000


class CheckpointStore:
    """Finished pieces under their names; these in memory, for a run without a folder."""

    def __init__(self) -> None:
        self._tables: dict[str, pd.DataFrame] = {}
        self._elsewhere: dict[str, Environment | None] = {}

    def has_part(self, *names: str) -> bool:
        """True if all of these pieces are there, whole and of this very run."""
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
        """Environments in which the pieces were made, each once."""
        here = environment_now(installed_versions())
        return distinct(
            here if environment is None else environment for environment in self._elsewhere.values()
        )


def concat_parts(parts: CheckpointStore, names: list[str]) -> pd.DataFrame:
    """The pieces under some names as one table, in that order; empty for no names."""
    tables = [parts.read_part(name) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def table_rows(parts: CheckpointStore, table: str, names: list[str]) -> pd.DataFrame:
    """The pieces of a table as one; they must have its columns."""
    tables = [parts.read_part(name) for name in names]
    for rows in tables:
        refuse_other_columns(table, rows)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def write_bytes_part(
    path: Path, run: str, name: str, content: bytes, environment: Mapping[str, Any]
) -> None:
    """Write the bytes of a part atomically, with their hash and what they were made under."""
    under = b" " + json.dumps(environment).encode()
    head = _HEAD + _digest(run, name, under, content) + under
    write_atomically(path, head + b"\n" + content)


def part_environment(path: Path) -> dict[str, Any] | None:
    """Environment that a part was made under; None of one that is damaged."""
    try:
        with path.open("rb") as file:
            text = file.readline(_LONGEST_HEAD).removeprefix(_HEAD).partition(b" ")[2]
        environment = json.loads(text)
    except (OSError, ValueError):
        return None
    return environment if isinstance(environment, dict) else None


def read_part_file(path: Path, run: str, name: str) -> pa.Table:
    """Read a part that is a table."""
    content = read_bytes_part(path, run, name)
    try:
        return parse_table(path, content)
    except (OSError, UserError, pa.ArrowException) as error:
        raise _no_part(path) from error


def read_bytes_part(path: Path, run: str, name: str) -> bytes:
    """Read the bytes of a part, if they are those that this run wrote."""
    try:
        head, _, content = read_regular(path).partition(b"\n")
    except OSError as error:
        raise _no_part(path) from error
    digest, blank, environment = head.removeprefix(_HEAD).partition(b" ")
    if digest != _digest(run, name, blank + environment, content):
        raise _no_part(path)
    return content


def _digest(run: str, name: str, *contents: bytes) -> bytes:
    digest = hashlib.sha256(f"{run}\0{name}\0".encode(errors="surrogatepass"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest().encode()


def _no_part(path: Path) -> UserError:
    return UserError(
        f"{path} is missing, damaged or of another run: expected a part that this run wrote; "
        "give the same command again, and what is missing is made again."
    )
