"""Ask both models of each pair, compare them, and exchange their layers.

``python analyses/paper_pairs/run.py --plan`` says what that costs, and asks nothing; without it
all is run, and an interrupted run goes on where it stopped. All choices are in ``config.toml``,
or in the file that is named after the command.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import layerwise as lw
from layerwise.planning import plan_run
from layerwise.report import report

HERE = Path(__file__).parent
PARTS = ("base", "distilled")
PLANNED = {"base": ("ablation", "transplant"), "distilled": ("ablation",)}


def main(arguments: Sequence[str]) -> None:
    """Plan or run every pair of a config."""
    named = [Path(each) for each in arguments if each != "--plan"]
    path = named[0] if named else HERE / "config.toml"
    config = tomllib.loads(path.read_text("utf-8"))
    for pair in config["pairs"]:
        if "--plan" in arguments:
            print("\n".join(plans(pair, config)))
        else:
            print(
                "\n".join(study_pair(pair, config, HERE.parents[1] / config["runs"] / pair["name"]))
            )


def plans(pair: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    """Cost of the ablations of both models, and of the transplant."""
    for which in PARTS:
        for analysis in PLANNED[which]:
            plan = plan_run(
                pair[which], **config["asked"], **config["load"], analysis=analysis, untimed=True
            )
            yield f"{pair['name']}, {analysis} of {pair[which]}:\n{plan}"


def study_pair(pair: Mapping[str, str], config: Mapping[str, Any], runs: Path) -> Iterator[str]:
    """Ablate both, compare them, and exchange their layers; what each has to say."""
    models = {which: lw.load_model(pair[which], **config["load"]) for which in PARTS}
    for which, model in models.items():
        lw.ablate(model, **config["asked"], out=runs / which)
    yield from sentences_or_refusal(
        lambda: compare_models([runs / which for which in models], runs / "compared")
    )
    yield from sentences_or_refusal(
        lambda: exchange_layers(models, config["asked"], runs / "transplant")
    )


def compare_models(runs: Sequence[Path], out: Path) -> Sequence[Any]:
    """Differences between the two models."""
    found = lw.compare(runs)
    found.save(out)
    return found.established_claims()


def exchange_layers(
    models: Mapping[str, Any], asked_of_both: Mapping[str, Any], out: Path
) -> Sequence[Any]:
    """Effect of each layer of one model in the other."""
    moved = lw.transplant(models["base"], models["distilled"], **asked_of_both, out=out)
    page = report([moved])
    page.save(out / "report.html")
    return page.findings


def sentences_or_refusal(make: Callable[[], Sequence[Any]]) -> Iterator[str]:
    """The sentences that an analysis earns, or the one that says why it makes none."""
    try:
        found = make()
    except lw.UserError as error:
        yield f"- {error}"
        return
    yield from (f"- {finding.full}" for finding in found)


if __name__ == "__main__":
    main(sys.argv[1:])
