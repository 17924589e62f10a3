"""From a sweep's outcomes to the rows of ``records.parquet``, ``requests.jsonl`` and ``run.json``.

Nothing here runs a model or writes a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.written import REQUESTS_FILE
from layerwise.sweep import Generate, Intervention, Sweep, SweepStats
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task, TaskRequest, build_requests, score
from layerwise.tasks.items import Item, closed_book


def record_rows(
    task: Task,
    items: Sequence[Item],
    task_requests: Sequence[TaskRequest],
    interventions: Sequence[Intervention],
    swept: Sweep,
    draws: Sequence[int | None] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record per intervention, item and protocol, from the outcomes of a sweep."""
    by_id = {item.id: item for item in items}
    places: dict[tuple[str, str], list[int]] = {}
    for index, request in enumerate(task_requests):
        places.setdefault((request.item, request.protocol), []).append(index)
    every = [None] * len(interventions) if draws is None else draws
    for intervention, draw, outcomes in zip(interventions, every, swept.outcomes, strict=True):
        layers = [layer for layer, _ in intervention.places]
        heads = [head for _, head in intervention.places]
        for (item_id, protocol), indices in places.items():
            scored = score(
                task,
                by_id[item_id],
                protocol,
                [task_requests[index] for index in indices],
                [outcomes[index] for index in indices],
            )
            yield {
                "intervention": intervention.id,
                "kind": intervention.kind,
                "site": intervention.site,
                "layer": intervention.layer,
                "head": intervention.head,
                "layers": layers,
                "heads": heads if any(head is not None for head in heads) else None,
                "task": task.name,
                "capability": task.capability,
                "item": item_id,
                "cluster": by_id[item_id].cluster,
                "closed_book": closed_book(by_id[item_id]),
                "protocol": protocol,
                "draw": draw,
                **vars(scored),
            }


def with_clusters(table: pd.DataFrame, tasks: Iterable[Task]) -> pd.DataFrame:
    """A table of items with what each asks for, in its column ``cluster``; null where apart."""
    known = {(task.name, item.id): item.cluster for task in tasks for item in task.items}
    keys = zip(table["task"], table["item"], strict=True)
    labels = [known.get(key) for key in keys]
    return table.assign(cluster=pd.Series(labels, index=table.index, dtype=object))


def text_line(request: TaskRequest) -> dict[str, Any]:
    """Text of a line of ``requests.jsonl``."""
    line = {
        "item": request.item,
        "task": request.task,
        "protocol": request.protocol,
        "context": request.context,
        "continuation": request.continuation,
        "gold": request.gold,
    }
    more = {"answer": request.answer, "option": request.option}
    return line | {name: text for name, text in more.items() if text is not None}


def text_lines(
    tokenizer: Any, chat: bool, apart: bool, pieces: Iterable[tuple[Task, str]]
) -> Iterator[dict[str, Any]]:
    """Requests of tasks under protocols, as text; other arguments are ``build_requests``' own."""
    for task, protocol in pieces:
        for item in task.items:
            made = build_requests(task, item, protocol, tokenizer, chat=chat, apart=apart)
            yield from map(text_line, made)


def request_line(request: TaskRequest) -> dict[str, Any]:
    """A request as a line of ``requests.jsonl`` (``docs/results.md``)."""
    tokens = request.request
    line: dict[str, Any] = {
        **text_line(request),
        "context_tokens": list(tokens.context),
        "continuation_tokens": [],
    }
    if tokens.source is not None:
        line["source_tokens"] = list(tokens.source)
    if isinstance(tokens, Generate):
        return line | {"stop": list(tokens.stop), "max_tokens": tokens.max_tokens}
    return line | {"continuation_tokens": list(tokens.continuation)}


def write_requests(requests: Iterable[TaskRequest], folder: Path) -> None:
    """Write requests to ``requests.jsonl`` in a folder, one line each."""
    lines = (json.dumps(request_line(request), ensure_ascii=False) + "\n" for request in requests)
    write_atomically(folder / REQUESTS_FILE, (line.encode() for line in lines))


def work_entry(analysis: str, task: str, stats: SweepStats) -> dict[str, Any]:
    """Cost of a sweep, as an entry of ``run.json``."""
    return {"analysis": analysis, "task": task, **asdict(stats)}


def planned_work(cost: Cost) -> dict[str, Any]:
    """Expected cost of work, to stand beside what was done."""
    return {"planned_token_passes": round(cost.token_passes)}


def work_line(work: Iterable[Mapping[str, Any]]) -> str | None:
    """One line on what was planned and what was made; None where nothing was planned."""
    keys = ("planned_token_passes", "token_passes")
    counted = [entry for entry in work if all(key in entry for key in keys)]
    if not counted:
        return None
    expected, made = (sum(entry[key] for entry in counted) for key in keys)
    return f"Token-passes planned: {expected:,}; made {made:,}."
