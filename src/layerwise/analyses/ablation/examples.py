"""Two example items of each task, with the intact model's answer and that without a layer.

Which items are shown is decided by what became of them; nothing is tested.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from layerwise.presentation.claim import GENERAL
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import rows
from layerwise.presentation.section import Section, Table
from layerwise.presentation.wording import PROTOCOL_ORDER, in_order
from layerwise.stats.effects import INTACT
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .items import answers, shortened
from .questions import QUESTIONS
from .saved_effects import ablations, effects_of

# Answers that are written say most of a model, letters least.
_TELLING = tuple(reversed(PROTOCOL_ORDER))
_LONGEST = 160
_WORDS = (
    "Two items of each task: one that breaks without a layer and one that stays right, if there "
    "are such. Of the layers that not every capability needs, it is the one that costs the task "
    "most. Examples illustrate and prove nothing."
)


class Example(NamedTuple):
    """An item, and what was answered.

    Attributes:
        task: its task.
        protocol: how it was asked.
        question: the prompt without what all prompts of the task share.
        gold: the right answer; None if the run did not save it.
        intact: the intact model's answer.
        layer: the layer that costs the task most, of those that not every capability needs; None
            without signal.
        without: the answer without this layer; None without signal.
    """

    task: str
    protocol: str
    question: str | None
    gold: str | None
    intact: str | None
    layer: int | None
    without: str | None


def example_items(run: RunTables, task: str) -> list[Example]:
    """At most two items of a task: one that breaks without a layer, one that stays right.

    Without signal there is no such layer: they are one that is right, if any, and one that is not.
    """
    records, questions = run.table("records"), run.table(QUESTIONS)
    if records is None or questions is None:
        return []
    own = rows(records, task=task)
    worst = _worst(run, task)
    if worst is None:
        protocols = in_order(rows(own, kind=INTACT)["protocol"], _TELLING)
        own = rows(own, protocol=protocols[:1])
        every = answers(own, rows(own, kind=INTACT), questions)
        chosen = _chosen(every, "right", "wrong")
        return [_example(row | {"without": None}, None) for row in chosen]
    own = rows(own, protocol=worst["protocol"])
    without = rows(own, intervention=worst["intervention"])
    every = answers(own, without, questions)
    return [_example(row, int(worst["layer"])) for row in _chosen(every, "lost", "right")]


def _worst(run: RunTables, task: str) -> dict[str, Any] | None:
    """The effect of the layer that costs a task most; None without signal.

    Layers that every capability needs break everything, which says little: others go first.
    """
    general = {layer for claim in claims(run) if claim.kind == GENERAL for layer in claim.layers}
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, task=task, signal=True)
        for protocol in in_order(effects["protocol"], _TELLING)[:1]:
            every = rows(effects, protocol=protocol)
            others = every.loc[~every["layer"].isin(sorted(general))]
            lost = others if len(others) else every
            most = lost.sort_values(by="share_lost", ascending=False, kind="stable").iloc[0]
            return {str(name): value for name, value in most.items()}
    return None


def _chosen(every: pd.DataFrame, *fates: str) -> list[dict[str, Any]]:
    """The first item of each fate, filled up to two with others."""
    firsts = [rows(every, fate=fate).head(1) for fate in fates]
    chosen = pd.concat([*firsts, every]).drop_duplicates("item")
    return [{str(k): v for k, v in row.items()} for row in chosen.head(2).to_dict("records")]


def _example(row: dict[str, Any], layer: int | None) -> Example:
    return Example(layer=layer, **{name: row[name] for name in Example._fields if name != "layer"})


def examples_section(run: RunTables) -> Section:
    """Examples of all tasks; empty if the run did not save what it asked."""
    effects = run.table("signal")
    tasks = [] if effects is None else in_order(effects["task"], ())
    examples = [example for task in tasks for example in example_items(run, task)]
    cells = [
        [
            row.task, row.protocol,
            *(shortened(text, _LONGEST) for text in (row.question, row.gold, row.intact)),
            "–" if row.layer is None else f"layer {name_layer(row.layer)}: "
            + shortened(row.without, _LONGEST),
        ]
        for row in examples
    ]  # fmt: skip
    columns = (
        "task", "protocol", "asked", "right answer", "intact model", "without a layer",
    )  # fmt: skip
    tables = (Table(f"Example items ({len(cells)})", columns, cells, True),) if cells else ()
    return Section("examples", "Examples", 6, _WORDS, (), tables)
