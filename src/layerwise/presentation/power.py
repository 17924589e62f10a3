"""Sentences on what a number of items could have shown. Nothing is computed here but that."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, comb
from pathlib import PurePath

from layerwise.stats.capability_layers import NEEDED
from layerwise.stats.signals.power import (
    GAINED,
    HALF,
    LEVEL,
    POWER,
    SHOWN,
    answers_needed,
    detectable_loss,
    independent_answers,
    smallest_loss,
)
from layerwise.storage.provenance import IN_MEMORY, Facts
from layerwise.storage.run_tables import RunTables

from .rows import records, rows
from .wording import count_noun


def detectable_loss_text(n: int, n_tests: int, gained: float = GAINED) -> str:
    """``"a loss of 21 points would be found in 8 of 10 samples"``, at the corrected level."""
    loss = detectable_loss(n, LEVEL / max(n_tests, 1), gained)
    loses = "no loss, however large," if loss is None else f"a loss of {100 * loss:.0f} points"
    return f"{loses} would be found in {10 * POWER:.0f} of 10 samples"


def detection_sentence(items: int, loss: float | None) -> str:
    """``"With 24 items a task, a layer that costs a capability ... is found in half ..."``."""
    # The bound is of the first step of Holm's correction: where many layers matter, more are found.
    asked = f"With {count_noun(items, 'item')} a task"
    if loss is None:
        return (
            f"{asked}, not even a layer that costs a capability all is found in half of the runs."
        )
    cost = f"{100 * loss:.0f} points"
    return f"{asked}, a layer that costs a capability {cost} is found in at least half of the runs."


@dataclass(frozen=True)
class PlannedPower:
    """Power of the items of a planned run, for each capability and layer."""

    items: int  # of a task that are asked
    there: int  # of a task that there are
    loss: float | None  # the smallest loss of a layer that is found in half of the runs, if any is
    enough: int  # items a task that show a loss of ``SHOWN``

    def note(self, time: str) -> str:
        """Detectable effects, and what it takes to show more."""
        sentence = detection_sentence(self.items, self.loss)
        if self.items >= self.enough:
            return sentence
        takes = f"{sentence} To show {100 * SHOWN:.0f} points in 8 of 10 runs takes {self.enough}"
        if self.there < self.enough:
            return f"{takes}; there are {self.there}."
        return f"{takes}, about {time}." if time else f"{takes}."


@dataclass(frozen=True)
class DetectableEffects:
    """Effects that a run could have shown by capability and layer, and items for half as much."""

    capability: str  # the one with the fewest answers, of which all else is said
    items: int  # of a task
    there: int  # of a task that there are
    loss: float | None  # the smallest loss of a layer that is found in half of the runs, if any is
    half: float  # half of it, or of the largest; more if the tasks have too few items for that
    items_for_half: int  # items a task that find that in half of the runs
    minutes: float | None  # about how long these take, at the rate of this run, if it is known
    command: str | None  # what asks them; None if there are no more, or none repeats the run

    @property
    def sentences(self) -> list[str]:
        """Effects that half of the runs find, and the items that would show half as much."""
        found = detection_sentence(self.items, self.loss)
        found += " “Established” holds after correction for all tests of its kind."
        if self.items_for_half <= self.items:
            return [found]
        more = f"{self.items_for_half} items would find {100 * self.half:.0f} points as often"
        if self.minutes:
            hours, whole = self.minutes / 60, max(round(self.minutes), 1)
            time = f"{hours:.0f} hours" if hours >= 2 else count_noun(whole, "minute")
            more += f" and take about {time}"
        few = f"; there are {self.there}" if self.there < self.items_for_half else ""
        return [found, f"{more}{few}."]


def detectable_effects(run: RunTables) -> DetectableEffects | None:
    """Smallest losses that a run could have shown; None if no layer was tested for a capability."""
    table = run.table("capability_estimates")
    if table is None:
        return None
    tested = rows(table, what=NEEDED).drop_duplicates("capability")
    every, signal = [], run.table("signal")
    for row in records(tested):
        # p-values of a capability are corrected for the choice of what has signal, too
        gates = [] if signal is None else records(rows(signal, capability=row["capability"]))
        n_tests = row["n_tests"] * comb(len(gates), sum(gate["signal"] for gate in gates))
        answers = independent_answers(row["n_items"], row["n_answers"])
        every.append((answers, n_tests, row["capability"]))
    if not every:
        return None
    answers, n_tests, capability = max(
        every, key=lambda pair: smallest_loss(pair[0], pair[1], HALF) or 1.0
    )
    tasks = [task for task in run.facts.tasks if task.capability == capability]
    loss, items = smallest_loss(answers, n_tests, HALF), max(task.n_items for task in tasks)
    half = (loss or 1.0) / 2
    more = ceil(answers_needed(half, n_tests, HALF) * items / answers)
    # any number if it is unknown
    there = max(task.n_available for task in tasks) or sys.maxsize
    if items < there < more:
        more, half = there, smallest_loss(answers * there / items, n_tests, HALF) or 1.0
    taken = [entry["seconds"] for entry in run.facts.work if "seconds" in entry]
    seconds = sum(second for second in taken if isinstance(second, (int, float)))
    minutes = seconds / 60 * more / items if seconds else None
    command = _command(run, more) if more <= there else None
    return DetectableEffects(capability, items, there, loss, half, more, minutes, command)


# Settings of an ablation that a command of few words does not repeat.
_LEFT_OUT = ("also_changed", "heads", "block", "as_one", "mean_by", "draws", "fewshot_seeds")


def _command(run: RunTables, limit: int) -> str | None:
    """The command that asks more items; None of a run that it would not repeat."""
    facts, signal = run.facts, run.table("signal")
    with_signal = [] if signal is None else list(rows(signal, signal=True)["protocol"])
    protocols = [
        name for name in facts.protocols if name in with_signal
    ]  # the others need other items
    name = {"profile": "profile", "ablation": "ablate"}.get(str(facts.settings.get("analysis")))
    left_out = name == "ablate" and any(option in facts.settings for option in _LEFT_OUT)
    in_python = any(task.source == IN_MEMORY for task in facts.tasks)
    if name is None or left_out or in_python or facts.model.source == "user":
        return None
    return shlex.join(_words(name, facts, protocols or facts.protocols, limit))


def _words(name: str, facts: Facts, protocols: Sequence[str], limit: int) -> Iterator[str]:
    settings, model = facts.settings, facts.model
    yield from ("layerwise", name, model.name)
    for task in facts.tasks:
        yield from ("--task", task.name if task.source == "built-in" else task.source)
    for protocol in protocols:
        yield from ("--protocol", protocol)
    yield from ("--limit", str(limit))
    usual = {"seed": 0, "dtype": "float32", "device": "cpu", "kind": "skip", "site": "layer"}
    for option, value in usual.items():
        if settings.get(option, value) != value:
            yield from (f"--{option}", str(settings[option]))
    if settings.get("chat"):
        yield "--chat"
    if any(task.too_long for task in facts.tasks):
        yield "--skip-long"
    layers = settings.get("layers")
    if isinstance(layers, list) and len(layers) < model.n_layers:
        yield from ("--layers", ",".join(map(str, layers)))
    # The folder of this run holds another one.
    yield from ("--out", f"runs/{PurePath(model.name).name}-{limit}")
