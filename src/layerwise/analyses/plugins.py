"""``ANALYSIS`` of each folder by its name, and of the packages that plug in analyses.

Plugins are code that the user installed. One that breaks is left out with one sentence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from layerwise.ground.analysis_folders import (
    OWN,
    AnalysisFolder,
    is_left_out,
    leave_out,
    plugins,
)
from layerwise.storage.base import Result
from layerwise.storage.schemas import LAYOUTS, OWNERS

from .contract import Analysis

_RESERVED = ("all", "profile")


def own_analyses(names: Iterable[str]) -> tuple[Analysis, ...]:
    """The analyses of this package that have some names."""
    by_name = {folder.name: folder for folder in OWN}
    return tuple(_analysis(by_name[name]) for name in names)


def plugin_analyses(own: Sequence[Analysis]) -> tuple[Analysis, ...]:
    """The analyses of other packages, beside those of this one."""
    found = list(own)
    for folder in plugins():
        try:
            analysis = _analysis(folder)
            _refuse_unfit(folder, analysis, found)
        except (Exception, SystemExit) as error:  # whatever it is, it is not layerwise's
            leave_out(folder, error)
        else:
            found.append(_guard_plugin(folder, analysis))
    return tuple(found[len(own) :])


def _analysis(folder: AnalysisFolder) -> Analysis:
    return importlib.import_module(f"{folder.module}.analysis").ANALYSIS


def _refuse_unfit(folder: AnalysisFolder, analysis: Any, others: Sequence[Analysis]) -> None:
    """Refuse what is no analysis, or would take the place of another."""
    if not isinstance(analysis, Analysis) or analysis.name != folder.name:
        raise TypeError(f"ANALYSIS must be an Analysis with the name {folder.name!r}")
    if not issubclass(analysis.result, Result) or not analysis.result.tables:
        raise TypeError("its result must be a Result with tables")
    result: type[Result] = analysis.result
    for table in (*result.tables, *result.derived_by):
        if OWNERS.get(table) != folder.name:
            raise ValueError(f"its tables.toml has no table {table!r}")
    if result.tables[0] in LAYOUTS:  # a folder is known to hold a result by this file
        raise ValueError(f"{result.tables[0]!r}, the first of its tables, must not be of estimates")
    for kind in ("extras", "plans"):
        taken = {each.name for other in others for each in getattr(other, kind)}
        for each in getattr(analysis, kind):
            if each.name in taken or each.name in _RESERVED:
                raise ValueError(f"{each.name!r} is the name of another analysis")


def _guard_plugin(folder: AnalysisFolder, analysis: Analysis) -> Analysis:
    """A plugin whose parts of a page are left out if they cannot be made."""

    def guard(make: Callable[..., Any], kind: type[Any]) -> Callable[..., Any]:
        def make_or_leave_out(*given: Any) -> Any:
            if is_left_out(folder):
                return kind()
            try:
                return kind(make(*given))
            except Exception as error:
                leave_out(folder, error)
                return kind()

        return make_or_leave_out

    return replace(
        analysis,
        sections=guard(analysis.sections, list),
        findings=guard(analysis.findings, list),
        caveats=guard(analysis.caveats, list),
        tables=guard(analysis.tables, dict),
    )
