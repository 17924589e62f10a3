"""Make the saved results of this study again: ``PYTHONPATH=. python analyses/healing/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from healed_models import original_numbers, prune_and_heal, suites, write_texts
from healing_figures import layer_losses_figure, recovery_figure
from healing_sentences import in_readme
from layer_measurements import measure_model, model_tables

import layerwise as lw
from layerwise.presentation.save import save_figure
from layerwise.tasks import Task

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ORIGINAL = "original"
Named = Mapping[str, pd.DataFrame]


def main() -> None:
    """Prune, heal, measure and compare, then draw and tell."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs = HERE.parents[1] / config["runs"]
    tasks = suites(config["measured"]["items"])
    found: dict[str, list[pd.DataFrame]] = {}
    groups: dict[str, list[Path]] = {ORIGINAL: [], **{case: [] for case in config["cases"]}}
    for seed, name in zip(config["seeds"], config["originals"], strict=True):
        of_seed(config, tasks, runs, seed, name, found, groups)
    whole = {name: pd.concat(each, ignore_index=True) for name, each in found.items()}
    whole |= compare_with_originals(groups, config["cases"], config["compare"])
    write(whole)


def of_seed(
    config: Mapping[str, Any],
    tasks: Sequence[Task],
    runs: Path,
    seed: int,
    name: str,
    found: dict[str, list[pd.DataFrame]],
    groups: dict[str, list[Path]],
) -> None:
    """An original, and all that is made of it, into ``found``; folders of runs into ``groups``."""

    def keep(tables: Named, case: str, numbers: Sequence[int]) -> None:
        for table, rows in tables.items():
            if "layer" in rows:
                # The lens reads the embedding as layer -1, which is no layer.
                known = dict(enumerate(numbers)) | {-1: -1}
                kept = rows["layer"].astype("Int64").map(known)
                rows = rows.assign(original=kept.astype("Int64"))
            found.setdefault(table, []).append(rows.assign(case=case, seed=seed))

    def measure(model: str | Path, case: str, numbers: Sequence[int]) -> None:
        one = measure_model(
            lw.load_model(model), tasks, config["measured"], runs / f"{case}-{seed}"
        )
        keep(model_tables(one), case, numbers)
        groups[case].append(one.folder)

    n_layers = config["n_layers"]
    measure(name, ORIGINAL, range(n_layers))
    texts = write_texts(runs / f"texts-{seed}.jsonl", config["texts"], seed)
    for case, removed in config["cases"].items():
        numbers = original_numbers(removed, n_layers)
        pruned, result = prune_and_heal(
            name, removed, tasks, config, texts, seed, runs / f"{case}-{seed}"
        )
        keep({"gains": result.gains(), "curve": result.distillation_curve}, case, numbers)
        model = runs / f"{case}-{seed}" / "model"
        moved = lw.transplant(
            lw.load_model(pruned), lw.load_model(model), tasks, **config["transplant"],
            out=model.parent / "transplant",
        )  # fmt: skip
        exchanged = {"transplant": moved.effects(), "transplant_ranks": moved.ranks()}
        keep(exchanged, case, numbers)
        measure(model, case, numbers)


def compare_with_originals(
    groups: Mapping[str, list[Path]], cases: Mapping[str, Any], asked: Mapping[str, Any]
) -> Named:
    """Each case against the originals, with the training seed as the unit."""
    differences, estimates = [], []
    for case in cases:
        found = lw.compare({ORIGINAL: groups[ORIGINAL], case: groups[case]}, **asked)
        differences.append(found.differences.assign(case=case))
        estimates.append(found.estimates.assign(case=case))
    return {"differences": pd.concat(differences), "estimates": pd.concat(estimates)}


def write(tables: Named) -> None:
    """Tables, figures, and the findings of the README."""
    RESULTS.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
    figures = RESULTS / "figures"
    save_figure(recovery_figure(tables["gains"]), figures, "what_came_back")
    save_figure(layer_losses_figure(tables["layers"]), figures, "where_it_lies")
    for page in (HERE / "README.md", RESULTS / "numbers.md"):
        page.write_text(in_readme(page.read_text("utf-8"), tables), "utf-8")


if __name__ == "__main__":
    main()
