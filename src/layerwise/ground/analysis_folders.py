"""Names and folders of all analyses, this package's and installed plugins', none of them imported.

An analysis is its folder. A plugin is found by its entry point in the group ``layerwise.analyses``,
and one that is broken is left out with a warning. What takes long to import is imported late, as
``import layerwise`` needs the names.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from layerwise.errors import BrokenPluginWarning, one_line, printable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from pathlib import Path

GROUP = "layerwise.analyses"
# In the order in which folders of runs are searched and profiles add.
MEASURING = (
    "ablation", "logit_lens", "tuned_lens", "patching", "attribution", "heads", "similarity",
    "removal", "attribution_patching", "path_patching", "pruning", "interactions", "early_exit",
    "transplant", "distillation", "running_text", "head_sets", "decisions",
)  # fmt: skip
JOINING = ("emergence", "replication")  # those that join results of one model
COMPARING = ("comparison", "training")  # those that join runs of several models


class AnalysisFolder(NamedTuple):
    """Folder of an analysis."""

    name: str
    module: str  # the package that its folder is
    distribution: str = "layerwise"

    def path(self, file: str) -> Path:
        """A file of the folder; no module is imported to find it."""
        from pathlib import Path

        top, *inner = self.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No package named {top!r}")
        return Path(spec.submodule_search_locations[0], *inner, file)


OWN = tuple(
    AnalysisFolder(name, f"layerwise.analyses.{name}")
    for name in (*MEASURING, *JOINING, *COMPARING)
)
_left_out: set[str] = set()


def plugins() -> list[AnalysisFolder]:
    """The folders of analyses of other packages, by name; none that was left out."""
    return [folder for folder in _find_installed_plugins() if folder.name not in _left_out]


@cache
def _find_installed_plugins() -> tuple[AnalysisFolder, ...]:
    from importlib.metadata import entry_points

    taken = {folder.name for folder in OWN}
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        folder = AnalysisFolder(point.name, point.value, _distribution(point))
        if not re.fullmatch("[a-z][a-z0-9_]*", point.name) or point.name in taken:
            wanted = "a name that no other analysis has, of small letters, digits and underscores"
            leave_out(folder, ValueError(f"its name must be {wanted}"))
            continue
        taken.add(point.name)
        found.append(folder)
    return tuple(found)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"


def leave_out(folder: AnalysisFolder, error: BaseException) -> None:
    """Warn once of a broken plugin, and give it no more."""
    if folder.name in _left_out:
        return
    if folder.name not in {own.name for own in OWN}:
        _left_out.add(folder.name)
    why = f"unknown name {error}" if isinstance(error, KeyError) else one_line(error)
    sentence = (
        f"The analysis {folder.name!r} of {folder.distribution} is left out "
        f"({type(error).__name__}: {why}): update or uninstall that package."
    )
    warnings.warn(printable(sentence), BrokenPluginWarning, stacklevel=3)


def is_left_out(folder: AnalysisFolder) -> bool:
    """True if a plugin turned out to be broken."""
    return folder.name in _left_out
