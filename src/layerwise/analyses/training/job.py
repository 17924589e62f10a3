"""What is asked of one checkpoint, as a run of its own that can be resumed.

Runs are joined in ``series``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.execute import execute
from layerwise.analyses.logit_lens.api import Lens
from layerwise.errors import UserError, shown
from layerwise.models.bridge import accepted
from layerwise.models.in_turn import in_turn
from layerwise.models.kinds import Model
from layerwise.models.load import load_model
from layerwise.runs.executors import Executor
from layerwise.runs.setup import TaskLike, prepare
from layerwise.storage.base import Result

LENS = "lens"
_READ = {"letter": "letter", "continuation": "continuation", "generate": "continuation"}


@dataclass(frozen=True)
class Asked:
    """What every checkpoint is asked.

    Attributes:
        tasks: names of tasks, or tasks.
        protocols: how.
        also: what else than skipping layers.
        limit: items of each task.
        seed: decides items and bootstraps.
        fewshot: number of few-shot examples.
        chat: whether prompts stand in the chat template.
        memory_budget: bytes for activations.
        progress: whether a bar is shown.
        executor: makes the pieces.
    """

    tasks: TaskLike | Sequence[TaskLike]
    protocols: str | Sequence[str]
    also: Sequence[str]
    limit: int | None
    seed: int
    fewshot: int | None
    chat: bool
    memory_budget: int | None
    progress: bool
    executor: Executor | None = None


def loaded(step: int, checkpoint: Any, how: Mapping[str, Any]) -> Model:
    """The model of a checkpoint: itself, what its function makes, or what its folder holds."""
    given = accepted(checkpoint)
    if not isinstance(given, Model) and callable(given):
        given = accepted(given())
        if not isinstance(given, Model):
            raise UserError(
                f"The function of the checkpoint of step {step} gave {shown(given)}: expected a "
                "loaded model; let it return one."
            )
    return given if isinstance(given, Model) else load_model(checkpoint, **how)


@in_turn
def measured(model: Model, asked: Asked, out: Path | None) -> list[Result]:
    """Skip every layer of a checkpoint where it beats blind; read its lens if requested."""
    setup = prepare(
        model, asked.tasks, asked.protocols, seed=asked.seed, limit=asked.limit,
        fewshot=asked.fewshot, chat=asked.chat, memory_budget=asked.memory_budget, out=out,
        executor=asked.executor,
    )  # fmt: skip
    layers = tuple(range(model.cfg.n_layers))
    skipped = AblationSpec.of(model, "skip", None, layers)
    jobs: list[Any] = [Ablation(setup, (skipped,), only_with_signal=True)]
    if LENS in asked.also:
        read = tuple(dict.fromkeys(_READ[protocol] for protocol in setup.protocols))
        jobs.append(Lens(replace(setup, protocols=read), strict=False))
    also = {"also": list(asked.also)} if asked.also else {}
    settings = setup.settings(analysis="profile training", **jobs[0].settings(), **also)
    return execute(
        lambda parts, told: [job.run(parts, settings, told) for job in jobs],
        out, settings, setup.refuse_changed, asked.progress, jobs[0].write_requests,
    )  # fmt: skip
