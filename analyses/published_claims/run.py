"""Test the published claims on real models: ``python analyses/published_claims/run.py``.

A run that was stopped goes on; remove its folder to begin anew. Pictures are drawn from the tables.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import layerwise as lw
from layerwise.analyses.replication.figures import verdict_table

HERE = Path(__file__).parent


def main() -> None:
    """Replicate on each model of ``config.toml``, and draw its verdicts."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    for name, asked in config["models"].items():
        out = HERE / "results" / name
        result = lw.replicate(lw.load_model(asked["model"]), limit=asked["limit"], out=out)
        draw_verdicts(result, out)


def draw_verdicts(result: lw.ReplicationResult, out: Path) -> None:
    """The table of verdicts, as wide as a column and as wide as a page."""
    for width, ending in ((6.9, ""), (3.3, "_narrow")):
        figure = verdict_table(result.verdicts, result.facts.model.name, width)
        figure.savefig(out / f"verdicts{ending}.png", dpi=200)


if __name__ == "__main__":
    main()
