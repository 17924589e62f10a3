"""Which machine made which piece of a run, where a run is spread over several.

It is kept beside the pieces while the run goes on, and ends up in the facts of its results; runs
that one process made alone have nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pandas as pd

from layerwise.storage.base import Result

from .checkpoints import CheckpointStore

AnyResult = TypeVar("AnyResult", bound=Result)

_PART = "machines"
_COLUMNS = ["piece", "machine", "device", "environment"]


@dataclass(frozen=True)
class Machine:
    """What made a piece."""

    machine: str  # its name in the network
    device: str  # what the model was on, such as ``cpu`` or ``NVIDIA H100 80GB HBM3``
    # Versions, threads and kernels there; empty if it did not say.
    environment: Mapping[str, Any] = field(default_factory=dict)


def note_machine(parts: CheckpointStore, piece: str, machine: Machine | None) -> None:
    """Keep which machine made a piece; of one that this process makes, that no other did."""
    known = _known(parts)
    others = known.loc[known["piece"] != piece]
    if machine is not None:
        values = [piece, machine.machine, machine.device, json.dumps(machine.environment)]
        table = pd.concat([others, pd.DataFrame([values], columns=_COLUMNS)], ignore_index=True)
        parts.write_part(_PART, table, machine.environment)
    elif len(others) < len(known):
        parts.write_part(_PART, others.reset_index(drop=True))


def machines_of(parts: CheckpointStore) -> tuple[dict[str, Any], ...]:
    """The machines that made pieces for a run, each with their names, for its facts."""
    grouped: Any = _known(parts).groupby(_COLUMNS[1:], sort=True)["piece"]
    return tuple(
        {"machine": str(machine), "device": str(device), "pieces": sorted(pieces)}
        | ({"environment": made_under} if (made_under := json.loads(environment)) else {})
        for (machine, device, environment), pieces in grouped
    )


def with_origin(result: AnyResult, parts: CheckpointStore) -> AnyResult:
    """A result whose facts say what made its pieces: machines, versions, threads, kernels."""
    origin = {"machines": machines_of(parts), "environments": tuple(parts.environments())}
    frozen: Any = result
    return replace(frozen, facts=result.facts.model_copy(update=origin))


def _known(parts: CheckpointStore) -> pd.DataFrame:
    known = parts.read_part(_PART) if parts.has_part(_PART) else pd.DataFrame(columns=_COLUMNS)
    # Earlier versions did not keep under what a machine worked.
    return known if "environment" in known else known.assign(environment="{}")
