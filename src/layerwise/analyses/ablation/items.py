"""Item by item: what was asked, what the intact model answered, and what without a layer.

Saved tables and requests are read; no model is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from layerwise.errors import UserError, printable, unknown_name
from layerwise.ground.arguments import check_arguments
from layerwise.ground.layer_names import layer_name, layer_number
from layerwise.ground.path_readers import path
from layerwise.ground.readers import plain, text, truth, whole
from layerwise.presentation.claim import GENERAL
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import rows
from layerwise.presentation.section import Section, Table
from layerwise.presentation.wording import PROTOCOL_ORDER, in_order, ranges
from layerwise.stats.effects import INTACT
from layerwise.storage.base import Result
from layerwise.storage.places import is_folder
from layerwise.storage.provenance import Facts
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .questions import KEY, QUESTIONS, questions_of
from .result import AblationResult
from .saved_effects import ablations, effects_of, kinds_and_sites, single_layers

# What became of an item, in the order in which items are listed.
FATES = ("lost", "gained", "right", "wrong")
COLUMNS = (
    *KEY, "change", "fate", "prompt", "question", "options", "gold", "intact", "without",
    "right_intact", "right_without", "margin_intact", "margin_without", "margin_change",
)  # fmt: skip


def _run(name: str, value: Any) -> Any:
    return value if isinstance(value, Result) else path(name, value)


def _layer(name: str, value: Any) -> int | str:
    return value if isinstance(value, str) else whole(11)(name, plain(value))


@check_arguments(
    run=_run, layer=_layer, task=text("facts"), protocol=text("generate"), changed=truth
)
def items(
    run: str | Path | AblationResult,
    layer: int | str,
    task: str,
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
    result = run if isinstance(run, AblationResult) else _loaded(run)
    facts, model = result.facts, result.facts.model
    if isinstance(layer, str) or not 0 <= layer < model.n_layers:
        layer = layer_number(str(layer), model.n_encoder_layers, model.n_layers)
    records = _of_task(result.records, task, protocol)
    without = _changed_at(records, layer, facts)
    questions = questions_of([]) if result.questions is None else result.questions()
    table = answers(records, without, questions)
    return table.loc[table["fate"].isin(FATES[:2])].reset_index(drop=True) if changed else table


def _loaded(run: Any) -> AblationResult:
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


def _of_task(records: pd.DataFrame, task: str, protocol: str | None) -> pd.DataFrame:
    """The records of one task, under one protocol or all."""
    names = set(records["task"])
    named = task if task in names else Path(task).stem
    if named not in names:
        raise unknown_name("task of this run", task, names)
    own = rows(records, task=named)
    protocols = set(own["protocol"])
    if protocol is not None and protocol not in protocols:
        raise unknown_name(f"protocol of task {named!r} in this run", protocol, protocols)
    return own if protocol is None else rows(own, protocol=protocol)


def _changed_at(records: pd.DataFrame, layer: int, facts: Facts) -> pd.DataFrame:
    """Records without one layer; of several kinds of change the first (skips before others)."""
    changed = single_layers(records.loc[records["layer"].notna()])
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


def answers(records: pd.DataFrame, without: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """The frame of ``items``, of all items."""
    intact = _first(rows(records, kind=INTACT))
    both = intact.merge(_first(without), on=KEY, suffixes=("_intact", "_without"), how="inner")
    both = both.merge(questions, on=KEY, how="left")
    made = [_row(row) for row in both.to_dict("records")]
    table = pd.DataFrame(made, columns=list(COLUMNS))
    order = table["fate"].map(FATES.index)
    sorted_by = table.assign(order=order).sort_values(["protocol", "order", "margin_change"])
    return sorted_by.drop(columns="order").reset_index(drop=True)


def _first(records: pd.DataFrame) -> pd.DataFrame:
    """One record per item: of several draws, of noise or of examples, the first."""
    once = [name for name in ("draw", "examples") if name in records]
    names = [*KEY, "intervention", "correct", "margin", "chosen", "generated", "extracted"]
    return pd.DataFrame(records.sort_values(once).drop_duplicates(KEY)[names])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    right, still = bool(row["correct_intact"]), bool(row["correct_without"])
    fate = {(True, False): "lost", (False, True): "gained", (True, True): "right"}
    options = row["options"] if isinstance(row["options"], list) else []
    margins = [_number(row[f"margin_{when}"]) for when in ("intact", "without")]
    return {
        **{name: row[name] for name in KEY},
        "change": row["intervention_without"],
        "fate": fate.get((right, still), "wrong"),
        **{name: _text(row[name]) for name in ("prompt", "question")},
        "options": options or None,
        "gold": _text(row["gold"]) or _known(row),
        "intact": _answer(row, "intact", options),
        "without": _answer(row, "without", options),
        "right_intact": right,
        "right_without": still,
        "margin_intact": margins[0],
        "margin_without": margins[1],
        "margin_change": margins[1] - margins[0],
    }


def _answer(row: dict[str, Any], when: str, options: Sequence[str]) -> str | None:
    """The option that was taken, or the text that was written."""
    chosen = row[f"chosen_{when}"]
    if pd.isna(chosen):
        return _text(row[f"generated_{when}"])
    return options[int(chosen)] if int(chosen) < len(options) else f"option {int(chosen) + 1}"


def _known(row: dict[str, Any]) -> str | None:
    """The right answer where only a model said it, as runs of earlier versions saved it."""
    right = [when for when in ("intact", "without") if row[f"correct_{when}"]]
    return _text(row[f"extracted_{right[0]}"]) if right else None


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _number(value: Any) -> float:
    return float("nan") if pd.isna(value) else float(value)


def shortened(text: Any, most: int) -> str:
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
