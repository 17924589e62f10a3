"""The sentences that depths, their order, and the agreement of methods can earn."""

from __future__ import annotations

from layerwise.presentation.claim import Claim
from layerwise.storage.run_tables import RunTables

from .findings_lens import lens_depths
from .findings_methods import agreements, interactions
from .findings_order import orders, suites_apart

_FINDERS = (interactions, orders, suites_apart, lens_depths, agreements)


def findings(run: RunTables) -> list[Claim]:
    """Where capabilities emerge and in which order, and whether protocols and methods agree."""
    return [finding for finder in _FINDERS for finding in finder(run)]
