"""The sentences that changing parts of a model can earn."""

from __future__ import annotations

from layerwise.presentation.finding import Finding
from layerwise.storage.run_tables import RunTables

from .findings_books import book_findings
from .findings_heads import needed_heads
from .findings_ladder import ladder_findings
from .findings_layers import critical_layers, gains
from .findings_no_loss import layers_without_loss

_FINDERS = (
    critical_layers, ladder_findings, book_findings, needed_heads, layers_without_loss, gains,
)  # fmt: skip


def findings(run: RunTables) -> list[Finding]:
    """What single layers and heads are needed for, and whether that depends on the protocol."""
    return [finding for finder in _FINDERS for finding in finder(run)]
