"""Skip each layer of the organisms that choose by letter: ``python analyses/organism/letters.py``.

Other seeds are trained by ``python -m analyses.organism_training.letters.train``. Their folders,
in the form ``organism-letters/1``, can be named and are evaluated, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

import layerwise as lw
from analyses.organism_training.letters.plan import PLANS
from layerwise.models.names.registry import BUNDLED, ORGANISM_WEIGHTS
from layerwise.tasks import PROTOCOLS

RESULTS = Path(__file__).parent / "results"
COLUMNS = [
    "capability", "protocol", "layer", "n_items", "acc_intact", "acc", "acc_diff_low",
    "acc_diff_high", "p_holm", "significant", "floor",
]  # fmt: skip


def main(others: list[Path]) -> None:
    """One row for each model, capability, protocol and layer, beside what was planted."""
    asked = {name: ORGANISM_WEIGHTS / name for name in PLANS if name in BUNDLED}
    tables = [skips(name, lw.load_model(name), folder) for name, folder in asked.items()]
    tables += [skips(folder.parent.name, lw.load_model(folder), folder) for folder in others]
    table = pd.concat(tables).round(4)
    table.to_csv(RESULTS / "letters.csv", index=False, lineterminator="\n")


def skips(name: str, model, folder: Path) -> pd.DataFrame:
    """Cost of skipping each layer under each protocol, and whether that was planted."""
    effects = lw.ablate(model, "all", PROTOCOLS).effects()[COLUMNS]
    planted = [
        row.layer in PLANS[name].needed_layers(row.capability, row.protocol)
        for row in effects.itertuples()
    ]
    record = json.loads((folder / "training.json").read_text("utf-8"))
    return effects.assign(model=name, seed=record["seed"], planted=planted)


if __name__ == "__main__":
    main([Path(one) for one in sys.argv[1:]])
