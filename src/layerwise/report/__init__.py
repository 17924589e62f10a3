"""The report: figures, sentences and one HTML page from saved tables.

Nothing here runs a model.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from layerwise.presentation.claim import Claim as Claim
from layerwise.presentation.page import Report as Report
from layerwise.report.html import findings as findings
from layerwise.report.html import report as report
from layerwise.report.html import report_from_folders as report_from_folders


class _CallableModule(ModuleType):
    """``lw.report(...)`` must work also after importing this puts it in the function's place."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
