"""Counts of what was tried, told at the end of the tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile.extent import SEED

_COUNTED = "hostile:"


@pytest.fixture
def count(record_property) -> Callable[[str, int], None]:
    """Adds to the numbers that are told at the end: kills, flips, fuzzed files, strings."""

    def add(what: str, n: int = 1) -> None:
        record_property(_COUNTED + what, n)

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name.startswith(_COUNTED):
                        counts[name.removeprefix(_COUNTED)] += value
    if counts:
        told = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
        terminalreporter.write_line(f"Tried: {told} (LAYERWISE_HOSTILE_SEED={SEED}).")
