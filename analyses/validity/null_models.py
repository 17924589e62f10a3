"""Rates at which a layer is said to matter in models in which none does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from transformer_lens import HookedTransformer, HookedTransformerConfig

import layerwise as lw
from layerwise import stats
from layerwise.analyses.ablation.claims.findings import SILENT
from layerwise.models.organisms.language import WIRED
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.organisms.wired import wired_model
from layerwise.report.html import findings
from layerwise.stats.effects import effects_table
from layerwise.storage.parquet import frame
from layerwise.tasks import Task, load_task

N_MODELS, N_ITEMS = 200, 40
# Of the redrawn records: more items, since exact tests of few hardly ever reject.
N_RECORDED, N_LAYERS, CHANCE = 100, 12, 0.25
RANDOM = "random weights"
SHUFFLED = "shuffled answers"
REDRAWN = "signal, answers redrawn under every change"


def measure(n_models: int = N_MODELS) -> pd.DataFrame:
    """One row per model and case: ``case``, ``model``, ``accuracy``, ``signal``, ``significant``.

    ``significant`` is the number of layers that are said to matter, of one family of layers;
    ``silent`` whether the summary of a report says *no signal* and nothing else (of redrawn
    records there is no report).
    """
    rows = []
    for number in range(n_models):
        for case, make in ((RANDOM, random_weights), (SHUFFLED, shuffled_answers)):
            result = make(number)
            silent = {finding.kind for finding in findings([result])} == {SILENT}
            rows.append(
                {"case": case, "model": number, **_run_outcome(result.effects()), "silent": silent}
            )
        rows.append(
            {"case": REDRAWN, "model": number, **_run_outcome(redrawn(number)), "silent": None}
        )
    return pd.DataFrame(rows)


def false_claim_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The family-wise rate of false claims, by case, with its exact 95 % interval."""
    rows = []
    for case, group in table.groupby("case", sort=False):
        false = int((group["significant"] > 0).sum())
        found = stats.exact_interval(false, len(group))
        counts = {"models": len(group), "signal": int(group["signal"].sum()), "false": false}
        counts["silent"] = int(group["silent"].eq(True).sum())
        rate = {"rate": found.estimate, "low": found.low, "high": found.high}
        rows.append({"case": case, **counts, **rate})
    return pd.DataFrame(rows)


def _run_outcome(effects: pd.DataFrame) -> dict[str, float | bool | int]:
    return {
        "accuracy": float(effects["acc_intact"].iloc[0]),
        "signal": bool(effects["signal"].iloc[0]),
        "significant": int(effects["significant"].sum()),
    }


def random_weights(seed: int, n_items: int = N_ITEMS) -> lw.AblationResult:
    """A randomly initialised model that is asked the look-up suite."""
    task = load_task("wired-lookup", seed=seed, limit=n_items)
    return lw.ablate(untrained_model(seed), task, "continuation", progress=False)


def shuffled_answers(seed: int, n_items: int = N_ITEMS) -> lw.AblationResult:
    """A model that solves the suite, with one of the choices, drawn at random, as the answer."""
    task = load_task("wired-lookup", seed=seed, limit=n_items)
    return lw.ablate(_solver(), shuffle_answers(task, seed), "continuation", progress=False)


def redrawn(seed: int, n_items: int = N_RECORDED) -> pd.DataFrame:
    """Records of a model with signal, whose changed runs are as good as the intact one.

    Each item has a difficulty of its own, and is answered anew, right with that chance, by the
    intact model and under every change. So accuracies differ by luck alone.
    """
    rng = np.random.default_rng([seed, *b"redrawn"])
    chance_right = rng.beta(4, rng.uniform(1, 3), size=(n_items, 1))
    right = rng.random((n_items, N_LAYERS + 1)) < chance_right
    rows = [
        _record(item, layer, bool(right[item, layer + 1]))
        for item in range(n_items)
        for layer in range(-1, N_LAYERS)
    ]
    return effects_table(frame("records", rows), lambda task, protocol: CHANCE, seed)


def shuffle_answers(task: Task, seed: int) -> Task:
    """The same questions, each with one of its choices, drawn at random, as the answer."""
    rng = np.random.default_rng([seed, *b"shuffled"])
    drawn = [item.choices[int(rng.integers(len(item.choices)))] for item in task.items]
    items = [replace(i, answer=one) for i, one in zip(task.items, drawn, strict=True)]
    return replace(task, items=tuple(items))


def _record(item: int, layer: int, correct: bool) -> dict[str, object]:
    intact = {"intervention": "intact", "kind": "intact"}
    skip = {"intervention": f"skip:layer={layer}", "kind": "skip", "site": "layer", "layer": layer}
    return (intact if layer < 0 else skip) | {
        "task": "redrawn",
        "capability": "retrieval",
        "item": f"redrawn/{item:04d}",
        "protocol": "continuation",
        "correct": correct,
    }


def untrained_model(seed: int) -> HookedTransformer:
    """A randomly initialised decoder of six layers, which speaks the wired models' language."""
    tokenizer = toy_tokenizer(WIRED)
    config = HookedTransformerConfig(
        n_layers=6, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_mlp=64, d_vocab=len(tokenizer),
        act_fn="gelu", normalization_type="RMS", positional_embedding_type="standard",
        initializer_range=0.3, device="cpu", seed=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(config).eval()
    model.tokenizer = tokenizer
    return model


@cache
def _solver() -> HookedTransformer:
    return wired_model()
