"""Example items on a page, and texts short enough to print."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.errors import printable
from layerwise.presentation.claim import GENERAL
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import Section, Table
from layerwise.presentation.wording import PROTOCOL_ORDER, WAY, in_order, protocol_words
from layerwise.stats.effects import INTACT
from layerwise.storage.run_tables import RunTables

from ..claims.roles import claims
from ..tables.items import answers
from ..tables.questions import QUESTIONS
from ..tables.saved_effects import ablations, select_effects


def shorten(text: Any, most: int) -> str:
    """A text in one line, without its middle if it is long; a dash where the run has none."""
    if not isinstance(text, str):
        return "–"
    plain = printable(" ".join(text.split()))
    if len(plain) <= most:
        return plain or "(nothing)"
    first, last = plain[: most // 2], plain[-most // 2 :]
    return f"{first.rpartition(' ')[0] or first} … {last.partition(' ')[2] or last}"


# Answers that are written say most of a model, letters least.
_TELLING = tuple(reversed(PROTOCOL_ORDER))
_LONGEST = 160
_WORDS = (
    "Two items of each task: one that breaks without a layer and one that stays right, if there "
    "are such. Of the layers that not every capability needs, it is the one that costs the task "
    "most. Examples illustrate and prove nothing."
)


def example_items(run: RunTables, task: str) -> pd.DataFrame:
    """Two items of a task: one that breaks without a ``layer`` (None without signal), one not."""
    outcomes, questions = run.table("records"), run.table(QUESTIONS)
    if outcomes is None or questions is None:
        return pd.DataFrame()
    of_task, worst = rows(outcomes, task=task), None
    # layers that every capability needs break everything, which says little: others go first
    general = {layer for claim in claims(run) if claim.kind == GENERAL for layer in claim.layers}
    for kind, site in ablations(run)[:1]:
        effects = select_effects(run, kind, site, task=task, signal=True)
        for protocol in in_order(effects["protocol"], _TELLING)[:1]:
            every = rows(effects, protocol=protocol)
            others = every.loc[~every["layer"].isin(sorted(general))]
            lost = others if len(others) else every
            worst = records(lost.sort_values("share_lost", ascending=False, kind="stable"))[0]
    if worst is None:
        protocols = in_order(rows(of_task, kind=INTACT)["protocol"], _TELLING)
        asked, layer, fates = rows(of_task, protocol=protocols[:1]), None, ("right", "wrong")
        without = rows(asked, kind=INTACT)
    else:
        asked, layer = rows(of_task, protocol=worst["protocol"]), int(worst["layer"])
        without, fates = rows(asked, intervention=worst["intervention"]), ("lost", "right")
    every = answers(asked, without, questions)
    firsts = [rows(every, fate=fate).head(1) for fate in fates]
    return pd.concat([*firsts, every]).drop_duplicates("item").head(2).assign(layer=layer)


def examples_section(run: RunTables) -> Section:
    """Examples of all tasks; empty if the run did not save what it asked."""
    signal = run.table("signal")
    tasks = [] if signal is None else in_order(signal["task"], ())
    cells = [
        [
            row["task"], protocol_words(row["protocol"]),
            *(shorten(row[name], _LONGEST) for name in ("question", "gold", "intact")),
            "–" if row["layer"] is None else f"layer {name_layer(row['layer'])}: "
            + shorten(row["without"], _LONGEST),
        ]
        for task in tasks for row in records(example_items(run, task))
    ]  # fmt: skip
    columns = "task", WAY, "asked", "right answer", "intact model", "without a layer"
    tables = (Table(f"Example items ({len(cells)})", columns, cells, True),) if cells else ()
    return Section("examples", "Examples", 6, _WORDS, (), tables)
