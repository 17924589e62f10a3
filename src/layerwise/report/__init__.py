"""The report: figures, sentences and one HTML page from saved tables.

Nothing here runs a model.
"""

from __future__ import annotations

from layerwise._callable import make_callable
from layerwise.report.finding import Finding as Finding
from layerwise.report.html import Report as Report
from layerwise.report.html import report as report
from layerwise.report.html import report_from_folders as report_from_folders
from layerwise.report.summary import findings as findings

make_callable(__name__)
