"""Made-up answers of a teacher, a student and the distilled student, as records and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.distillation.result import DistillationResult
from layerwise.analyses.distillation.training.names import HOSTS
from layerwise.storage.parquet import frame
from tests.synthetic import facts, task_facts

CHANCE = 0.25
SETTINGS: dict[str, Any] = {
    "teacher": "large", "teacher_hash": "a1", "written_hash": "b2", "divergence": "forward",
    "temperature": 1.0, "mixture": 0.5, "on_policy": 0.0, "cross_entropy": 0.0, "hidden": 0.0,
    "answers": "task", "from_file": False, "layers": None, "rank": None, "text": "prompts",
    "text_hash": "c3", "texts_trained_on": 80, "texts_held_out": 20, "batch": 8, "steps": 40,
    "rate": 1e-3,
}  # fmt: skip


def chance(task: str, protocol: str) -> float:
    return CHANCE


def records(
    answers: Mapping[str, Mapping[str, np.ndarray]], clusters: Sequence[str] | None = None
) -> pd.DataFrame:
    """Made-up records: by task, every host's answers; log-probabilities are -1 and -3."""
    rows = [
        {
            "host": host, "intervention": "intact", "kind": "intact", "site": None, "layer": None,
            "layers": [], "task": task, "capability": "retrieval", "item": f"{place:04d}",
            "protocol": "continuation", "correct": bool(right), "correct_norm": None,
            "gold_logprob": -1.0 if right else -3.0, "margin": None, "generated": None,
            "extracted": None, "chosen": None,
            "cluster": None if clusters is None else clusters[place],
        }
        for task, of in answers.items()
        for host in HOSTS
        for place, right in enumerate(of[host])
    ]  # fmt: skip
    return frame("distillation", rows)


def distillation_result(
    answers: Mapping[str, Mapping[str, np.ndarray]], **settings: Any
) -> DistillationResult:
    """A result with these answers, of a training whose divergence falls."""
    tasks = [
        task_facts(task, "retrieval", n_items=len(of["student"])).model_copy(
            update={"chance": {"continuation": CHANCE}}
        )
        for task, of in answers.items()
    ]
    known = facts(*tasks, protocols=("continuation",), settings=SETTINGS | settings)
    steps = np.arange(1, 41)
    curve = [{"step": 0, "held_out_kl": 2.0}] + [
        {
            "step": int(step), "rate": 1e-3, "loss": float(2 * 0.9**step),
            "divergence": float(2 * 0.9**step), "n_texts": 8, "n_own": 0, "n_tokens": 20,
            "held_out_kl": float(2 * 0.93**step) if step % 4 == 0 else None,
        }
        for step in steps
    ]  # fmt: skip
    return DistillationResult(records(answers), frame("distillation_curve", curve), known)
