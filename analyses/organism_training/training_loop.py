"""The course of a training: what is drawn when, how fast is learned, and how far it has come.

What a step computes is the model's own: see ``train`` for the decoder, ``seq2seq.train`` for the
encoder-decoder.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from layerwise.runs.progress import meter

from .texts import Stage, Text, Texts
from .training_forms import FEWEST_PAIRS, MOST_PAIRS, Form

STEPS = 1000
ALONE, SKIPPED = 0.5, 0.4
"""Probability that only the layers of a form run; otherwise the share of others skipped."""
RATE, WARM_UP, FLAT, LAST = 1e-3, 50, 0.4, 0.02
DECAY = 0.05
"""Weight decay of the matrices of the layers; nothing else decays."""
TOLD_EVERY = 25
_PASSED = 0.85  # of the look-ups that are right, before contexts grow
_AT_LEAST = 8  # steps between two growths
_MEMORY = 0.95  # of the running means, a step

Loss = Callable[[Form, list[Text]], tuple[Float[torch.Tensor, ""], dict[Stage, float]]]
Model = TypeVar("Model", bound=torch.nn.Module)


@dataclass
class TrainingState:
    """State of a training."""

    most_pairs: int = FEWEST_PAIRS  # pairs that contexts have at most
    grown: int = 0  # the step at which they grew last
    # Share of right predictions, a running mean for each capability and stage.
    right: dict[tuple[str, Stage], float] = field(default_factory=dict)
    rows: list[dict[str, float | int | str]] = field(default_factory=list)  # what the curve shows

    def note_step(self, step: int, form: Form, right: dict[Stage, float]) -> None:
        """Take note of a step; let contexts grow once look-ups are mostly right."""
        for stage, share in right.items():
            before = self.right.get((form.capability, stage), share)
            self.right[form.capability, stage] = _MEMORY * before + (1 - _MEMORY) * share
        passed = self.right.get(("retrieval", "answer"), 0.0) > _PASSED
        if passed and self.most_pairs < MOST_PAIRS and step - self.grown >= _AT_LEAST:
            self.most_pairs, self.grown = self.most_pairs + 1, step

    def note(self, step: int) -> None:
        """Add a point to the curve."""
        for (capability, stage), share in self.right.items():
            self.rows.append(
                {
                    "step": step,
                    "capability": capability,
                    "stage": stage,
                    "right": round(share, 4),
                    "most_pairs": self.most_pairs,
                }
            )


def run_training_loop(
    model: torch.nn.Module,
    groups: list[dict[str, Any]],
    forms: Sequence[Form],
    texts: Texts,
    loss_of: Loss,
    *,
    steps: int,
    progress: bool,
    each: Callable[[int], None] = lambda step: None,
) -> pd.DataFrame:
    """Train a model."""
    optimizer, state = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98)), TrainingState()
    with meter(progress) as progress_meter:
        progress_meter.expect(float(steps))
        progress_meter.set_activity("training")
        each(0)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * schedule(step, steps) * group["speed"]
            optimizer.zero_grad()
            for form in forms:
                loss, right = loss_of(form, form.draw(texts, state.most_pairs))
                loss.backward()
                state.note_step(step, form, right)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress_meter.add_work(1.0)
            each(step + 1)
            if (step + 1) % TOLD_EVERY == 0 or step + 1 == steps:
                state.note(step + 1)
    return pd.DataFrame(state.rows)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: warm-up, flat, then a half cosine."""
    done = max(0.0, (step / steps - FLAT) / (1 - FLAT))
    return min(1.0, (step + 1) / WARM_UP) * (LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2)


def draw_layers_run(form: Form, n_layers: int, rng: np.random.Generator) -> list[bool]:
    """Layers that run; one that the form does not need may be skipped."""
    skipped = 1.0 if rng.random() < ALONE else SKIPPED
    return [layer in form.needs or rng.random() >= skipped for layer in range(n_layers)]


def round_to_bfloat16(model: Model) -> Model:
    """The model, for good, with weights in bfloat16."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model.requires_grad_(False).eval()


@dataclass(frozen=True)
class TrainingArguments:
    """Arguments of a training's command line."""

    seed: int
    steps: int
    out: Path
    items: int
    model: str = ""


def read_arguments(
    arguments: Sequence[str] | None, n_items: int, models: Sequence[str] = (), steps: int = STEPS
) -> TrainingArguments:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train an organism on the CPU, in minutes.")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--steps", type=int, default=steps, help="steps of the optimizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--items", type=int, default=n_items, help="items a suite it is tried on")
    if models:
        parser.add_argument("--model", choices=models, default=models[0], help="which of them")
    return TrainingArguments(**vars(parser.parse_args(arguments)))
