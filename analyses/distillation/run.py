"""Make the saved results of this study again: ``PYTHONPATH=. python analyses/distillation/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from distillation_figures import where_two_hops_went
from distillation_sentences import in_readme
from measures import ModelResults, measure_model, places
from students import suites, undistilled_student, write_texts

import layerwise as lw
from layerwise.analyses.logit_lens.result import answers_on_top
from layerwise.presentation.rows import rows
from layerwise.presentation.save import save_figure
from layerwise.tasks import Task

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TWO_HOP = "two-hops"
Named = Mapping[str, pd.DataFrame]


def main() -> None:
    """Train, distil, measure and compare, then draw and tell."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    runs = HERE.parents[1] / config["runs"]
    tasks = suites(config["measured"]["items"])
    found: dict[str, list[pd.DataFrame]] = {}
    groups: dict[str, list[Path]] = {"teacher": [], **{case: [] for case in config["cases"]}}
    for seed, name in zip(config["seeds"], config["teachers"], strict=True):
        for case, model in models(config, tasks, runs, seed, name, found):
            one = measure_model(
                lw.load_model(model), tasks, config["measured"], runs / f"{case}-{seed}"
            )
            keep(found, model_tables(one), case=case, seed=seed)
            groups[case].append(one.folder)
    whole = {name: pd.concat(each, ignore_index=True) for name, each in found.items()}
    whole |= compare_with_teachers(groups, config["cases"], config["compare"])
    RESULTS.mkdir(exist_ok=True)
    for name, table in whole.items():
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
    figure = where_two_hops_went(whole["layers"], whole["transplant"])
    save_figure(figure, RESULTS / "figures", "where_two_hops_went")
    for page in (HERE / "README.md", RESULTS / "numbers.md"):
        page.write_text(in_readme(page.read_text("utf-8"), whole), "utf-8")


def models(
    config: Mapping[str, Any],
    tasks: Sequence[Task],
    runs: Path,
    seed: int,
    teacher: str,
    found: dict[str, list[pd.DataFrame]],
) -> Iterator[tuple[str, str | Path]]:
    """The models of a seed by case: the teacher, and each distilled student.

    What a distillation and the transplants from it say is kept in ``found``.
    """
    yield "teacher", teacher
    before = {
        name: undistilled_student(plan, seed, runs / f"before-{name}-{seed}")
        for name, plan in config["students"].items()
    }
    texts = write_texts(runs / f"texts-{seed}.jsonl", config["texts"], seed)
    for case, plan in config["cases"].items():
        student, out = before[plan["student"]], runs / f"{case}-{seed}" / "model"
        result = lw.distill(
            lw.load_model(teacher), lw.load_model(student), tasks, out=out, text=texts,
            seed=seed, layers=plan["trained"], **config["distill"],
        )  # fmt: skip
        keep(found, {"gains": result.gains(), "curve": result.distillation_curve}, case=case,
             seed=seed)  # fmt: skip
        keep(
            found,
            transplant_layers(student, out, tasks, config["transplant"]),
            case=case,
            seed=seed,
        )
        yield case, out


def transplant_layers(
    student: Path, distilled: Path, tasks: Sequence[Task], asked: Mapping[str, Any]
) -> Named:
    """Effect of a distilled student's layers on it as it was, and of their return."""
    two_hop = next(task for task in tasks if task.name == TWO_HOP)
    result = lw.transplant(
        lw.load_model(student), lw.load_model(distilled), two_hop, **asked,
        out=distilled.parent / "transplant",
    )  # fmt: skip
    return {
        "transplant_gaps": result.gaps(),
        "transplant": result.effects(),
        "transplant_ranks": result.ranks(),
    }


def model_tables(one: ModelResults) -> Named:
    """The tables of one model."""
    return {
        "signal": pd.concat([one.ablation.signal(), one.letters.signal()]),
        "layers": rows(one.ablation.effects(), kind="skip", site="layer"),
        "lens": answers_on_top(one.lens.lens),
        "patching": rows(one.patching.effects(), metric="logit difference", pos_label="last"),
        "places": places(one.ablation.records, TWO_HOP, one.ablation.facts.model.n_layers),
    }


def compare_with_teachers(
    groups: Mapping[str, list[Path]], cases: Mapping[str, Any], asked: Mapping[str, Any]
) -> Named:
    """Each case against the teachers, with the training seed as the unit."""
    differences, estimates = [], []
    for case in cases:
        found = lw.compare({"teacher": groups["teacher"], case: groups[case]}, **asked)
        differences.append(found.differences.assign(case=case))
        estimates.append(found.estimates.assign(case=case))
    return {"differences": pd.concat(differences), "estimates": pd.concat(estimates)}


def keep(found: dict[str, list[pd.DataFrame]], tables: Named, **of: object) -> None:
    """Put tables beside those of other models."""
    for name, table in tables.items():
        found.setdefault(name, []).append(table.assign(**of))


if __name__ == "__main__":
    main()
