"""Names of a distillation's models, divergences and training, in tables and in words."""

from __future__ import annotations

from typing import Any

from layerwise.presentation.wording import join_words, layer_ranges, number
from layerwise.runs.options import ANSWERS, DIVERGENCES
from layerwise.storage.provenance import Facts

FORWARD, REVERSE, JENSEN_SHANNON = DIVERGENCES
OF_TASK, OF_TEACHER = ANSWERS
TEACHER, STUDENT, DISTILLED = HOSTS = ("teacher", "student", "distilled")
"""The models that are asked: the student is the one before training."""


def student_in_words(facts: Facts) -> str:
    """``the student a, distilled from b``, or ``b without layers 3, healed``."""
    teacher, removed = facts.settings["teacher"], facts.settings.get("removed")
    if isinstance(removed, list):
        noun = "layer" if len(removed) == 1 else "layers"
        return f"{teacher} without {noun} {join_words(map(str, removed))}, healed"
    return f"the student {facts.model.name}, distilled from {teacher}"


def objective_in_words(settings: dict[str, Any]) -> str:
    """The loss of a distillation, from its settings."""
    kind = settings["divergence"]
    by_kind = {
        FORWARD: "KL(teacher, student)",
        JENSEN_SHANNON: "generalized Jensen-Shannon divergence of mixture "
        + number(settings["mixture"], 2),
    }
    words = f"{by_kind.get(kind, 'KL(student, teacher)')} at temperature "
    words += number(settings["temperature"], 2)
    for name, noun in (("cross_entropy", "cross-entropy"), ("hidden", "distance of streams")):
        if settings[name]:
            words += f" + {number(settings[name], 2)} × {noun}"
    if settings["on_policy"]:
        words += f"; {number(100 * settings['on_policy'])} % of the texts written by the student"
    whose = "the task's" if settings["answers"] == OF_TASK else "the teacher's"
    return words if settings["from_file"] else f"{words}; {whose} answers"


def trained_weights_words(settings: dict[str, Any]) -> str:
    """Weights of a student that were trained, from its settings, in words."""
    layers, rank = settings["layers"], settings["rank"]
    noun = "layer" if layers is not None and len(layers) == 1 else "layers"
    where = "all layers" if layers is None else f"{noun} {layer_ranges(layers)}"
    if rank is not None:
        return f"low-rank adapters of rank {rank} in {where}, merged into the weights"
    return "all weights" if layers is None else f"the weights of {where}"
