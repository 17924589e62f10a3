"""Arguments of the functions of a prompt, and numbers as they are shown."""

from __future__ import annotations

from typing import Any


def as_given(name: str, value: Any) -> Any:
    """Leave an argument for the function to read."""
    return value


def probability(value: float) -> str:
    """A probability as people read it: two digits, and small ones as such."""
    return "< .01" if 0 < value < 0.005 else f"{value:.2f}".lstrip("0") if value < 1 else "1"
