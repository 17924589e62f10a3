"""Trains an organism: ``python -m layerwise.models.organisms.train --seed 0 --out DIR``.

What is planted where is told in ``plan``, the start in ``beginning``; what is measured and
written at the end, in ``record``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from layerwise._progress import meter
from layerwise.models.organisms.beginning import new_organism
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.models.organisms.plan import FEWEST_PAIRS, FORMS, MOST_PAIRS, Form
from layerwise.models.organisms.texts import Stage, Text, Texts

STEPS = 1000
ALONE, SKIPPED = 0.5, 0.4
"""How often only the layers that a form needs run, and otherwise the share of others skipped."""
RATE, WARM_UP, FLAT, LAST = 1e-3, 50, 0.4, 0.02
_PASSED = 0.85  # of the look-ups that are right, before contexts grow
_AT_LEAST = 8  # steps between two growths
_MEMORY = 0.95  # of the running means, a step
TOLD_EVERY = 25


@dataclass
class Course:
    """How far a training has come.

    Attributes:
        most_pairs: pairs that contexts have at most.
        grown: the step at which they grew last.
        right: share of right predictions, a running mean for each capability and stage.
        rows: what the curve shows.
    """

    most_pairs: int = FEWEST_PAIRS
    grown: int = 0
    right: dict[tuple[str, Stage], float] = field(default_factory=dict)
    rows: list[dict[str, float | int | str]] = field(default_factory=list)

    def learned(self, step: int, form: Form, right: dict[Stage, float]) -> None:
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


Targets = dict[Stage, Int[torch.Tensor, "3 _"]]  # row, position, word


def train(
    seed: int, *, language: Language = ORGANISM, steps: int = STEPS, progress: bool = True
) -> tuple[Qwen2ForCausalLM, pd.DataFrame]:
    """Train an organism.

    Args:
        seed: decides start, texts and skipped layers.
        language: what it is to speak.
        steps: steps of the optimizer.
        progress: show a bar on a terminal.

    Returns:
        The model, its weights rounded to bfloat16, and the curve: for every ``TOLD_EVERY``
        steps, capability and stage the share of right predictions (``right``, a running mean).
    """
    model, rng = new_organism(language, seed), np.random.default_rng([seed, *b"organism"])
    texts, course = Texts(language, rng), Course()
    optimizer = torch.optim.AdamW(_groups(model), lr=RATE, betas=(0.9, 0.98))
    with meter(progress) as told:
        told.expect(float(steps))
        told.doing("training")
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * _schedule(step, steps)
            optimizer.zero_grad()
            for form in FORMS:
                tokens, targets = _batch(language, form.draw(texts, course.most_pairs))
                loss, right = _loss(model, form, tokens, targets, rng)
                loss.backward()
                course.learned(step, form, right)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            told.done(1.0)
            if (step + 1) % TOLD_EVERY == 0 or step + 1 == steps:
                course.note(step + 1)
    return _rounded(model), pd.DataFrame(course.rows)


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: warm-up, flat, then a half cosine."""
    done = max(0.0, (step / steps - FLAT) / (1 - FLAT))
    return min(1.0, (step + 1) / WARM_UP) * (LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2)


def _groups(model: Qwen2ForCausalLM) -> list[dict[str, object]]:
    """Only the matrices of the layers decay."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def _batch(
    language: Language, texts: Sequence[Text]
) -> tuple[Int[torch.Tensor, "rows pos"], Targets]:
    ids = {word: index for index, word in enumerate(language.words)}
    found: dict[Stage, list[tuple[int, int, int]]] = {}
    for row, text in enumerate(texts):
        for target in text.targets:
            found.setdefault(target.stage, []).append((row, target.place, ids[target.word]))
    tokens = torch.tensor([[ids[word] for word in text.words] for text in texts])
    return tokens, {stage: torch.tensor(rows).T for stage, rows in found.items()}


def _loss(
    model: Qwen2ForCausalLM,
    form: Form,
    tokens: Int[torch.Tensor, "rows pos"],
    targets: Targets,
    rng: np.random.Generator,
) -> tuple[Float[torch.Tensor, ""], dict[Stage, float]]:
    """Cross-entropy after the layers where a form is read, and at the end; what is right there."""
    losses: list[torch.Tensor] = []
    right: dict[Stage, float] = {}

    def read(resid: Float[torch.Tensor, "rows pos d_model"], stage: Stage) -> None:
        row, place, word = targets[stage]
        logits = model.lm_head(model.model.norm(resid[row, place]))
        losses.append(F.cross_entropy(logits, word))
        right[stage] = (logits.argmax(-1) == word).float().mean().item()

    for layer, resid in _through(model, form, tokens, rng):
        for stage, depth in form.reads.items():
            # The middle of a chain is not what is said in the end.
            last = layer == len(model.model.layers) - 1 and stage != "middle"
            if stage in targets and (layer == depth or last):
                read(resid, stage)
    return torch.stack(losses).sum(), right


def _through(
    model: Qwen2ForCausalLM,
    form: Form,
    tokens: Int[torch.Tensor, "rows pos"],
    rng: np.random.Generator,
) -> Iterator[tuple[int, Float[torch.Tensor, "rows pos d_model"]]]:
    """The residual stream after each layer; one that the form does not need may be skipped."""
    resid = model.model.embed_tokens(tokens)
    turns = model.model.rotary_emb(resid, torch.arange(tokens.shape[1])[None])
    skipped = 1.0 if rng.random() < ALONE else SKIPPED
    for index, layer in enumerate(model.model.layers):
        if index in form.needs or rng.random() >= skipped:
            resid = layer(resid, position_embeddings=turns)
        yield index, resid


def _rounded(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model.requires_grad_(False).eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from layerwise.models.organisms.record import N_ITEMS, write

    parser = argparse.ArgumentParser(description="Train an organism on the CPU, in minutes.")
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--items", type=int, default=N_ITEMS, help="items a suite it is tried on")
    given = parser.parse_args(arguments)
    model, curve = train(given.seed, steps=given.steps)
    write(given.out, model, curve, seed=given.seed, steps=given.steps, n_items=given.items)


if __name__ == "__main__":
    main()
