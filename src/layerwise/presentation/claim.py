"""A claim: what a run's tables support or leave open, in short, in full, and as a record.

Which claims can be made, each analysis says; nothing is tested here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from .wording import capitalised, interval, joined, number, p_value


class Evidence(StrEnum):
    """How far a claim is established, the surest first."""

    ESTABLISHED = "established"
    IN_TABLE = "in its table"
    OPEN = "not established"


EVIDENCE = ESTABLISHED, IN_TABLE, OPEN = tuple(Evidence)

# The kinds of claims in the order in which a reader is to meet them.
GENERAL, SHARED, MORE, NEEDED = "general", "shared", "needed more", "needed"
SPARED, GAINED = "spare", "gain"
ORDER, SCORING, LENS, PATCHING = "order", "scoring", "lens", "patching"
SILENT = "no signal"
ROLES = (GENERAL, SHARED, MORE, NEEDED, SPARED, GAINED)
_FIRST = (*ROLES, ORDER, SCORING, LENS, PATCHING)


# A second claim of one kind says less that is new than the first.
_DECAY = 0.8


class Estimate(NamedTuple):
    """A number with the bounds around it.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        unit: what it is in: ``"accuracy points"``, ``"%"``.
        bounds: what the bounds are: ``"95 % interval"``, ``"bounds for all 120 tests together"``.
        digits: decimals that are shown.
    """

    value: float
    low: float
    high: float
    unit: str
    bounds: str = "95 % interval"
    digits: int = 0

    def __str__(self) -> str:
        if math.isnan(self.low) and math.isnan(self.high):
            return f"{number(self.value, self.digits)} {self.unit} (no interval)"
        return f"{interval(*self[:3], self.digits)} {self.unit} ({self.bounds})"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that the tables support, or leave open.

    Attributes:
        kind: what sort of claim it is.
        short: the claim in at most 25 words, with at most two numbers beside an interval.
        evidence: ``established`` (over all that the run asked), ``in its table`` (corrected within
            one table only) or ``not established``.
        source: the table, ``where`` (columns and values that pick the rows that it is about) and
            ``at`` (those of the rows that it quotes).
        importance: from 0 to 1; among claims of a kind the higher comes first.
        capabilities: which it is about.
        tasks: which it is about.
        protocols: which it is about.
        layers: which it is about.
        estimate: the number that it stands on.
        p: the p-value that it stands on, corrected.
        test: the test and its family: ``"exact sign flips of items, Holm over 120 tests"``.
        items: how many items it stands on, in words.
        details: further sentences.
        caveat: what must not be concluded.
    """

    kind: str
    short: str
    evidence: str
    source: dict[str, Any]
    importance: float = 0.5
    capabilities: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    estimate: Estimate | None = None
    p: float | None = None
    test: str = ""
    items: str = ""
    details: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def full(self) -> str:
        """The claim with its estimate, test, items, tasks, protocols and caveat."""
        parts = [self.short, *self.details]
        if self.estimate is not None:
            parts.append(f"Estimate: {self.estimate}.")
        if self.p is not None:
            parts.append(f"{capitalised(p_value(self.p))}: {self.test}.")
        parts_of_data = [self.items, _named("task", self.tasks), _named("protocol", self.protocols)]
        if any(parts_of_data):
            parts.append(f"{capitalised(joined(part for part in parts_of_data if part))}.")
        return " ".join([*parts, self.caveat] if self.caveat else parts)

    def record(self) -> dict[str, Any]:
        """The claim as plain JSON values, for ``claims.json``."""
        plain = asdict(self) | {"full": self.full}
        estimate = self.estimate
        if estimate is not None:
            plain["estimate"] = {name: _finite(value) for name, value in
                                 estimate._asdict().items()}  # fmt: skip
        return plain


def source(table: str, where: dict[str, Any], **at: Any) -> dict[str, Any]:
    """A claim's source: a table, the rows it is about, and those quoted among them."""
    return {"table": table, "where": where, "at": at}


def spaced(claims: list[Claim], most: int) -> list[Claim]:
    """The ``most`` important claims of a kind, each further one counting for less."""
    best = sorted(claims, key=lambda claim: -claim.importance)[:most]
    return [replace(claim, importance=claim.importance * _DECAY**i)
            for i, claim in enumerate(best)]  # fmt: skip


def weight(top: float, magnitude: float) -> float:
    """Importance of a claim of a kind worth ``top``, by the size of what it says."""
    return top * (0.5 + 0.5 * min(max(magnitude, 0.0), 1.0))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(noun: str, names: Sequence[str]) -> str:
    return f"{noun}{'s' * (len(names) > 1)} {joined(names)}" if names else ""


def ranked(claims: Iterable[Claim]) -> list[Claim]:
    """Claims in the order in which a reader is to meet them.

    What is established comes before what is open, in each kind.
    """
    last = len(_FIRST)
    return sorted(
        claims,
        key=lambda claim: (
            _FIRST.index(claim.kind) if claim.kind in _FIRST else last,
            EVIDENCE.index(claim.evidence),
            -claim.importance,
        ),
    )
