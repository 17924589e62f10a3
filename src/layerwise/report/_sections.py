"""The parts of a run's page, in reading order; what was not run has no part.

Each analysis makes its own; here they are put together.
"""

from __future__ import annotations

from dataclasses import replace

from layerwise.analyses.registry import ANALYSES
from layerwise.presentation.section import Section
from layerwise.report._layers import layer_grid
from layerwise.storage.run_tables import RunTables

# The part that shows all layers at a glance is where each of them can be opened.
_OPENED = "roles"


def sections(run: RunTables) -> list[Section]:
    """The parts of a run's page that there is something to show in."""
    every = [section for analysis in ANALYSES for section in analysis.sections(run)]
    shown = [part for part in every if part.drawings or part.tables]
    return [
        replace(part, grid=layer_grid(run)) if part.anchor == _OPENED else part
        for part in sorted(shown, key=lambda part: part.place)
    ]
