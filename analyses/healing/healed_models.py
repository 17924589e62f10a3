"""The models of this study: originals without some layers, and what they are taught and asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import layerwise as lw
from analyses.organism_training.texts import Texts
from layerwise.models.organisms import ORGANISM
from layerwise.results import DistillationResult
from layerwise.tasks import Task
from layerwise.tasks.suites.toy import toy_suites

# What the suites are called here.
SUITES = {
    "retrieval": "look-up", "knowledge": "facts", "reasoning": "two-hops", "coherence": "brackets",
}  # fmt: skip


def suites(n_measured: int) -> list[Task]:
    """The suites as they are measured, which ask for what is kept from all training.

    Args:
        n_measured: items of each.
    """
    made = {capability: make for _, capability, make in toy_suites(ORGANISM)}
    return [
        replace(made[capability](n_items=n_measured), name=name)
        for capability, name in SUITES.items()
    ]


def original_numbers(removed: Sequence[int], n_layers: int) -> list[int]:
    """By layer of a pruned model, its number in the original."""
    return [layer for layer in range(n_layers) if layer not in removed]


def prune_and_heal(
    original: str,
    removed: Sequence[int],
    tasks: Sequence[Task],
    config: Mapping[str, Any],
    texts: Path,
    seed: int,
    folder: Path,
) -> tuple[Path, DistillationResult]:
    """Write an original without some layers, and heal it; its embeddings stay.

    Args:
        original: its name.
        removed: the layers that are left out.
        tasks: what all three models are asked.
        config: the configuration.
        texts: what is healed on.
        seed: of what the training draws.
        folder: where to.

    Returns:
        The folder of the pruned model, and what healing brought.
    """
    pruned = folder / "pruned"
    lw.prune_model(lw.load_model(original), removed, pruned, tasks, "continuation", limit=8)
    n_left = config["n_layers"] - len(removed)
    result = lw.heal(
        pruned, tasks, config["measured"]["protocols"], out=folder / "model", text=texts, seed=seed,
        layers=range(n_left), **config["heal"],
    )  # fmt: skip
    return pruned, result


def write_texts(path: Path, plan: Mapping[str, Any], seed: int) -> Path:
    """Texts to heal on, drawn as the originals' own; they never show what is kept for tests.

    Args:
        path: a ``.jsonl`` file, written anew.
        plan: how many texts of each suite, and how many questions a text.
        seed: decides the texts.
    """
    texts = Texts(ORGANISM, np.random.default_rng([seed, *b"healing"]))
    scenes = {
        "look-up": lambda: texts.lookup(8),
        "two-hops": lambda: texts.two_hop(4, one_hop=plan["first_links"]),
        "facts": texts.facts,
        "brackets": lambda: texts.brackets(int(texts.rng.choice(plan["depths"]))),
    }
    drawn = [
        texts.question_text(scene(), plan["questions"])
        for name, scene in scenes.items()
        for _ in range(plan[name])
    ]
    rows = (json.dumps({"text": " ".join(one.words[1:])}) for one in drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path
