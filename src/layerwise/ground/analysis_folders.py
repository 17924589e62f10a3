"""Names and folders of all analyses, this package's first, without importing any of them.

An analysis is its folder. One of another package is found by its entry point.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

# In the order in which folders of runs are searched and profiles add.
MEASURING = (
    "ablation", "logit_lens", "tuned_lens", "patching", "attribution", "heads", "similarity",
    "removal", "attribution_patching", "path_patching", "pruning", "interactions", "early_exit",
    "transplant", "distillation",
)  # fmt: skip
JOINING = ("emergence",)  # those that join results of one model
COMPARING = ("comparison", "training")  # those that join runs of several models


class AnalysisFolder(NamedTuple):
    """Where an analysis stands."""

    name: str
    module: str  # the package that its folder is

    def path(self, file: str) -> Path:
        """A file of the folder; no module is imported to find it."""
        top, *inner = self.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"no package named {top!r}")
        return Path(spec.submodule_search_locations[0], *inner, file)


OWN = tuple(
    AnalysisFolder(name, f"layerwise.analyses.{name}")
    for name in (*MEASURING, *JOINING, *COMPARING)
)
