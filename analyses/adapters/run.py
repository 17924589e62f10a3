"""Make the saved results of this study again: ``python analyses/adapters/run.py [CASE ...]``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from adapter_figures import N_LAYERS
from adapter_measurements import load_tasks, measure_other_abilities, sweep_layers
from adapter_training import ModelPair, train_case
from saved_tables import HERE, Named, append_to_saved, write
from seeds import BASE, further_trainings

import layerwise as lw
from layerwise.analyses.logit_lens.result import answers_on_top
from layerwise.presentation.rows import rows
from layerwise.tasks import Task


def main(cases: Sequence[str]) -> None:
    """Train and measure each case, then draw and tell."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs = HERE.parents[1] / config["runs"]
    found: dict[str, list[pd.DataFrame]] = {}
    base = measure_model(config["model"], BASE, config, runs / BASE)
    keep(found, base, BASE, config)
    made_now = cases or config["cases"]
    for case in made_now:
        made = train_case(case, config, runs / case, config["seed"])
        keep(found, made.tables, case, config)
        keep(found, measure_model(made.after, case, config, runs / case), case, config)
        keep(found, exchange_layers(made, case, config, runs / case), case, config)
        keep(found, compare_with_base(runs / BASE, runs / case, config), case, config)
        keep(found, further_trainings(case, config, runs), case, config)
    write(append_to_saved(found, [BASE, *made_now]))


def measure_model(model: str | Path, case: str, config: Mapping[str, Any], runs: Path) -> Named:
    """The layers that the swept suites need in a model, and what else it can do."""
    loaded, tasks = lw.load_model(model), swept_tasks(case, config)
    ablation, lens, patching = sweep_layers(loaded, tasks, config["swept"], runs)
    other = measure_other_abilities(loaded, config["kept"], config["seed"], runs)
    patched = rows(patching.effects(), metric="logit difference", pos_label="last")
    return {
        "signal": pd.concat([ablation.signal(), other.signal()]),
        "layers": rows(ablation.effects(), kind="skip", site="layer"),
        "lens": answers_on_top(lens.lens),
        "patching": patched,
    }


def swept_tasks(case: str, config: Mapping[str, Any]) -> list[Task]:
    """The suites in which every layer of the model of a case is changed."""
    asked = config["swept"]
    return load_tasks(asked[case], asked["fewshot"], config["seed"])


def exchange_layers(made: ModelPair, case: str, config: Mapping[str, Any], runs: Path) -> Named:
    """Effect of trained layers on the model as it was, and of their return."""
    moved = lw.transplant(
        lw.load_model(made.before), lw.load_model(made.after), swept_tasks(case, config),
        **config["transplant"], out=runs / "transplant",
    )  # fmt: skip
    return {
        "transplant": moved.effects(),
        "transplant_gaps": moved.gaps(),
        "transplant_ranks": moved.ranks(),
    }


def compare_with_base(base: Path, after: Path, config: Mapping[str, Any]) -> Named:
    """The trained model against the base, paired over items."""
    found = [
        lw.compare([base / name, after / name], seed=config["seed"], **config["compare"])
        for name in ("swept", "kept")
    ]
    return {"differences": pd.concat([one.differences for one in found])}


def keep(
    found: dict[str, list[pd.DataFrame]], tables: Named, case: str, config: Mapping[str, Any]
) -> None:
    """Put tables beside those of other models, with the numbers that layers had in the base."""
    removed = config[case]["remove"] if case != BASE else []
    left = [layer for layer in range(N_LAYERS) if layer not in removed]
    for name, table in tables.items():
        if "layer" in table:
            # The lens reads the embedding as layer -1, which is no layer.
            known = dict(enumerate(left)) | {-1: -1}
            kept = table["layer"].astype("Int64").map(known)
            table = table.assign(original=kept.astype("Int64"))
        found.setdefault(name, []).append(table.assign(case=case))


if __name__ == "__main__":
    main(sys.argv[1:])
