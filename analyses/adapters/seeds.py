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
from adapter_measurements import measure_other_abilities, sums
from adapter_training import train_case
from saved_tables import HERE, append_to_saved, write

import layerwise as lw

BASE = "base"


def main(cases: Sequence[str]) -> None:
    """Train each case with its further seeds, then tell."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs, made_now = HERE.parents[1] / config["runs"], cases or config["cases"]
    found: dict[str, list[pd.DataFrame]] = {}
    for case in made_now:
        for name, table in further_trainings(case, config, runs).items():
            found.setdefault(name, []).append(table.assign(case=case))
    write(append_to_saved(found, made_now))


def further_trainings(case: str, config: Mapping[str, Any], runs: Path) -> dict[str, pd.DataFrame]:
    """Results of further trainings of a case, and of suites without training.

    Args:
        case: its name.
        config: the configuration.
        runs: folder of all cases.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for seed in config[case]["further_seeds"]:
        made = train_case(case, config, runs / case, seed)
        tables = {f"further_{name}": table for name, table in made.tables.items()}
        if not config[case]["remove"]:
            before = measure_untrained_suites(config["model"], config, runs / BASE)
            after = measure_untrained_suites(made.after, config, runs / case / f"asked-{seed}")
            tables["further_differences"] = compare_with_base(before, after, config)
        for name, table in tables.items():
            found.setdefault(name, []).append(table.assign(training_seed=seed))
    return {name: pd.concat(each, ignore_index=True) for name, each in found.items()}


def measure_untrained_suites(
    model: str | Path, config: Mapping[str, Any], runs: Path
) -> list[Path]:
    """Ask a model what it was not trained on, with and without its first layer."""
    loaded, seed = lw.load_model(model), config["seed"]
    measure_other_abilities(loaded, config["kept"], seed, runs)
    sums(loaded, config["swept"], seed, runs)
    return [runs / "kept", runs / "sums"]


def compare_with_base(
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
