"""A trained organism as a folder in hub format, with how it was made and how good it is.

Accuracies are those of the delivered weights on items that are kept from training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from layerwise.models.files.cache import file_sha256, restore_permissions
from layerwise.models.instance.kinds import Model
from layerwise.models.libraries.quiet import quiet
from layerwise.models.organisms.language import ORGANISM, Language
from layerwise.runs.setup import prepare
from layerwise.stats import exact_interval
from layerwise.storage.provenance import installed_versions
from layerwise.sweep import intact
from layerwise.tasks import PROTOCOLS, Task, score
from layerwise.tasks.suites.toy import toy_suites

from .training_loop import read_arguments

ITEMS_SEED, N_ITEMS = 1000, 400
RECORD, CURVE = "training.json", "curve.csv"


def write(
    folder: Path,
    model: PreTrainedModel,
    curve: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    *,
    planted: Mapping[str, Any],
    measure: Callable[[Path], list[dict[str, Any]]],
    seed: int,
    steps: int,
    language: Language = ORGANISM,
) -> None:
    """Write model, tokenizer, curve and record."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    restore_permissions(folder)
    curve.to_csv(folder / CURVE, index=False, lineterminator="\n")
    record = {
        "seed": seed,
        "steps": steps,
        "language": asdict(language),
        "planted_layers": planted,
        "weights_sha256": file_sha256(folder / "model.safetensors"),
        "versions": installed_versions(),
        "accuracy": measure(folder),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def deliver(
    arguments: Sequence[str] | None,
    train: Callable[..., tuple[PreTrainedModel, pd.DataFrame]],
    tokenizer: PreTrainedTokenizerFast,
    planted: Mapping[str, Sequence[int]],
    measure: Callable[[Path, int], list[dict[str, Any]]],
) -> None:
    """The command line of a training: train an organism and write it."""
    options = read_arguments(arguments, N_ITEMS)
    model, curve = train(options.seed, steps=options.steps)
    write(
        options.out, model, curve, tokenizer, planted=planted,
        measure=lambda folder: measure(folder, options.items),
        seed=options.seed, steps=options.steps,
    )  # fmt: skip


def accuracies(
    model: Model,
    language: Language = ORGANISM,
    *,
    protocols: Sequence[str] = PROTOCOLS,
    n_items: int = N_ITEMS,
) -> list[dict[str, Any]]:
    """Accuracy on items that are kept from training, with exact 95 % intervals."""
    tasks = [make(ITEMS_SEED, n_items=n_items) for _, _, make in toy_suites(language)]
    setup, rows = prepare(model, tasks, protocols), []
    for task in setup.tasks:
        for protocol in setup.protocols:
            requests = [setup.requests(task, item, protocol) for item in task.items]
            swept = setup.sweep(
                [intact()], [request.request for each in requests for request in each]
            )
            outcomes = iter(swept.outcomes[0])
            right = sum(
                score(task, item, protocol, each, [next(outcomes) for _ in each]).correct
                for item, each in zip(task.items, requests, strict=True)
            )
            rows.append(accuracy_row(task, protocol, right))
    return rows


def accuracy_row(task: Task, protocol: str, right: int) -> dict[str, Any]:
    """Number of right items of a task, as a row of the record."""
    share = exact_interval(right, len(task.items))
    return {
        "task": task.name,
        "protocol": protocol,
        "n_items": len(task.items),
        "accuracy": share.estimate,
        "low": round(share.low, 4),
        "high": round(share.high, 4),
    }
