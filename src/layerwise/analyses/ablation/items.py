"""Item by item, from saved tables: what was asked and answered, intact and without a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError, printable, unknown_name
from layerwise.ground.argument_types import ExpectedWords, Whole
from layerwise.ground.arguments import check_arguments
from layerwise.ground.layer_names import layer_name, layer_number
from layerwise.ground.readers import AnyPath, Reads, path
from layerwise.presentation.claim import GENERAL
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.section import Section, Table
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    WAY,
    in_order,
    protocol_words,
    ranges,
)
from layerwise.stats.effects import INTACT
from layerwise.storage.base import Result
from layerwise.storage.places import is_folder
from layerwise.storage.provenance import Facts
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .questions import KEY, QUESTIONS, question_table
from .result import AblationResult
from .saved_effects import ablations, kinds_and_sites, select_effects, single_layers

# What became of an item, in the order in which items are listed.
FATES = ("lost", "gained", "right", "wrong")


def _read_run(name: str, value: Any) -> Any:
    return value if isinstance(value, Result) else path(name, value)


@check_arguments()
def items(
    run: Annotated[AnyPath | AblationResult, Reads(_read_run, "str | Path | AblationResult")],
    layer: Annotated[Whole | str, ExpectedWords("a layer's number or address", "11")],
    task: Annotated[str, ExpectedWords("a text", "'facts'")],
    protocol: str | None = None,
    *,
    changed: bool = True,
) -> pd.DataFrame:
    """List items with the answers of the intact model and of the model without a layer.

    Args:
        run: the folder of a finished run with an ablation of layers, or an ``AblationResult``.
        layer: the layer, from 0, or of an encoder-decoder its address, such as ``encoder.3``.
        task: the name of one task of the run.
        protocol: ``letter``, ``continuation`` or ``generate``; all of the run if None.
        changed: only items that are right with the layer and wrong without it, or the reverse.

    Returns:
        One row per protocol and item: lost items first, then gained ones, each with the largest
        loss of margin first. Columns: ``task``, ``protocol``, ``item``; ``change`` (what was done
        to the layer, ``skip:layer=11``); ``fate`` (``lost``, ``gained``, ``right`` or ``wrong``
        both times); ``prompt`` (its whole text), ``question`` (the prompt without the lines that
        all prompts share), ``options`` (none under ``generate``), ``gold`` (the right answer);
        ``intact`` and ``without`` (the two answers: an option, or the written text);
        ``right_intact`` and ``right_without``; ``margin_intact``, ``margin_without`` and
        ``margin_change`` (in nats; nan under ``generate``). Texts are None where the run did not
        save them.

    Raises:
        UserError: if the folder has no ablation, or the run has no such layer, task or protocol.

    Example:
        >>> lost = layerwise.items("runs/smollm2-135m", layer=11, task="facts")  # doctest: +SKIP
    """
    result = run if isinstance(run, AblationResult) else _load_ablation(run)
    facts, model = result.facts, result.facts.model
    if isinstance(layer, str) or not 0 <= layer < model.n_layers:
        layer = layer_number(str(layer), model.n_encoder_layers, model.n_layers)
    outcomes = _of_task(result.records, task, protocol)
    without = _records_without_layer(outcomes, layer, facts)
    questions = question_table([]) if result.questions is None else result.questions()
    table = answers(outcomes, without, questions)
    return table.loc[table["fate"].isin(FATES[:2])].reset_index(drop=True) if changed else table


def _load_ablation(run: Any) -> AblationResult:
    """The ablation of a folder."""
    if isinstance(run, Result):
        raise UserError(
            f"Items of a {type(run).__name__} were asked for: expected an AblationResult, or the "
            "folder of a run with one."
        )
    folder = Path(run)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected the folder of a run; check the path.")
    if not (folder / "records.parquet").exists():
        raise UserError(
            f"No records.parquet in {folder}: expected a finished run with an ablation; check the "
            "path, or run layerwise profile or ablate with this folder."
        )
    return AblationResult.load(folder)


def _of_task(outcomes: pd.DataFrame, task: str, protocol: str | None) -> pd.DataFrame:
    """The outcomes of one task, under one protocol or all."""
    names = set(outcomes["task"])
    named = task if task in names else Path(task).stem
    if named not in names:
        raise unknown_name("task of this run", task, names)
    own = rows(outcomes, task=named)
    protocols = set(own["protocol"])
    if protocol is not None and protocol not in protocols:
        raise unknown_name(f"protocol of task {named!r} in this run", protocol, protocols)
    return own if protocol is None else rows(own, protocol=protocol)


def _records_without_layer(outcomes: pd.DataFrame, layer: int, facts: Facts) -> pd.DataFrame:
    """Records without one layer; of several kinds of change the first (skips before others)."""
    changed = single_layers(outcomes.loc[outcomes["layer"].notna()])
    at = rows(changed, layer=layer)
    for kind, site in kinds_and_sites(at)[:1]:
        return rows(at, kind=kind, site=site)
    n_encoder = facts.model.n_encoder_layers
    layers = sorted({int(number) for number in changed["layer"]})
    there = ranges(layers) if not n_encoder else ", ".join(layer_name(n, n_encoder) for n in layers)
    known = f"layers {there}" if layers else "none, as of a task without signal"
    raise UserError(
        f"The run did not change layer {layer_name(layer, n_encoder)} by itself for this task: "
        f"expected one of those that it changed ({known}); name one of them, or run layerwise "
        "ablate with this layer."
    )


def answers(outcomes: pd.DataFrame, without: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """The frame of ``items``, of all items; of several draws the first."""
    first, other = (
        of.sort_values([name for name in ("draw", "examples") if name in of]).drop_duplicates(KEY)
        for of in (rows(outcomes, kind=INTACT), without)
    )
    names = [*KEY, "intervention", "correct", "margin", "chosen", "generated"]
    both = first[names].merge(other[names], on=KEY, suffixes=("_intact", "_without"))
    both = both.merge(questions, on=KEY, how="left")
    right, still = (both[f"correct_{model}"].astype(bool) for model in ("intact", "without"))
    before, after = (numbers(both, f"margin_{model}") for model in ("intact", "without"))
    options = [given if isinstance(given, list) else [] for given in both["options"]]
    table = both[KEY].assign(
        change=both["intervention_without"],
        fate=np.select([right & ~still, ~right & still, right & still], FATES[:3], FATES[3]),
        prompt=_texts(both["prompt"]),
        question=_texts(both["question"]),
        options=[given or None for given in options],
        gold=_texts(both["gold"]),
        intact=_given_answers(both["chosen_intact"], both["generated_intact"], options),
        without=_given_answers(both["chosen_without"], both["generated_without"], options),
        right_intact=right,
        right_without=still,
        margin_intact=before,
        margin_without=after,
        margin_change=after - before,
    )
    order = table["fate"].map(FATES.index)
    ordered = table.assign(order=order).sort_values(["protocol", "order", "margin_change"])
    return ordered.drop(columns="order").reset_index(drop=True)


def _given_answers(
    chosen: Iterable[Any], written: Iterable[Any], options: Sequence[list[str]]
) -> list[str | None]:
    """The option that was taken of each item, or the text that was written."""
    return [
        text
        if pd.isna(place)
        else of_item[int(place)]
        if int(place) < len(of_item)
        else f"option {int(place) + 1}"
        for place, text, of_item in zip(chosen, _texts(written), options, strict=True)
    ]


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [value.strip() if isinstance(value, str) else None for value in values]


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
