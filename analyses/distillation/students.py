"""The students of this study before distillation, and what they are taught and asked.

They were trained to look up, and never saw a question of two hops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analyses.organism_training.initialization import new_decoder
from analyses.organism_training.record import RECORD, accuracies, write
from analyses.organism_training.texts import Scene, Texts
from analyses.organism_training.train import train_decoder
from analyses.organism_training.training_forms import Form, lookup
from layerwise.models.organisms import ORGANISM
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.tasks import Task
from layerwise.tasks.suites.toy import toy_suites

# What the suites are called here.
SUITES = {"retrieval": "look-up", "reasoning": "two-hops"}


def undistilled_student(plan: Mapping[str, Any], seed: int, folder: Path) -> Path:
    """The folder of a student before distillation, trained if it is not there.

    Args:
        plan: a student of the configuration.
        seed: decides start, texts and skipped layers.
        folder: where to.
    """
    if not (folder / RECORD).exists():
        looks_up, depth = tuple(plan["look_up"]), plan["layers"]
        # Layers behind the look-up all begin prepared for another one, so that none is favoured.
        begun = new_decoder(ORGANISM, seed, depth, (*looks_up, *range(looks_up[-1] + 1, depth)))
        forms = [
            Form("retrieval", looks_up, {"answer": looks_up[-1]}, scenes, rows=8, n_asked=n_asked)
            for scenes, n_asked in ((lookup, 5), (first_links, 4))
        ]
        model, curve = train_decoder(begun, forms, seed, steps=plan["steps"])
        write(
            folder, model, curve, toy_tokenizer(ORGANISM),
            planted={"retrieval": looks_up},
            measure=student_accuracies, seed=seed, steps=plan["steps"],
        )  # fmt: skip
    return folder


def first_links(texts: Texts, most: int) -> Callable[[], Scene]:
    """Chains of which the first link alone is asked; two to four, as contexts grow."""
    return partial(texts.two_hop, min(4, max(2, most // 2)), 1.0)


def student_accuracies(folder: Path) -> list[dict[str, Any]]:
    """Accuracies of a student on 100 items of each suite of the language."""
    from layerwise.models import load_model

    return accuracies(load_model(folder), protocols=["generate"], n_items=100)


def suites(n_measured: int) -> list[Task]:
    """Look-ups and two hops as they are measured, which ask for what is kept from all training.

    Args:
        n_measured: items of each.
    """
    made = {capability: make for _, capability, make in toy_suites(ORGANISM)}
    return [
        replace(made[capability](n_items=n_measured), name=name)
        for capability, name in SUITES.items()
    ]


def write_texts(path: Path, plan: Mapping[str, Any], seed: int) -> Path:
    """Texts to distil on, drawn as the teachers' own; they never show what is kept for tests.

    Args:
        path: a ``.jsonl`` file, written anew.
        plan: how many texts of each suite, and how many questions a text.
        seed: decides the texts.
    """
    texts = Texts(ORGANISM, np.random.default_rng([seed, *b"distillation"]))
    scenes = {
        "look-up": lambda: texts.lookup(8),
        "two-hops": lambda: texts.two_hop(4, one_hop=plan["first_links"]),
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
