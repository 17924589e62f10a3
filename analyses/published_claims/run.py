"""Test the published claims on real models: ``python analyses/published_claims/run.py``.

A run that was stopped goes on; remove its folder to begin anew. The picture and the table of the
page are made of the saved tables.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd

import layerwise as lw
from layerwise.analyses.replication.columns import claim_name, effect_words
from layerwise.analyses.replication.figures import verdict_table

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE / "README.md"
MADE = re.compile(r"(<!-- Verdicts: made by run\.py\. -->\n\n).*?(\n\n<!-- Until here\. -->)", re.S)
WIDTHS = {"verdicts.png": 6.9, "verdicts_narrow.png": 3.3}


def main() -> None:
    """Replicate on each model of ``config.toml``; draw its verdicts, and write the page's table."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    for name, asked in config["models"].items():
        out = RESULTS / name
        model = lw.load_model(asked["model"])
        result = lw.replicate(model, asked["claims"], limit=asked["limit"], out=out)
        for file, width in WIDTHS.items():
            figure = verdict_table(result.verdicts, result.facts.model.name, width)
            figure.savefig(out / file, dpi=200)
        table = verdict_rows(result.verdicts)
        page = PAGE.read_text("utf-8")
        PAGE.write_text(MADE.sub(lambda m, t=table: f"{m[1]}{t}{m[2]}", page), "utf-8")


def verdict_rows(verdicts: pd.DataFrame) -> str:
    """The verdicts as a table of the page."""
    lines = [
        "| claim | verdict | number [95 %] | what it is | p (all claims) |",
        "|---|---|---|---|---|",
    ]
    for row in verdicts.to_dict("records"):
        p = "–" if pd.isna(row["p_run"]) else f"{row['p_run']:.3g}"
        effect = row["note"] if pd.isna(row["effect"]) else row["effect"]
        cells = (claim_name(row), row["verdict"], effect_words(row), effect, p)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
