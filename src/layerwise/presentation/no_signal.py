"""Sentences on a task without signal: how often the model is right, and what to try next.

It reads the table of intact accuracies and the facts of the run; no test is made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE
from layerwise.stats.signals.power import items_for_any_signal, items_for_signal
from layerwise.storage.provenance import Facts
from layerwise.storage.run_tables import RunTables

from .rows import numbers, records, rows
from .section import Table
from .wording import (
    PROTOCOL_ORDER,
    WAY,
    count_noun,
    in_order,
    item_counts_text,
    join_words,
    number,
    percent,
    protocol_phrase,
    protocol_words,
    spread,
)

_NOTE = (
    "The model sees no options here, so it is not compared with a guesser by options. p: the "
    "larger of both tests. Signal is decided after Holm's correction over the rows."
)


def gate_tables(run: RunTables, name: str, right: str, floor: str) -> list[Table]:
    """Tables on which a method's signal was decided."""
    gate = run.table(name)
    if gate is None:
        return []
    columns = ("task", WAY, "n", "right (%)", floor, "other question (%)", "p", "signal")
    cells = [
        [
            row["task"], protocol_words(row["protocol"]), item_counts_text(row),
            *("–" if pd.isna(row[share]) else f"{100 * row[share]:.0f}"
              for share in ("accuracy", "floor", "blind")),
            f"{row['p']:.3g}", "yes" if row["signal"] else "no",
        ]
        for row in records(gate)
    ]  # fmt: skip
    return [Table(f"Is there signal? Right is {right} ({len(cells)})", columns, cells, True, _NOTE)]


def has_signal(run: RunTables, task: str, protocol: str) -> bool | None:
    """True if the intact model is better than blind; None if that was not measured."""
    signal = run.table("signal")
    if signal is None:
        return None
    gate = rows(signal, task=task, protocol=protocol)
    return bool(gate["signal"].iloc[0]) if len(gate) else None


Row = dict[str, Any]
# Cells that are named one by one.
NAMED = 4
# What the intact model must be better than, each, beside stated chance: column, name.
_MEASURED = (("blind", "when asked another item's question"), ("no_layers", "without its layers"))
_INSTRUCT = re.compile(r"instruct|chat|\bit\b", re.IGNORECASE)
_MOST_ITEMS = 10_000
# Examples that are worth a try, and the accuracy beyond which they do not matter.
_EXAMPLES, _SOLVED = 5, 0.9


def in_short(silent: Sequence[Row], n_asked: int = 0) -> str:
    """``"facts when it writes: right in 8 [2, 20] % of items, 25 % by chance"``."""
    tasks = [row["task"] for row in silent]
    more = [count_noun(len(tasks) - NAMED, "more task")] if len(tasks) > NAMED else []
    every = len(tasks) == n_asked > 1
    named = f"all {n_asked} tasks" if every else join_words([*tasks[:NAMED], *more])
    return f"{named} {protocol_phrase(silent[0]['protocol'])}: {levels(silent)}"


def levels(silent: Sequence[Row]) -> str:
    """Accuracy of the model in some tasks, and chance."""
    row = silent[0]
    right, chance = (
        spread(round(100 * row[name]) for row in silent) for name in ("accuracy", "chance")
    )
    one = percent(row["accuracy"], row["low"], row["high"])
    return f"right in {f'{right} %' if len(silent) > 1 else one}, {chance} % by chance"


def by_protocol(signal: pd.DataFrame) -> Iterator[str]:
    """A sentence for the tasks without signal of each protocol."""
    # Those better than chance, and not than the answers to other questions, have their own.
    dull = rows(signal, signal=False)
    chance = numbers(dull, "chance")
    known = (numbers(dull, "blind") > chance) & (numbers(dull, "low") > chance)
    for protocol in in_order(dull["protocol"], PROTOCOL_ORDER):
        n_asked = len(rows(signal, protocol=protocol))
        for also, why in ((False, ""), (True, ", but also with another item’s question")):
            silent = records(rows(dull.loc[known == also], protocol=protocol))
            if silent:
                yield f"No signal: {in_short(silent, n_asked)}{why}."


def right_answers(row: Row) -> tuple[int, float]:
    """Right answers of the intact model, and how many of them lie above the floor."""
    measured: Any = row.get("no_layers")
    floor = row["chance"] if pd.isna(measured) else measured
    right = row["accuracy"] * row["n_items"]
    return round(right), right - floor * row["n_items"]


def has_little_to_lose(row: Row) -> bool:
    """True if there is signal, but too few right answers to compare layers by."""
    return bool(row["signal"]) and right_answers(row)[1] < LEAST_TO_LOSE - 1e-9


def little_to_lose(signal: pd.DataFrame) -> Iterator[str]:
    """A sentence for tasks whose few right answers enter no claim on capabilities."""
    for row in records(signal):
        if has_little_to_lose(row):
            right, above = right_answers(row)
            yield (
                f"Little to lose: {row['task']} {protocol_phrase(row['protocol'])}: "
                f"{right} right answers, "
                f"{max(above, 0):.0f} above guessing. Claims about capabilities need "
                f"{LEAST_TO_LOSE}."
            )


def in_full(row: Row, signal: pd.DataFrame, facts: Facts) -> tuple[str, ...]:
    """Controls, the option that it always takes, and what to try, each a sentence."""
    sentences = [*_controls(row), option_preference(row), *remedies(row, signal, facts)]
    return tuple(sentence for sentence in sentences if sentence)


def sentences(signal: pd.DataFrame, facts: Facts) -> list[str]:
    """A few lines for each task and protocol without signal, for a terminal."""
    return _limited_sentences(
        signal,
        lambda row: "\n  ".join([f"No signal: {in_short([row])}.", *in_full(row, signal, facts)]),
    )


def gate_sentences(gate: pd.DataFrame) -> list[str]:
    """A sentence for each task and protocol without signal by a method's own gate."""

    def sentence(row: Row) -> str:
        right, floor = (number(100 * row[name]) for name in ("accuracy", "floor"))
        known = not pd.isna(row["blind"])
        blind = f", {number(100 * row['blind'])} % with another one's" if known else ""
        return (
            f"No signal: {row['task']} {protocol_phrase(row['protocol'])}: the right token "
            f"is on top in "
            f"{right} % of {item_counts_text(row)} items, {floor} % without the question{blind}."
        )

    lines = _limited_sentences(gate, sentence) if len(gate) else []
    return [*lines, "layerwise score says what to try."] if lines else []


def _limited_sentences(signal: pd.DataFrame, sentence: Callable[[Row], str]) -> list[str]:
    """A sentence for each of the first rows without signal, and how many more there are."""
    silent = records(rows(signal, signal=False))
    more = [f"Nor is there signal in {len(silent) - NAMED} more."] if len(silent) > NAMED else []
    return [*map(sentence, silent[:NAMED]), *more]


def _controls(row: Row) -> Iterator[str]:
    measured = [
        f"{words} in {number(100 * row[name])} %" for name, words in _measured_controls(row)
    ]
    if measured:
        yield f"It answers right {join_words(measured)} (n = {item_counts_text(row)})."
    if guesser_beats_chance(row):
        yield (
            f"A guesser without the question is right in {number(100 * row['guesser'])} %, by "
            f"{row['guesser_rule']}."
        )


def _measured_controls(row: Row) -> list[tuple[str, str]]:
    """The controls that were measured."""
    return [(name, words) for name, words in _MEASURED if name in row and pd.notna(row[name])]


def guesser_beats_chance(row: Row) -> bool:
    """True if guessing without the question is better than chance, so that it is a control."""
    is_control: Any = row.get("guesser_held")
    return bool(pd.notna(is_control) and is_control)


def option_name(row: Row) -> str:
    """The option that is taken most often; empty where there are no options."""
    place: Any = row.get("most_taken")
    if row["protocol"] == "generate" or pd.isna(place):
        return ""
    is_letter = row["protocol"] == "letter"
    return chr(ord("A") + int(place)) if is_letter else f"option {int(place) + 1}"


def option_preference(row: Row) -> str:
    """Sentence that one place of the options is taken in most items; or nothing."""
    name = option_name(row)
    if not name or 2 * row["n_most_taken"] <= row["n_items"]:
        return ""
    return f"It takes {name} in {number(100 * row['n_most_taken'] / row['n_items'])} % of items."


def remedies(row: Row, signal: pd.DataFrame, facts: Facts) -> Iterator[str]:
    """Options that may give signal, each a sentence that begins with the option."""
    gates = rows(signal, task=row["task"])
    able = [name for name in PROTOCOL_ORDER if name in set(rows(gates, signal=True)["protocol"])]
    task = facts.task(row["task"])
    known = [name for name in PROTOCOL_ORDER if name in task.chance]
    left = [name for name in known if name not in set(gates["protocol"])]
    if able:
        yield (
            f"There is signal {join_words(map(protocol_phrase, able))}: use "
            f"{_flags('protocol', able)}."
        )
    fewest = _fewest_items(row, signal)
    if row["n_items"] < fewest:
        yield (
            f"Ask at least {fewest} items: of {row['n_items']}, even all right would be no signal."
        )
        return
    if left and not able:
        yield f"Try {_flags('protocol', left)}."
    controls = [float(row[name]) for name, _ in _measured_controls(row)]
    controls += [float(row["guesser"])] if guesser_beats_chance(row) else []
    n = items_for_signal(row["accuracy"], row["chance"], controls, len(signal))
    if guesser_beats_chance(row) and row["guesser"] >= row["accuracy"]:
        yield "Try other options: these give the answer away without the question."
    elif n is None:
        yield "More items alone will not help: it is no better than without the question."
    elif n <= _MOST_ITEMS:
        n = n if n > row["n_items"] else 2 * row["n_items"]
        yield f"Try more items: at this accuracy about {n:,} show signal in 8 of 10 samples."
    if task.n_fewshot < _EXAMPLES and row["accuracy"] < _SOLVED:
        yield f"Try --fewshot {_EXAMPLES}: prompts have {count_noun(task.n_fewshot, 'example')}."
    named = f"{facts.model.name} {facts.model.gguf}".replace("_", " ")
    if not facts.settings.get("chat") and _INSTRUCT.search(named):
        yield "Try --chat: this is an instruct model."


def _fewest_items(row: Row, signal: pd.DataFrame) -> int:
    """Items of which all must be right for signal; 0 where no number is enough."""
    # Cells with more items may pass first, and then take no part in Holm's correction. A paired
    # test is no surer than if the control were wrong in all items: a coin for each.
    n_cells = int((numbers(signal, "n_items") <= row["n_items"]).sum())
    control: Any = row.get("no_layers")
    coin = 0.5 if pd.notna(control) else 0.0
    return items_for_any_signal(max(row["chance"], coin), n_cells) or 0


def _flags(option: str, values: list[str]) -> str:
    return " or ".join(f"--{option} {value}" for value in values)


def controls_to_beat(signal: pd.DataFrame) -> str:
    """Controls to beat, by what the run measured, and the correction if there is one."""
    measured = [words for name, words in (("blind", "blind"), ("no_layers", "without layers"))
                if name in signal and bool(signal[name].notna().any())]  # fmt: skip
    held = "guesser_held" in signal and bool(signal["guesser_held"].fillna(value=False).any())
    controls = join_words(
        ["chance", *measured, *(["guesses without the question"] if held else [])]
    )
    return f"{controls} alike (Holm)" if len(signal) > 1 else controls
