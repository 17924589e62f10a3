"""Make the saved results of this study again: ``python analyses/smollm2_profile/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import layerwise as lw

HERE = Path(__file__).parent


def main() -> None:
    """Profile the model of ``config.toml`` into ``results/``."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    profile = lw.profile(lw.load_model(config["model"]), **config["profile"], out=HERE / "results")
    for finding in profile.report.findings:
        print(f"- {finding.sentence}")
    print(f"{profile.work}\n{profile.path}")


if __name__ == "__main__":
    main()
