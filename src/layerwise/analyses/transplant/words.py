"""How the two models of a transplant are called in sentences."""

from __future__ import annotations

from typing import Any

from layerwise.storage.run_tables import RunTables

from .names import BASE, DESTROYS, OTHER

Row = dict[str, Any]


def models_of(run: RunTables, row: Row) -> tuple[str, str]:
    """The better model and the other, in words."""
    better = row["host"] if row["direction"] == DESTROYS else _opposite(row["host"])
    return named_model(run, better), named_model(run, _opposite(better))


def _opposite(host: str) -> str:
    return OTHER if host == BASE else BASE


def named_model(run: RunTables, host: str) -> str:
    """``the base``, or with a name where the two models have different ones."""
    names = {"base": run.facts.model.name, "other": run.facts.settings.get("other")}
    noun = "the base" if host == BASE else "the other model"
    return noun if names["base"] == names["other"] else f"{noun} ({names[host]})"
