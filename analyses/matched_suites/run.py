"""Measure intact accuracies of suites on every rung: ``python analyses/matched_suites/run.py``.

What ``results/accuracy.csv`` has is kept, so that an interrupted run goes on; remove the file
after a change of the suites. The tables of ``docs/tasks/matched.md`` are written from it, too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from suite_figures import write_docs

import layerwise as lw
from layerwise.models.instance.facts import original_tokenizer, tokenizer_language
from layerwise.runs.controls import as_controls, asked_blind, blind_rows, without_layers
from layerwise.runs.records import record_rows
from layerwise.runs.setup import Setup, prepare
from layerwise.stats.effects import signal_table
from layerwise.stats.share_tests.scoring_steps import SCORING_STEPS, step_records
from layerwise.storage.parquet import frame
from layerwise.sweep import intact
from layerwise.tasks import Task, expand_task_names

HERE = Path(__file__).parent
ACCURACY = HERE / "results" / "accuracy.csv"
KEY = ["model", "task", "seed", "limit"]
COLUMNS = ["capability", "n_items", "n_clusters", "chance", "blind", "accuracy", "low", "high", "p"]


def main() -> None:
    """Measure what is missing, model by model, and write the tables."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    for asked in config["measured"]:
        for name in asked["models"]:
            for table in missing_tables(name, asked):
                before = [pd.read_csv(ACCURACY)] if ACCURACY.exists() else []
                pd.concat([*before, table]).to_csv(ACCURACY, index=False, float_format="%.4g")
                print(table.to_string(index=False), flush=True)
    write_docs(pd.read_csv(ACCURACY))


def missing_tables(name: str, asked: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
    """The tables of a model that are not there yet, suite by suite."""
    model, limit = lw.load_model(name), asked["limit"]
    known = pd.read_csv(ACCURACY)[KEY] if ACCURACY.exists() else pd.DataFrame(columns=KEY)
    done = set(known.itertuples(index=False, name=None))
    for seed in asked["seeds"]:
        for task in expand_task_names(
            asked["tasks"], tokenizer_language(original_tokenizer(model))
        ):
            key = (name, task, seed, limit)
            if key not in done:
                setup = prepare(model, task, asked["protocols"], seed=seed, limit=limit)
                yield accuracies(setup, asked["blind"]).assign(**dict(zip(KEY, key, strict=True)))


def accuracies(setup: Setup, n_blind: int) -> pd.DataFrame:
    """The intact accuracy of one task on every rung, and what it is held against.

    Args:
        setup: one task, and the protocols that rungs are read from.
        n_blind: how many of the items are asked other items' questions.
    """
    (task,) = setup.tasks
    changes = [intact(), without_layers(setup.model)]
    requests = [r for item in task.items for p in setup.protocols
                for r in setup.requests(task, item, p)]  # fmt: skip
    swept = setup.sweep(changes, [r.request for r in requests])
    rows = list(as_controls(record_rows(task, task.items, requests, changes, swept)))
    blind = asked_blind(setup, task, task.items[:n_blind], setup.protocols)
    if blind:
        swept = setup.sweep([intact()], [r.request for one in blind for r in one.requests])
        rows += blind_rows(task, blind, swept)
    return on_rungs(task, frame("records", rows))


def on_rungs(task: Task, records: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with exact intervals by rung, from records of the intact model."""
    tables = []
    for rung in SCORING_STEPS:
        mine = step_records(records, rung)
        if len(mine):
            found = signal_table(mine, lambda _, __, level=task.chance[rung.guessing]: level)
            tables.append(found[COLUMNS].assign(rung=rung.name))
    asked = (records["kind"] == "intact") & (records["protocol"] == "continuation")
    return pd.concat(tables).assign(margin=records.loc[asked, "margin"].mean())


if __name__ == "__main__":
    main()
