"""Make the saved results of this study again: ``python analyses/smollm2_profile/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import layerwise as lw
from layerwise.analyses.emergence.api import emergence
from layerwise.presentation.save import save_figure
from layerwise.report.figures import prediction_ranges

HERE = Path(__file__).parent
READ = "continuation"


def main() -> None:
    """Profile the model of ``config.toml``, compare methods, and remove layers.

    Suites of about the same difficulty are profiled apart, for what is said of orders.
    """
    config = tomllib.loads((HERE / "config.toml").read_text())
    model, results = lw.load_model(config["model"]), HERE / "results"
    profile = lw.profile(model, **config["profile"], out=results)
    print_findings(profile)
    for protocol, asked in config["matched"].items():
        print_findings(lw.profile(model, **asked, out=results / f"matched_{protocol}"))
    compare_measures(model, profile, config["profile"], HERE / "compared")
    removed = lw.removal_order(model, **config["removal"], out=results / "removal")
    save_figure(removed.plot(), results / "removal" / "figures", "removal_orders")


def print_findings(profile: lw.Profile) -> None:
    """Print what a profile found, and what it cost."""
    for finding in profile.report.findings:
        print(f"- {finding.full}")
    print(f"{profile.work}\n{profile.path}")


def compare_measures(model: Any, profile: lw.Profile, asked: dict[str, Any], folder: Path) -> None:
    """Writing of layers and how far they turn the stream, beside what skipping them costs.

    Tables by item are not kept: they take more room than a study should.
    """
    ablation = next(r for r in profile.results if isinstance(r, lw.AblationResult))
    signal = ablation.signal().query("signal and protocol == @READ")
    options = {key: asked[key] for key in ("limit", "seed")} | {"protocols": READ}
    written = lw.attribution(model, list(signal["task"]), **options)
    turned = lw.similarity(model, list(signal["task"]), **options)
    joined = emergence([*profile.results, written], seed=asked["seed"])
    tables = {
        "attribution_summary": written.summary(), "influence": turned.influence(),
        "prediction": turned.predicts(ablation), "method_agreement": joined.method_agreement,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    save_figure(prediction_ranges(tables["prediction"]), folder / "figures", "prediction")


if __name__ == "__main__":
    main()
