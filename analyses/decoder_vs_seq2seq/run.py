"""Make the saved results of this study again: ``python analyses/decoder_vs_seq2seq/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from typing import Any

import pandas as pd
from depths import depths_over_seeds

import layerwise as lw
from layerwise.analyses.comparison.findings import difference_claims
from layerwise.ground.layer_names import layer_name
from layerwise.presentation.claim import save_claims
from layerwise.presentation.save import save_figure

HERE = Path(__file__).parent
ALPHA = 0.05
RESULTS = HERE / "results"
KEPT = ("figures/roles_continuation.png", "figures/roles_generate.png")
PARTS = ["attn_out", "cross_attn_out", "mlp_out"]
Folders = dict[str, list[Path]]


def main() -> None:
    """Profile every model of every group, compare the groups, and draw their depths."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs = HERE.parents[1] / config["runs"]
    groups = {
        group: [profile_model(name, config["profile"], runs) for name in names]
        for group, names in config["groups"].items()
    }
    found = lw.compare(groups, **config["compare"])
    save_comparison(found, runs / "comparison")
    # Of the tables as they are kept, with four digits.
    claims = difference_claims(pd.read_csv(RESULTS / "differences.csv"))
    save_claims(claims, RESULTS)
    for finding in claims:
        print(f"- {finding.full}")
    models = [run.facts.model for run in found.facts.runs]
    begins = max(model.n_encoder_layers / model.n_layers for model in models)
    figure = depths_over_seeds(found.estimates, begins)
    save_figure(figure, RESULTS / "figures", "depths_over_seeds")
    _write(pd.concat(orders(groups), ignore_index=True), "orders")
    _write(pd.concat(parts(groups), ignore_index=True), "parts")


def save_comparison(found: lw.Comparison, whole: Path) -> None:
    """Save a comparison, and keep its tables as text, its facts and its role maps."""
    found.save(whole)
    for name in ("layers", "estimates", "differences", "left_out"):
        _write(getattr(found, name), name)
    (RESULTS / "figures").mkdir(parents=True, exist_ok=True)
    for file in ("comparison.json", *KEPT):
        copy(whole / file, RESULTS / file)


def profile_model(name: str, asked: dict[str, Any], runs: Path) -> Path:
    """The folder of a model's profile."""
    lw.profile(lw.load_model(name), **asked, out=runs / name)
    return runs / name


def load_measurements(folder: Path) -> list[Any]:
    """Ablation and lenses of a run, in this order."""
    kinds = lw.AblationResult, lw.LensResult
    return [result for result in lw.load(folder) if isinstance(result, kinds)]


def orders(groups: Folders) -> Iterator[pd.DataFrame]:
    """In how many seeds one capability is established to come before another, by each method."""
    cell = ["protocol", "method", "measure", "first", "second"]
    for group, folders in groups.items():
        every = pd.concat([lw.emergence(load_measurements(folder)).order for folder in folders])
        sure = every["p_holm"] < ALPHA
        told = every.assign(
            n_runs=1,
            first_before=sure & (every["difference"] > 0),
            second_before=sure & (every["difference"] < 0),
        )
        columns = ["n_runs", "first_before", "second_before"]
        counted = told.groupby(cell, sort=False)[columns].sum()
        yield counted.reset_index().assign(group=group)


def parts(groups: Folders) -> Iterator[pd.DataFrame]:
    """Cost of skipping a layer's attention, cross-attention or MLP, over the seeds."""
    cell = ["capability", "protocol", "site", "layer"]
    for group, folders in groups.items():
        ablations = [load_measurements(folder)[0] for folder in folders]
        n_encoder = ablations[0].facts.model.n_encoder_layers
        every = pd.concat([ablation.effects() for ablation in ablations])
        lost = every[every["site"].isin(PARTS)].groupby(cell, sort=False)
        table = lost.agg(
            n_runs=("share_lost", "size"), mean=("share_lost", "mean"), least=("share_lost", "min"),
            most=("share_lost", "max"), n_significant=("significant", "sum"),
        ).reset_index()  # fmt: skip
        names = [layer_name(int(layer), n_encoder) for layer in table["layer"]]
        yield table.assign(group=group, layer=names)


def _write(table: pd.DataFrame, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(
        RESULTS / f"{name}.csv", index=False, lineterminator="\n", float_format="%.4g"
    )  # fmt: skip


if __name__ == "__main__":
    main()
