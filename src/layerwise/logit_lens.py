"""Logit lens: at which layer the answer can be read from the residual stream.

Reads the residual stream at the prompt's last position through the model's own final norm,
unembedding and soft-cap (nostalgebraist 2020, "interpreting GPT: the logit lens").
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

from layerwise._callable import make_callable
from layerwise._carry_out import carry_out
from layerwise._parts import Parts, together
from layerwise._progress import Meter
from layerwise._records import planned
from layerwise._setup import Setup, TaskLike, prepare
from layerwise.errors import UserError
from layerwise.results import LensResult, lens_frame
from layerwise.sweep import Generate, LogLikelihood, intact, last_residuals
from layerwise.sweep.cost import Cost, Sizes, cost_of_reading
from layerwise.sweep.readout import logits_of
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

LENS_PROTOCOLS = ("letter", "continuation")
TOP = 5
# Prompts that are read together.
AT_ONCE = 64


@dataclass(frozen=True)
class Reading:
    """What the lens shows at one depth for some prompts.

    Attributes:
        rank: rank of the answer's token; 0 is the top, equal logits share the better rank.
        logprob: its log-probability, in nats.
        entropy: entropy of the distribution, in nats.
        kl: KL divergence from the final distribution to this one, in nats.
        top: ids of the most likely tokens.
    """

    rank: Int[torch.Tensor, " prompt"]
    logprob: Float[torch.Tensor, " prompt"]
    entropy: Float[torch.Tensor, " prompt"]
    kl: Float[torch.Tensor, " prompt"]
    top: Int[torch.Tensor, "prompt top"]


def read_lens(
    model: HookedTransformer,
    resid: Float[torch.Tensor, "prompt d_model"],
    final: Float[torch.Tensor, "prompt d_vocab"],
    answers: Int[torch.Tensor, " prompt"],
) -> Reading:
    """Read residual streams as if they were the last.

    Args:
        model: the model.
        resid: residual streams of some depth, one per prompt.
        final: log-probabilities of the whole model at the same positions.
        answers: the answer's first token of each prompt.
    """
    logits = logits_of(model, resid)
    logprobs = torch.log_softmax(logits, dim=-1)
    of_answer = logits.gather(1, answers[:, None])
    return Reading(
        rank=(logits > of_answer).sum(dim=-1),
        logprob=logprobs.gather(1, answers[:, None])[:, 0],
        entropy=-(logprobs.exp() * logprobs).sum(dim=-1),
        # Rounding may leave a divergence of -1e-8 where the two are the same.
        kl=(final.exp() * (final - logprobs)).sum(dim=-1).clamp(min=0),
        top=logits.topk(min(TOP, logits.shape[-1]), dim=-1).indices,
    )


def logit_lens(
    model: HookedTransformer,
    tasks: TaskLike | Sequence[TaskLike],
    protocols: str | Sequence[str] = LENS_PROTOCOLS,
    *,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    out: str | Path | None = None,
    memory_budget: int | None = None,
    progress: bool = True,
) -> LensResult:
    """Read the answer's first token from every layer.

    Args:
        model: the model.
        tasks: task names, capabilities, JSONL files, or ``Task`` values.
        protocols: ``letter`` or ``continuation``: whose prompt is read. The prompt of
            ``generate`` is that of ``continuation``.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites and all bootstraps.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        out: folder for ``lens.parquet`` and ``run.json``; None keeps everything in memory.
        memory_budget: bytes for activations; half of what is free if None.
        progress: show a progress bar on a terminal.

    Returns:
        One row per task, protocol, item and layer; layer -1 is what enters the first layer.

    Raises:
        UserError: for anything unknown, or a task of which no item can be read because the
            answer begins with the same token as a distractor.
    """
    setup = prepare(
        model, tasks, protocols, seed=seed, limit=limit, fewshot=fewshot, chat=chat,
        memory_budget=memory_budget, out=out,
    )  # fmt: skip
    job = Lens(setup)
    settings = setup.settings(analysis="logit lens")
    (result,) = carry_out(
        lambda parts, told: [job.run(parts, settings, told)], out, settings, progress
    )
    return result


@dataclass(frozen=True)
class Lens:
    """A planned lens; one piece per task and protocol."""

    setup: Setup
    strict: bool = True

    def __post_init__(self) -> None:
        if "generate" in self.setup.protocols:
            raise UserError(
                "The logit lens reads the prompt of 'letter' or 'continuation'; "
                "'generate' has the prompt of 'continuation', so ask for that."
            )
        for task, protocol in self._pieces():
            readable = self._requests(task, protocol)  # bad input is told before any work is done
            if self.strict and not readable:
                raise UserError(
                    f"The logit lens reads an answer's first token, but in task {task.name!r} "
                    f"under protocol {protocol!r} every answer begins with the same token as "
                    "another of its choices; use choices that differ in their first token, or "
                    "another protocol."
                )

    def _pieces(self) -> Iterator[tuple[Task, str]]:
        for task in self.setup.tasks:
            for protocol in self.setup.protocols:
                yield task, protocol

    def run(self, parts: Parts, settings: dict[str, Any], told: Meter) -> LensResult:
        """Make the pieces that are missing, and join all of them."""
        costs = [self.expected(task, protocol) for task, protocol in self._pieces()]
        told.expect(sum((cost.amount for cost in costs), start=0.0))
        names = []
        for (task, protocol), cost in zip(self._pieces(), costs, strict=True):
            name = f"{task.name} {protocol}"
            names.append(name)
            told.doing(f"logit lens, {task.name}")
            if not parts.has_part(f"lens {name}"):
                started = time.perf_counter()
                rows = self._rows(task, protocol)
                entry = {
                    "analysis": "logit lens",
                    "task": task.name,
                    "protocol": protocol,
                    "left_out": len(task.items) - len(self._requests(task, protocol)),
                    "seconds": time.perf_counter() - started,
                }
                parts.write_part(f"lens work {name}", pd.DataFrame([entry | planned(cost)]))
                parts.write_part(f"lens {name}", lens_frame(rows))
            told.done(cost.amount)
        work = together(parts, [f"lens work {name}" for name in names]).to_dict("records")
        table = together(parts, [f"lens {name}" for name in names])
        return LensResult(table, self.setup.facts(settings, work))

    def _requests(self, task: Task, protocol: str) -> list[TaskRequest]:
        """The gold requests of the items whose answer can be told by its first token."""
        found = []
        for item in task.items:
            asked = self.setup.requests(task, _choosable(task, item, protocol), protocol)
            distractors = {_answer(request) for request in asked if not request.gold}
            found += [r for r in asked if r.gold and _answer(r) not in distractors]
        return found

    def expected(self, task: Task, protocol: str) -> Cost:
        """What it is expected to cost to read a task's prompts, at every depth."""
        contexts = [one.request.context for one in self._requests(task, protocol)]
        model, total = self.setup.model, Cost()
        for start in range(0, len(contexts), AT_ONCE):
            chunk = contexts[start : start + AT_ONCE]
            total += self.setup.cost(task, [intact()], [Generate(context, 0) for context in chunk])
            n_rows = len(chunk) * model.cfg.n_layers  # beside the last, which is in the cost
            sizes = Sizes.of(model)
            total += cost_of_reading(n_rows, len(chunk), sizes, self.setup.calibration)
        return total

    @torch.inference_mode()
    def _rows(self, task: Task, protocol: str) -> list[dict[str, Any]]:
        model, asked = self.setup.model, self._requests(task, protocol)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(asked), AT_ONCE):
            chunk = asked[start : start + AT_ONCE]
            answers = torch.tensor([_answer(r) for r in chunk], device=model.W_E.device)
            residuals = last_residuals(
                model,
                [r.request.context for r in chunk],
                memory_budget=self.setup.memory_budget,
            )
            final = torch.log_softmax(logits_of(model, residuals[-1]), dim=-1)
            for depth, resid in enumerate(residuals):
                reading = read_lens(model, resid, final, answers)
                rows += self._reading_rows(task, protocol, chunk, depth - 1, reading)
        return rows

    def _reading_rows(
        self, task: Task, protocol: str, chunk: Sequence[TaskRequest], layer: int, reading: Reading
    ) -> Iterator[dict[str, Any]]:
        for i, request in enumerate(chunk):
            yield {
                "task": task.name,
                "capability": task.capability,
                "item": request.item,
                "protocol": protocol,
                "layer": layer,
                "rank": int(reading.rank[i]),
                "logprob": float(reading.logprob[i]),
                "entropy": float(reading.entropy[i]),
                "kl": float(reading.kl[i]),
                "top_tokens": [self.setup.tokenizer.decode([t]) for t in reading.top[i].tolist()],
            }


def _choosable(task: Task, item: Item, protocol: str) -> Item:
    """An item without choices can still be read: only its answer is asked for."""
    if item.choices:
        return item
    if protocol == "letter":
        raise UserError(
            f"Item {item.id!r} of task {task.name!r} has no choices, which protocol 'letter' "
            "needs; add choices or use protocol 'continuation'."
        )
    return replace(item, choices=(item.answer,))


def _answer(request: TaskRequest) -> int:
    assert isinstance(request.request, LogLikelihood)
    return request.request.continuation[0]


make_callable(__name__)
