"""From a sweep's outcomes to the rows of ``records.parquet``, ``requests.jsonl`` and ``run.json``.

Nothing here runs a model or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from layerwise.sweep import Generate, Intervention, Sweep, SweepStats
from layerwise.tasks import Task, TaskRequest, score
from layerwise.tasks.items import Item


def record_rows(
    task: Task,
    items: Sequence[Item],
    asked: Sequence[TaskRequest],
    interventions: Sequence[Intervention],
    swept: Sweep,
) -> Iterator[dict[str, Any]]:
    """One record per intervention, item and protocol, from the outcomes of a sweep."""
    by_id = {item.id: item for item in items}
    places: dict[tuple[str, str], list[int]] = {}
    for index, request in enumerate(asked):
        places.setdefault((request.item, request.protocol), []).append(index)
    for intervention, outcomes in zip(interventions, swept.outcomes, strict=True):
        for (item_id, protocol), indices in places.items():
            scored = score(
                task,
                by_id[item_id],
                protocol,
                [asked[index] for index in indices],
                [outcomes[index] for index in indices],
            )
            yield {
                "intervention": intervention.id,
                "kind": intervention.kind,
                "site": intervention.site,
                "layer": intervention.layer,
                "task": task.name,
                "capability": task.capability,
                "item": item_id,
                "protocol": protocol,
                **asdict(scored),
            }


def request_line(request: TaskRequest) -> dict[str, Any]:
    """A request as a line of ``requests.jsonl`` (``docs/results.md``)."""
    asked = request.request
    line: dict[str, Any] = {
        "item": request.item,
        "task": request.task,
        "protocol": request.protocol,
        "context": request.context,
        "continuation": request.continuation,
        "gold": request.gold,
        "context_tokens": list(asked.context),
        "continuation_tokens": [],
    }
    if isinstance(asked, Generate):
        return line | {"stop": list(asked.stop), "max_tokens": asked.max_tokens}
    return line | {"continuation_tokens": list(asked.continuation)}


def work_entry(analysis: str, task: str, stats: SweepStats) -> dict[str, Any]:
    """What a sweep cost, as an entry of ``run.json``."""
    return {"analysis": analysis, "task": task, **asdict(stats)}
