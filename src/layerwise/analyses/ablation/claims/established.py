"""A claim on the layers of rows of ``estimates.parquet``, and the words that its numbers take."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import ESTABLISHED, Claim, Estimate, source
from layerwise.presentation.rows import layers_in, numbers
from layerwise.presentation.wording import number, spread

Row = dict[str, Any]


def split_names(names: Any) -> list[str]:
    """The names of a comma-separated list; none of a null."""
    return [name for name in str(names).split(", ") if name] if pd.notna(names) else []


def layers_claim(
    kind: str, short: str, about: pd.DataFrame, where: dict[str, Any], **more: Any
) -> Claim:
    """A claim on the layers of some estimates, with the largest of their p-values."""
    layers = layers_in(about)
    n_items = [*about["n_items"], *(about["n_other"].dropna() if "n_other" in about else ())]
    names = {
        name: tuple(dict.fromkeys(part for row in about[name] for part in row.split(", ")))
        for name in ("tasks", "protocols")
    }
    return Claim(
        kind=kind,
        short=short,
        evidence=ESTABLISHED,
        source=source("capability_estimates", where, layer=layers),
        layers=tuple(layers),
        p=float(numbers(about, "p_table").max()),
        items=f"{spread(n_items)} items a capability",
        **names,
        **more,
    )


def parts_in_points(row: Row, unit: str, tests: str = "tests") -> Estimate:
    """An estimate of a share, in hundredths, with its bounds for all tests together."""
    value, low, high = (100 * float(row[name]) for name in ("estimate", "low", "high"))
    return Estimate(value, low, high, unit, f"bounds for all {row['n_tests']} {tests} together")


def percent(share: float) -> str:
    """A share in hundredths."""
    return number(100 * float(share))
