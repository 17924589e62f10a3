"""Made-up facts and tables whose answer is known, for tests of statistics and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise.results import (
    AblationResult,
    AttributionResult,
    Facts,
    LensResult,
    ModelFacts,
    PatchingResult,
    TaskFacts,
)
from layerwise.storage.file_list import file_hashes, with_list
from layerwise.storage.parquet import frame
from layerwise.storage.written import written_files


def list_anew(folder: Path, **changes: Any) -> None:
    """Write ``run.json`` with changed facts, and the hashes of the folder's files as they are."""
    path = folder / "run.json"
    content = json.loads(path.read_text()) | changes
    path.write_bytes(with_list(content, path.name, file_hashes(folder, written_files(folder))))


MODEL = ModelFacts(
    name="made-up", hash="ab" * 32, source="tests", n_layers=8, n_heads=2, d_model=16, d_vocab=50,
    n_ctx=64, n_parameters=1000, dtype="float32", device="cpu", parity=None, attention="full",
)  # fmt: skip


def task_facts(name: str, capability: str, chance: float = 0.25, n_items: int = 1) -> TaskFacts:
    return TaskFacts(
        name=name, capability=capability, description=f"What {name} asks.", hash=f"hash of {name}",
        n_items=n_items, n_fewshot=3, source="tests",
        chance={"letter": chance, "continuation": chance, "generate": 0.0},
    )  # fmt: skip


def facts(*tasks: TaskFacts, n_layers: int = 8, **changes: Any) -> Facts:
    given = {
        "model": MODEL.model_copy(update={"n_layers": n_layers}),
        "tasks": tasks,
        "protocols": ("letter",),
        "seed": 0,
        "settings": {"limit": None, "sites": ["layer"]},
        "versions": {"python": "3.11"},
        "work": ({"block passes": 12, "seconds": 0.5},),
    }
    return Facts(**(given | changes))


def cell_records(
    right: np.ndarray,
    task: str,
    capability: str,
    protocol: str = "letter",
    no_layers: np.ndarray | None = None,
) -> pd.DataFrame:
    """Records of one task: ``right`` has a row per item; intact first, then layer by layer.

    ``no_layers`` says what is right with all of them skipped, if that was asked.
    """
    if no_layers is not None:
        every = cell_records(right, task, capability, protocol)
        floor = every.loc[every["intervention"] == "intact"].assign(
            intervention="no layers", kind="no layers", correct=no_layers
        )
        return pd.concat([every, floor], ignore_index=True)
    n_columns = right.shape[1]
    item, column = (a.ravel() for a in np.indices(right.shape))
    names = np.array(["intact", *(f"skip:layer={k}" for k in range(n_columns - 1))])
    table = pd.DataFrame(
        {
            "intervention": names[column],
            "kind": np.where(column == 0, "intact", "skip"),
            "site": pd.Series(np.where(column == 0, None, "layer")),
            "layer": pd.array(column - 1, dtype="Int64"),
            "task": task,
            "capability": capability,
            "item": np.char.add(f"{task}/", np.char.zfill(item.astype(str), 4)),
            "protocol": protocol,
            "correct": right.ravel(),
            "correct_norm": right.ravel(),
            "gold_logprob": np.where(right.ravel(), -0.5, -1.5) - 0.01 * (item % 7),
            "margin": np.where(right.ravel(), 1.0, -1.0),
            "early_logprob": np.nan,
            "late_logprob": np.nan,
            "generated": pd.Series([None] * right.size, dtype="str"),
            "extracted": pd.Series([None] * right.size, dtype="str"),
            "head": pd.array([None] * right.size, dtype="Int64"),
            "layers": pd.Series([[k - 1] if k else [] for k in column.tolist()]),
            "heads": pd.Series([None] * right.size, dtype=object),
            "chosen": pd.array([None] * right.size, dtype="Int64"),
            "correct_first": pd.array([None] * right.size, dtype="boolean"),
            "correct_forced": pd.array([None] * right.size, dtype="boolean"),
        }
    )
    table.loc[table["layer"] < 0, "layer"] = pd.NA
    if protocol == "generate":
        table[["gold_logprob", "margin"]] = np.nan
        table["correct_norm"] = pd.NA
        table["generated"] = "some text"
    return table


def planted_answers(
    rng: np.random.Generator,
    n_items: int = 100,
    n_layers: int = 8,
    critical: tuple[int, ...] = (),
    accuracy: float = 1.0,
    noise: float = 0.0,
    chance: float = 0.25,
) -> np.ndarray:
    """Right or wrong: intact, then each layer skipped; ``critical`` layers take it to chance.

    ``noise`` is the share of items answered anew, in every column, with the same accuracy.
    """
    base = rng.random(n_items) < accuracy
    right = np.repeat(base[:, None], n_layers + 1, axis=1)
    again = rng.random(right.shape) < noise
    right = np.where(again, rng.random(right.shape) < accuracy, right)
    for layer in critical:
        right[:, layer + 1] = rng.random(n_items) < chance
    return right


def ablation(*cells: pd.DataFrame, **changes: Any) -> AblationResult:
    records = pd.concat(cells, ignore_index=True)
    n_layers = int(records["layer"].max()) + 1
    listed = records.groupby(["task", "capability"])["item"].nunique()
    tasks = [task_facts(t, c, n_items=int(n)) for (t, c), n in listed.items()]
    protocols = tuple(records["protocol"].unique())
    given = facts(*tasks, **({"n_layers": n_layers, "protocols": protocols} | changes))
    return AblationResult(records, given)


def small_ablation() -> AblationResult:
    """Layer 3 retrieves; reasoning has no signal."""
    rng = np.random.default_rng(0)
    right = planted_answers(rng, 60, 8, critical=(3,), accuracy=0.9, noise=0.1)
    none = planted_answers(rng, 60, 8, accuracy=0.2, noise=0.3)
    return ablation(
        cell_records(right, "keys", "retrieval"),
        cell_records(right, "keys", "retrieval", "generate"),
        cell_records(none, "sums", "reasoning"),
    )


def lens(
    logprobs: np.ndarray, task: str, capability: str, protocol: str = "letter",
    chance: float = 0.25, **changes: Any,
) -> LensResult:  # fmt: skip
    """``logprobs`` has a row per item and a column per layer, the embedding first.

    From -1 nats on the answer is on top.
    """
    rows = [
        {
            "task": task, "capability": capability, "item": f"{task}/{i:04d}", "layer": k - 1,
            "protocol": protocol, "lens": "logit", "over": "prompt", "site": "resid_post",
            "pos": -1, "token": f" {'abcd'[i % 4]}", "rank": int(max(0, -round(value) - 1)),
            "final_rank": int(max(0, -round(value) - 1)), "logprob": float(value),
            "entropy": 1.0, "kl": 0.1, "top_tokens": [" a", "<b>"],
        }
        for i, values in enumerate(logprobs)
        for k, value in enumerate(values)
    ]  # fmt: skip
    n_items, n_columns = logprobs.shape
    given = {"n_layers": n_columns - 1} | changes
    asked = task_facts(task, capability, chance, n_items)
    return LensResult(frame("lens", rows), facts(asked, **given))


def patching_result(
    recovered: np.ndarray, task: str, capability: str, label: str = "last", **changes: Any
) -> PatchingResult:
    """``recovered`` has a row per item and a column per layer, of ``resid_pre``."""
    rows = [
        {
            "task": task, "capability": capability, "item": f"{task}/{i:04d}", "layer": k,
            "protocol": "continuation", "direction": "denoising", "site": "resid_pre", "pos": 9,
            "source_pos": 9, "pos_label": label,
            "clean_diff": 2.0 + 0.1 * (i % 3), "corrupted_diff": -2.0 + 0.1 * (i % 3),
            "patched_diff": -2.0 + 0.1 * (i % 3) + 4.0 * float(value), "recovered": float(value),
        }
        for i, values in enumerate(recovered)
        for k, value in enumerate(values)
    ]  # fmt: skip
    n_items, n_columns = recovered.shape
    given = {"n_layers": n_columns, "protocols": ("continuation",)} | changes
    asked = task_facts(task, capability, n_items=n_items)
    return PatchingResult(frame("patching", rows), facts(asked, **given))


def attribution(
    added: np.ndarray, task: str, capability: str, protocol: str = "letter", **changes: Any
) -> AttributionResult:
    """``added`` has a row per item and a column per layer, the embedding first, in nats."""
    rows = [
        {
            "task": task, "capability": capability, "item": f"{task}/{i:04d}",
            "protocol": protocol, "metric": metric, "component": component,
            "layer": None if component == "embedding" else k - 1,
            "value": float(value) * share * size, "correct": True, "chance": 0.25,
        }
        for metric, size in (("logit_diff", 1), ("logprob", -1))
        for i, values in enumerate(added)
        for k, value in enumerate(values)
        for component, share in ([("attn_out", 0.25), ("mlp_out", 0.75)] if k else
                                 [("embedding", 1)])
    ]  # fmt: skip
    given = {"n_layers": added.shape[1] - 1} | changes
    asked = task_facts(task, capability, n_items=len(added))
    return AttributionResult(frame("attribution", rows), facts(asked, **given))
