"""What is needed to repeat a run, as tables of a page."""

from __future__ import annotations

import json
from typing import Any

from layerwise.presentation.section import Table
from layerwise.presentation.wording import number
from layerwise.storage.provenance import Facts, TaskFacts, differing
from layerwise.storage.run_tables import RunTables

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
    """What is needed to repeat the run: model, tasks, settings, versions, work done."""
    facts = run.facts
    named = ("fact", "value")
    model = [
        [_MODEL.get(name, name), _value(value)]
        for name, value in facts.model.model_dump().items()
        if value != ""  # older versions did not say
    ]
    general = [["seed", str(facts.seed)], ["protocols", ", ".join(facts.protocols)]]
    settings = [
        [_words(name), _value(value)]
        for name, value in facts.settings.items()
        if name != "tasks_as_read"
    ]  # they are in the table of tasks
    versions = [[name, version] for name, version in facts.versions.items()]
    note = _note_of_environments(facts)
    return [
        Table("Model", named, model),
        _tasks(run),
        Table("Settings", named, general + settings),
        Table("Versions", named, versions, not note, note),
        *_work(facts.work),
    ]


def _note_of_environments(facts: Facts) -> str:
    """What differed while the run's parts were made; empty if nothing did."""
    elsewhere: list[Any] = [part["environment"] for part in facts.machines if "environment" in part]
    keys = differing([*facts.environments, *elsewhere])
    if not keys:
        return ""
    return f"Parts of this run were made under different {keys}: last digits may differ."


def _tasks(run: RunTables) -> Table:
    columns = (
        "task",
        "capability",
        "items",
        "few-shot",
        "chance (%)",
        "extractor",
        "source",
        "hash",
        "what",
    )
    cells = [
        [
            task.name, task.capability, _items(task), str(task.n_fewshot),
            ", ".join(f"{name}: {number(100 * level)}" for name, level in task.chance.items()),
            task.extractor or "–", task.source, task.hash[:12], task.description,
        ]
        for task in run.facts.tasks
    ]  # fmt: skip
    return Table("Tasks", columns, cells)


def _items(task: TaskFacts) -> str:
    """How many items were asked, and which were left out as too long."""
    left_out = ", ".join(task.too_long[:3]) + (" …" if len(task.too_long) > 3 else "")
    more = f" ({len(task.too_long)} too long, left out: {left_out})" if task.too_long else ""
    return f"{task.n_items}{more}"


def _work(work: tuple[dict[str, Any], ...]) -> list[Table]:
    columns = tuple(dict.fromkeys(name for entry in work for name in entry))
    cells = [[_value(entry.get(name, "–")) for name in columns] for entry in work]
    heads = tuple(_words(name) for name in columns)
    return [Table("Work done and time taken", heads, cells)] if cells else []


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
