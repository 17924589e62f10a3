"""Train the cases again with further seeds: ``python analyses/adapters/seeds.py [CASE ...]``.

The same items are asked before and after as with the first seed; layers are not gone through.
``run.py`` does this, too, behind all else. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from adapters_kept import HERE, beside_saved, write
from adapters_measured import kept, sums
from adapters_trained import trained

import layerwise as lw

BASE = "base"


def main(cases: Sequence[str]) -> None:
    """Train each case with its further seeds, then tell."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs, made_now = HERE.parents[1] / config["runs"], cases or config["cases"]
    found: dict[str, list[pd.DataFrame]] = {}
    for case in made_now:
        for name, table in again(case, config, runs).items():
            found.setdefault(name, []).append(table.assign(case=case))
    write(beside_saved(found, made_now))


def again(case: str, config: Mapping[str, Any], runs: Path) -> dict[str, pd.DataFrame]:
    """Results of further trainings of a case, and of suites without training.

    Args:
        case: its name.
        config: the configuration.
        runs: folder of all cases.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for seed in config[case]["further_seeds"]:
        made = trained(case, config, runs / case, seed)
        tables = {f"further_{name}": table for name, table in made.tables.items()}
        if not config[case]["remove"]:
            before = asked(config["model"], config, runs / BASE)
            after = asked(made.after, config, runs / case / f"asked-{seed}")
            tables["further_differences"] = compared(before, after, config)
        for name, table in tables.items():
            found.setdefault(name, []).append(table.assign(training_seed=seed))
    return {name: pd.concat(each, ignore_index=True) for name, each in found.items()}


def asked(model: str | Path, config: Mapping[str, Any], runs: Path) -> list[Path]:
    """Ask a model what it was not trained on, with and without its first layer."""
    loaded, seed = lw.load_model(model), config["seed"]
    kept(loaded, config["kept"], seed, runs)
    sums(loaded, config["swept"], seed, runs)
    return [runs / "kept", runs / "sums"]


def compared(
    before: Sequence[Path], after: Sequence[Path], config: Mapping[str, Any]
) -> pd.DataFrame:
    """The trained model against the base, paired over items."""
    found = [
        lw.compare(pair, seed=config["seed"], **config["compare"]).differences
        for pair in zip(before, after, strict=True)
    ]
    return pd.concat(found, ignore_index=True)


if __name__ == "__main__":
    main(sys.argv[1:])
