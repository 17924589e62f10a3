"""What follows from a lens table alone: which of its rows are about the answer, and how deep it is.

Nothing here reads a model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def answers_read(lens: pd.DataFrame) -> pd.DataFrame:
    """The rows that look for the answer at the prompt's last position, after each layer."""
    wanted = {"over": "prompt", "pos": -1, "site": "resid_post"}
    chosen = [np.asarray(lens[name].eq(value), dtype=bool) for name, value in wanted.items()]
    return pd.DataFrame(lens.loc[np.logical_and.reduce(chosen)])
