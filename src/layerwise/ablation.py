"""Ablation: which layers a task needs, under each way of scoring it.

Chooses interventions, asks ``sweep`` and turns outcomes into records; effects and their
statistics are computed from the records by ``results``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens import HookedTransformer

from layerwise._files import write_atomically
from layerwise._parts import MemoryParts, Parts, together
from layerwise._progress import Meter, meter
from layerwise._setup import Setup, TaskLike, check_layers, prepare
from layerwise.errors import UserError, unknown_name
from layerwise.results import AblationResult, RunFolder, records_frame
from layerwise.sweep import (
    Generate,
    Intervention,
    Sweep,
    SweepStats,
    intact,
    mean,
    mean_activations,
    plan_sweep,
    skip,
    sweep,
    zero,
)
from layerwise.sweep.run import model_shape
from layerwise.tasks import PROTOCOLS, Task, TaskRequest, score
from layerwise.tasks.items import Item

KINDS = ("skip", "zero", "mean")
SITES = {
    "skip": ("layer", "attn_out", "mlp_out"),
    "zero": ("resid_post", "attn_out", "mlp_out"),
    "mean": ("resid_post", "attn_out", "mlp_out"),
}
# Items that are finished and saved together: what a killed run can lose at most.
ITEMS_AT_ONCE = 32
REQUESTS_FILE = "requests.jsonl"


def ablate(
    model: HookedTransformer,
    tasks: TaskLike | Sequence[TaskLike],
    protocols: str | Sequence[str] = PROTOCOLS,
    *,
    kind: str = "skip",
    site: str = "layer",
    layers: Sequence[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    out: str | Path | None = None,
    method: str = "engine",
    memory_budget: int | None = None,
    progress: bool = True,
) -> AblationResult:
    """Change one layer at a time and see what each task loses.

    Skipping whole layers and scoring by three protocols is the protocol of Song et al. 2025
    (arXiv:2510.02091); the intact model is always measured too.

    Args:
        model: the model, from ``load_model`` or your own.
        tasks: task names, capabilities (all their suites), JSONL files, or ``Task`` values.
        protocols: ``letter``, ``continuation``, ``generate``.
        kind: ``skip``; ``zero``; ``mean`` (over the task's own prompts, all positions but the
            first).
        site: ``layer`` for a skip, ``resid_post`` for zero and mean; ``attn_out``, ``mlp_out``
            for all three. Zeroing ``resid_post`` is not skipping: it wipes the whole stream.
        layers: which layers, from 0; all if None.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites and all bootstraps.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        out: folder for ``records.parquet``, ``requests.jsonl`` and ``run.json``; a run that was
            interrupted goes on there. None keeps everything in memory.
        method: ``engine``, or ``reference`` for one hooked forward per change and request.
        memory_budget: bytes for activations, keys and values; 3 GiB if None.
        progress: show a progress bar on a terminal.

    Returns:
        One record per intervention, item and protocol.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    setup = prepare(
        model, tasks, protocols, seed=seed, limit=limit, fewshot=fewshot, chat=chat,
        memory_budget=memory_budget,
    )  # fmt: skip
    job = Ablation(setup, kind, site, check_layers(layers, model.cfg.n_layers), method)
    settings = setup.settings(analysis="ablation", **job.settings())
    with RunFolder.open(out, settings) if out is not None else nullcontext() as folder:
        if folder is not None and folder.finished:
            return AblationResult.load(folder.path)
        with meter(progress) as told:
            result = job.run(folder or MemoryParts(), settings, told)
        if folder is not None:
            result.save(folder.path)
            job.write_requests(folder.path)
            folder.finish(result.facts)
    return result


@dataclass(frozen=True)
class Ablation:
    """A planned ablation; makes its pieces one by one and joins them.

    Attributes:
        setup: what it starts from.
        kind: ``skip``, ``zero`` or ``mean``.
        site: what is changed.
        layers: which layers.
        method: ``engine`` or ``reference``.
    """

    setup: Setup
    kind: str
    site: str
    layers: tuple[int, ...]
    method: str = "engine"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of ablation", self.kind, KINDS)
        if self.site not in SITES[self.kind]:
            raise unknown_name(f"site for kind {self.kind!r}", self.site, SITES[self.kind])
        if self.site == "mlp_out" and self.setup.model.cfg.attn_only:
            raise UserError("The model's blocks have no MLP; choose site attn_out.")
        for task in self.setup.tasks:  # bad input is told before any work is done
            for item in task.items:
                for protocol in self.setup.protocols:
                    self.setup.requests(task, item, protocol)

    def settings(self) -> dict[str, Any]:
        """What makes it this ablation and no other."""
        return {
            "kind": self.kind,
            "site": self.site,
            "layers": list(self.layers),
            "method": self.method,
        }

    def pieces(self) -> Iterator[tuple[str, Task, tuple[Item, ...]]]:
        """Name, task and items of each piece of work."""
        for task in self.setup.tasks:
            for start in range(0, len(task.items), ITEMS_AT_ONCE):
                yield f"{task.name} {start:05d}", task, task.items[start : start + ITEMS_AT_ONCE]

    def run(self, parts: Parts, settings: dict[str, Any], told: Meter) -> AblationResult:
        """Make the pieces that are missing, and join all of them."""
        names = [name for name, _, _ in self.pieces()]
        missing = [piece for piece in self.pieces() if not parts.has_part(f"records {piece[0]}")]
        costs = {name: self._cost(task, items) for name, task, items in missing}
        told.expect(sum(costs.values()))
        means: dict[str, list[Intervention]] = {}
        for name, task, items in missing:
            told.doing(f"ablation, {task.name}")
            if task.name not in means:
                means = {task.name: self._interventions(task)}
            records, work = self._piece(task, items, means[task.name])
            parts.write_part(f"work {name}", pd.DataFrame([work]))
            parts.write_part(f"records {name}", records)
            told.done(costs[name])
        records = together(parts, [f"records {name}" for name in names])
        work = _joined_work(together(parts, [f"work {name}" for name in names]))
        return AblationResult(records, self.setup.facts(settings, work))

    def _interventions(self, task: Task) -> list[Intervention]:
        if self.kind == "skip":
            return [intact(), *(skip(layer, self.site) for layer in self.layers)]
        site: Any = self.site
        if self.kind == "zero":
            return [intact(), *(zero(site, layer) for layer in self.layers)]
        contexts = {r.request.context for r in self._requests(task, task.items)}
        means = mean_activations(
            self.setup.model,
            sorted(contexts),
            [site],
            memory_budget=self.setup.memory_budget,
        )
        return [intact(), *(mean(site, layer, means[site, layer]) for layer in self.layers)]

    def _requests(self, task: Task, items: Sequence[Item]) -> list[TaskRequest]:
        return [
            request
            for item in items
            for protocol in self.setup.protocols
            for request in self.setup.requests(task, item, protocol)
        ]

    def _piece(
        self, task: Task, items: Sequence[Item], interventions: Sequence[Intervention]
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        asked = self._requests(task, items)
        swept = sweep(
            self.setup.model,
            interventions,
            [request.request for request in asked],
            tokenizer=self.setup.tokenizer,
            method=self.method,
            memory_budget=self.setup.memory_budget,
        )
        rows = list(record_rows(task, items, asked, interventions, swept))
        return records_frame(rows), work_entry("ablation", task.name, swept.stats)

    def _cost(self, task: Task, items: Sequence[Item]) -> float:
        """Expected token-passes of a piece; texts are taken to be half as long as allowed."""
        asked = [request.request for request in self._requests(task, items)]
        layers = [intact(), *(skip(layer) for layer in self.layers)]
        shape = model_shape(self.setup.model)
        prompts = plan_sweep(layers, asked, shape, self.setup.memory_budget).token_passes
        texts = sum(r.max_tokens for r in asked if isinstance(r, Generate)) / 2
        return prompts + texts * len(layers) * shape.n_layers

    def write_requests(self, folder: Path) -> None:
        """Write exactly what was put to the model, one line per request."""
        lines = [
            json.dumps(request_line(request), ensure_ascii=False)
            for task in self.setup.tasks
            for request in self._requests(task, task.items)
        ]
        write_atomically(folder / REQUESTS_FILE, ("\n".join(lines) + "\n").encode())


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


def _joined_work(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per task, its pieces added up."""
    names = [field.name for field in fields(SweepStats)]
    totals: dict[str, SweepStats] = {}
    for piece in table.to_dict("records"):
        stats = SweepStats(**{name: piece[name] for name in names})
        totals[piece["task"]] = totals.get(piece["task"], SweepStats()) + stats
    return [work_entry("ablation", task, stats) for task, stats in totals.items()]
