"""Pages of runs turned into one HTML text with the template, figures inside.

What is on a page is settled in ``_layers``; the words of the page are in the template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from layerwise.analyses.ablation.page.examples import shorten
from layerwise.analyses.ablation.page.sections import state_traces
from layerwise.analyses.ablation.tables.items import answers
from layerwise.analyses.ablation.tables.questions import KEY, QUESTIONS
from layerwise.analyses.ablation.tables.saved_effects import (
    ablations,
    points,
    select_effects,
)
from layerwise.presentation.claim import Claim, evidence
from layerwise.presentation.naming import model_layer_names, name_layer
from layerwise.presentation.page import render_pictures, render_template
from layerwise.presentation.power import DetectableEffects, detectable_effects
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import (
    WAY,
    count_noun,
    in_order,
    intervention_phrase,
    join_words,
    number,
    percent,
    protocol_words,
)
from layerwise.report._answer import Answer, first_screen
from layerwise.report._layers import sections
from layerwise.stats.effects import INTACT
from layerwise.storage.provenance import environment_differences
from layerwise.storage.run_tables import RunTables


def comparison(runs: Sequence[RunTables], names: Sequence[str]) -> Table | None:
    """A row per task and way of scoring, a column per run; None if no run has an ablation."""
    gates = [gate for run in runs if (gate := run.table("signal")) is not None]
    cells = in_order(
        ((row["task"], row["protocol"]) for gate in gates for row in records(gate)), ()
    )
    if not cells:
        return None
    body = [
        [task, protocol_words(protocol), *(_cell_summary(run, task, protocol) for run in runs)]
        for task, protocol in cells
    ]
    return Table("Runs side by side", ("task", WAY, *names), body)


def _cell_summary(run: RunTables, task: str, protocol: str) -> str:
    """Accuracy of the intact model, and the largest loss."""
    signal = run.table("signal")
    gates = [] if signal is None else records(rows(signal, task=task, protocol=protocol))
    if not gates:
        return "not run"
    row = gates[0]
    accuracy = f"intact {percent(row['accuracy'], row['low'], row['high'])}, n = {row['n_items']}"
    if not row["signal"]:
        return f"{accuracy}; no signal"
    if not ablations(run):
        return f"{accuracy}; no single layer was changed"
    effects = rows(select_effects(run, *ablations(run)[0]), task=task, protocol=protocol)
    losses = pd.DataFrame(rows(effects, significant=True).query("acc_diff > 0"))
    n_layers = count_noun(len(layers_in(effects)), "layer")
    text = f"{accuracy}; {len(losses)} of {n_layers} significant"
    if losses.empty:
        return text
    worst = records(losses)[int(np.argmax(numbers(losses, "share_lost")))]
    with model_layer_names(run.facts.model):
        action = intervention_phrase(
            worst["kind"], worst["site"], f"layer {name_layer(worst['layer'])}"
        )
    return (
        f"{text}; most: {action}, {points(worst)} (bounds for all tests of the run together) lost"
    )


def differing_tasks(runs: Sequence[RunTables]) -> list[str]:
    """A sentence for each task name that stands for other items in another run."""
    hashes: dict[str, list[str]] = {}
    for run in runs:
        for task in run.facts.tasks:
            hashes.setdefault(task.name, []).append(task.hash[:12])
    return [
        f"The runs do not have the same items under the name {name} (hashes "
        f"{join_words(in_order(known, ()))}): their numbers for it are not comparable."
        for name, known in hashes.items()
        if len(set(known)) > 1
    ]


# What a page may hold of them: records looked through, and bytes.
MOST_RECORDS, MOST_BYTES = 300_000, 1_000_000
_QUESTION, _ANSWER = 160, 60


def items_json(run: RunTables) -> str:
    """Questions and answers, by task and protocol; empty if there is nothing, or too much."""
    kinds, questions = ablations(run), run.table(QUESTIONS)
    table = run.table("records")
    if not kinds or questions is None or table is None or len(table) > MOST_RECORDS:
        return ""
    kind, site = kinds[0]
    intact = rows(table, kind=INTACT)
    changed = rows(table, kind=kind, site=site)
    changed = changed.loc[changed["layer"].notna()]
    made = [
        _task(part, rows(intact, task=task, protocol=protocol), questions)
        | {"change": f"{kind}|{site}"}
        for (task, protocol), part in changed.groupby(["task", "protocol"], sort=False)
    ]
    # Inside a script element nothing may look like its end.
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return text if len(text.encode()) <= MOST_BYTES else ""


def _task(changed: pd.DataFrame, intact: pd.DataFrame, questions: pd.DataFrame) -> dict[str, Any]:
    before = answers(intact, intact, questions).sort_values("item", kind="stable")
    at = {item: i for i, item in enumerate(before["item"])}
    was = dict(zip(intact["item"], intact["correct"], strict=False))
    flipped = changed.loc[changed["correct"] != [was.get(item) for item in changed["item"]]]
    layers = {}
    for layer, of_layer in flipped.groupby("layer") if len(flipped) else ():
        listed = records(answers(intact, pd.DataFrame(of_layer), questions))
        layers[str(layer)] = [
            [at[row["item"]], shorten(row["without"], _ANSWER),
             None if pd.isna(row["margin_change"]) else round(float(row["margin_change"]), 1)]
            for row in listed
        ]  # fmt: skip
    first = records(before)
    return {
        **{name: first[0][name] for name in KEY[:2]},
        "capability": str(intact["capability"].iloc[0]),
        "items": [
            [
                shorten(row["question"], _QUESTION), shorten(row["gold"], _ANSWER),
                shorten(row["intact"], _ANSWER), int(row["right_intact"]),
            ]
            for row in first
        ],
        "layers": layers,
    }  # fmt: skip


_MODEL = {
    "n_layers": "layers",
    "n_heads": "heads per layer",
    "d_model": "width of the residual stream",
    "d_vocab": "tokens in the vocabulary",
    "n_ctx": "longest context (tokens)",
    "n_parameters": "parameters",
    "dtype": "number format",
    "backend": "run by",
    "gguf": "GGUF file",
    "parity": "largest difference from the original (nats)",
    "hash": "SHA-256 of the loaded weights",
    "source_hash": "SHA-256 of the source",
    "conversion_hash": "SHA-256 of the conversion",
}


def facts_tables(run: RunTables) -> list[Table]:
    """Facts needed to repeat the run: model, tasks, settings, versions, work done."""
    facts = run.facts
    named = ("fact", "value")
    model = [
        [_MODEL.get(name, name), _value(value)]
        for name, value in facts.model.model_dump().items()
        if value != ""  # unknown, or there is none
    ]
    ways = ", ".join(f"{protocol_words(one)} ({one})" for one in facts.protocols)
    settings = [["seed", str(facts.seed)], ["ways of scoring", ways]]
    settings += [
        [name.replace("_", " "), _value(value)]
        for name, value in facts.settings.items()
        if name != "tasks_as_read"  # they are in the table of tasks
    ]
    versions = [[name, version] for name, version in facts.versions.items()]
    elsewhere: list[Any] = [part["environment"] for part in facts.machines if "environment" in part]
    keys = environment_differences([*facts.environments, *elsewhere])
    note = f"Parts of this run were made under different {keys}: last digits may differ."
    note = note if keys else ""
    columns = tuple(dict.fromkeys(name for entry in facts.work for name in entry))
    work = [[_value(entry.get(name, "–")) for name in columns] for entry in facts.work]
    heads = tuple(name.replace("_", " ") for name in columns)
    return [
        Table("Model", named, model),
        _tasks(run),
        Table("Settings", named, settings),
        Table("Versions", named, versions, not note, note),
        *([Table("Work done and time taken", heads, work)] if work else []),
    ]


def _tasks(run: RunTables) -> Table:
    cells = []
    for task in run.facts.tasks:
        n_items, n = str(task.n_items), len(task.too_long)
        if n:
            some = ", ".join(task.too_long[:3]) + " …" * (n > 3)
            n_items += f" ({n} too long, left out: {some})"
        chance = (f"{protocol_words(way)}: {number(100 * at)}" for way, at in task.chance.items())
        cells.append([
            task.name, task.capability, n_items, str(task.n_fewshot), ", ".join(chance),
            task.extractor or "–", task.source, task.hash[:12], task.description,
        ])  # fmt: skip
    columns = (
        "task", "capability", "items", "few-shot", "chance (%)", "extractor", "source", "hash",
        "what",
    )  # fmt: skip
    return Table("Tasks", columns, cells)


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Page:
    """One run of the report: its name, its tables, its claims and its first screen."""

    name: str
    run: RunTables
    findings: Sequence[Claim]

    @cached_property
    def answer(self) -> Answer:
        """First screen of the page."""
        return first_screen(self.run, self.findings)

    @cached_property
    def parts(self) -> list[Section]:
        """The sections behind the first screen."""
        with model_layer_names(self.run.facts.model):
            return sections(self.run)

    @cached_property
    def leading_figures(self) -> list[FigureSpec]:
        """The picture beside the strip; none where no layers cross."""
        return list(state_traces(self.run, first=True))

    @property
    def facts(self) -> list[Table]:
        """Facts needed to repeat the run."""
        return facts_tables(self.run)

    @property
    def first(self) -> list[tuple[Claim, Table]]:
        """The first screen's claims, each with the rows that it stands on."""
        return [(claim, claim_evidence(self.run, claim)) for claim in self.answer.claims]

    @property
    def claims(self) -> list[tuple[Claim, Table]]:
        """The other claims, with their rows."""
        others = [claim for claim in self.findings if claim not in self.answer.claims]
        return [(claim, claim_evidence(self.run, claim)) for claim in others]

    @cached_property
    def sure(self) -> DetectableEffects | None:
        """Smallest losses that the run would have shown; None if no layer was tested."""
        return detectable_effects(self.run)

    @property
    def items(self) -> Markup:
        """The items behind the strip, for the page's script; empty if there are none."""
        return Markup(items_json(self.run))

    def short(self, part: Section) -> str:
        """The claim that a section opens with; empty if there is none."""
        return next((c.short for c in self.findings if c.kind in part.kinds), "")


def claim_evidence(run: RunTables, claim: Claim) -> Table:
    """The rows that a claim about a run stands on."""
    name = claim.source["table"]
    table = run.table(name)
    assert table is not None, f"a claim without its table: {claim.full}"
    shown = evidence(claim, table, run.file(name))
    if not run.facts.model.n_encoder_layers:
        return shown
    return replace(shown, note=f"{shown.note} Layers are counted from the encoder's first.")


def render(pages: Sequence[Page]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name."""
    runs = [page.run for page in pages]
    pictures, figures = render_pictures(
        [
            (f"run{i}_{drawing.name}" if len(pages) > 1 else drawing.name, drawing,
             page.run.facts.model)
            for i, page in enumerate(pages, start=1)
            for drawing in [
                *page.leading_figures, *(d for part in page.parts for d in part.all_drawings)
            ]
        ]
    )  # fmt: skip
    text = render_template(
        "layerwise.report",
        "template.html.j2",
        pages=pages,
        pictures=pictures,
        comparison=comparison(runs, [page.name for page in pages]) if len(pages) > 1 else None,
        differing=differing_tasks(runs),
        script=resources.files("layerwise.report").joinpath("page.js").read_text("utf-8"),
    )
    return text, figures
