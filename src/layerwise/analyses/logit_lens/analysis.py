"""The logit lens, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, saved_tables
from layerwise.storage.base import Result

from .curves import lens_evidence
from .findings import settled_later
from .report import sections
from .result import LensResult
from .tables import guessing, lens_gate


def _tables(result: LensResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    own = lens_gate(result.lens, guessing(result.facts))
    return saved_tables(result, others) | {"lens_gate": own}


ANALYSIS = Analysis(
    "logit_lens",
    LensResult,
    sections,
    settled_later,
    tables=_tables,
    files={"lens_gate": "lens.parquet, answers counted"},
    curves=Curves("logit lens", lens_evidence),
)
