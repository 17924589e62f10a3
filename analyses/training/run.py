"""Make the saved results of this study again: ``PYTHONPATH=. python analyses/training/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
from checkpoints import checkpoints

import layerwise as lw
from layerwise.presentation.save import save_figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLES = ("accuracy", "layers", "depths", "onsets", "moves")
# Columns that are lists of layers, or follow from others.
LISTS = ("layers", "layers_first", "layers_last")


def main() -> None:
    """Train every organism, profile its checkpoints, and keep tables, sentences and figures."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs = HERE.parents[1] / config["runs"]
    found = {
        f"{kind}-{seed}": profile_organism(kind, seed, config, runs)
        for kind in config["kinds"]
        for seed in config["seeds"]
    }
    for name in TABLES:
        every = [getattr(one, name).assign(series=series) for series, one in found.items()]
        _write(pd.concat(every, ignore_index=True), name)
    sentences = [
        {
            "series": series,
            "kind": finding.kind,
            "evidence": finding.evidence,
            "short": finding.short,
            "sentence": finding.full,
        }
        for series, one in found.items()
        for finding in one.findings()
    ]
    _write(pd.DataFrame(sentences), "sentences")
    for series, one in found.items():
        save_figure(one.plot("generate"), RESULTS / "figures", f"{series}_generate")


def profile_organism(kind: str, seed: int, config: dict[str, Any], runs: Path) -> lw.TrainingSeries:
    """An organism, trained, and its checkpoints profiled."""
    name = f"{kind}-{seed}"
    kept = checkpoints(kind, seed, config["checkpoints"]["steps"], runs / name)
    return lw.profile_training(kept, **config["profile"], out=runs / "series" / name)


def _write(table: pd.DataFrame, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    text = {
        column: table[column].map(_layers_text) for column in LISTS if column in table.columns
    }  # fmt: skip
    table.assign(**text).to_csv(
        RESULTS / f"{name}.csv", index=False, lineterminator="\n", float_format="%.4g"
    )


def _layers_text(layers: Any) -> str:
    return "" if layers is None else " ".join(map(str, layers))


if __name__ == "__main__":
    main()
