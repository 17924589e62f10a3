"""Print the lowest release of each direct dependency that its range allows, as constraints.

    python tests/lowest.py > constraints.txt

Left out: torch, whose older builds without CUDA are not on the package index, and tools that no
test imports.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LEFT_OUT = ("torch", "ruff", "pyright")


def lowest() -> list[str]:
    """One constraint for each direct dependency, those of the tests included."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    ranges = [re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,<[\d.]+)?", one) for one in wanted]
    assert all(ranges), f"ranges begin with their lowest release: {wanted}"
    found = [one.groups() for one in ranges if one]
    return [f"{name}=={release}" for name, release in found if name not in LEFT_OUT]


if __name__ == "__main__":
    print("\n".join(lowest()))
