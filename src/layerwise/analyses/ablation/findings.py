"""The sentences that changing parts of a model can earn."""

from __future__ import annotations

from layerwise.presentation.claim import Claim
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .findings_books import book_findings
from .findings_heads import needed_heads
from .findings_ladder import ladder_findings
from .findings_no_loss import layers_without_loss

_FINDERS = (claims, ladder_findings, book_findings, needed_heads, layers_without_loss)


def findings(run: RunTables) -> list[Claim]:
    """What layers and heads are for, and whether that depends on the protocol."""
    return [claim for finder in _FINDERS for claim in finder(run)]
