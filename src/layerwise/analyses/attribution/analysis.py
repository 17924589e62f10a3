"""Direct logit attribution, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, saved_tables
from layerwise.storage.base import Result

from .curves import attribution_evidence
from .findings import attributions
from .report import sections
from .result import AttributionResult
from .tables import attribution_gate


def _tables(result: AttributionResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    own = attribution_gate(result.attribution)
    return saved_tables(result, others) | {"attribution_gate": own}


ANALYSIS = Analysis(
    "attribution",
    AttributionResult,
    sections,
    attributions,
    tables=_tables,
    files={"attribution_gate": "attribution.parquet, answers counted"},
    curves=Curves("attribution", attribution_evidence),
)
