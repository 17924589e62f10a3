"""Make the saved results of this study again: ``python analyses/induction_heads/run.py``.

An interrupted run goes on where it stopped; all choices are in ``config.toml``.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import layerwise as lw
from layerwise import stats
from layerwise.tasks.items import Corruption, Item

HERE = Path(__file__).parent
ALPHA = 0.05
HEAD = ["layer", "head"]


def swap_next_word(item: Item) -> Item:
    """The item, corrupted: in the list the word that is to come next changes places with the last.

    Both prompts have the same words, and so the same number of tokens.
    """
    words = item.context.split()
    shown = len(item.question.split())
    words[shown], words[-1] = words[-1], words[shown]
    change = Corruption(item.question, " ".join(words[shown:]), " ".join(words))
    return replace(item, corruption=change)


def patch_heads(model: Any, task: lw.Task, config: dict[str, Any], out: Path) -> pd.DataFrame:
    """Heads whose output at the last position brings the next word of the list back."""
    found = lw.patch_activations(
        model, task, sites="z", positions="last", pairs=config["pairs"], seed=config["seed"],
        out=out,
    )  # fmt: skip
    effects = found.derived_tables()["patching_effects"]
    mine = effects[effects["metric"] == "logit difference"]
    pointed = mine["significant"] & (mine["change"] > 0)
    return mine[HEAD].assign(effect=mine["change"], pointed=pointed)


def attribution(model: Any, task: lw.Task, config: dict[str, Any], out: Path) -> pd.DataFrame:
    """Heads that add to the next word's logit directly."""
    found = lw.attribution(model, task, "continuation", seed=config["seed"], out=out)
    summary = found.summary()
    mine = summary[(summary["component"] == "z") & (summary["metric"] == "logit_diff")]
    pointed = mine["significant"] & (mine["value"] > 0)
    return mine[HEAD].assign(effect=mine["value"], pointed=pointed)


def ablation(model: Any, task: lw.Task, config: dict[str, Any], out: Path) -> pd.DataFrame:
    """Heads without which the list's log-probability falls."""
    found = lw.ablate(
        model, task, "continuation", kind=config["ablation"], site="z", seed=config["seed"],
        out=out,
    )  # fmt: skip
    records = found.records
    intact = records[records["kind"] == "intact"].set_index("item")["gold_logprob"]
    changed = records[records["site"] == "z"]
    wide = changed.pivot(index="item", columns=HEAD, values="gold_logprob")
    lost = -wide.sub(intact, axis=0).to_numpy(dtype=float)
    p = stats.benjamini_hochberg(stats.mean_p_values(lost))
    table = wide.columns.to_frame(index=False).assign(effect=lost.mean(axis=0))
    signal = bool(found.signal()["signal"].all())
    return table.assign(pointed=signal & (p < ALPHA) & (table["effect"] > 0))


METHODS = {"patching": patch_heads, "attribution": attribution, "ablation": ablation}


def agreement(name: str, pointed: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Precision and recall of what a method points to, against the list of induction heads.

    ``average_precision`` needs no cut of the method: the mean, over the list, of the precision
    among all heads with at least that head's effect.
    """
    both = scores.merge(pointed, on=HEAD, validate="1:1")
    assert len(both) == len(scores), f"{name} lacks heads"
    listed, chosen = (both[c].to_numpy(dtype=bool) for c in ("induction_head", "pointed"))
    hits = int((listed & chosen).sum())
    precision, recall = (stats.exact_interval(hits, int(n.sum())) for n in (chosen, listed))
    order = np.argsort(-both["effect"].to_numpy(dtype=float), kind="stable")
    ranked = listed[order]
    at = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return {
        "method": name, "listed": int(listed.sum()), "pointed_to": int(chosen.sum()),
        "both": hits, "precision": precision.estimate, "precision_low": precision.low,
        "precision_high": precision.high, "recall": recall.estimate, "recall_low": recall.low,
        "recall_high": recall.high, "average_precision": float(at[ranked].mean()),
        "by_chance": float(listed.mean()),
    }  # fmt: skip


def main() -> None:
    """Score heads, ask each method, and compare."""
    config = tomllib.loads((HERE / "config.toml").read_text())
    model, results = lw.load_model(config["model"]), HERE / "results"
    scored = lw.head_scores(model, **config["scores"], seed=config["seed"], out=results / "heads")
    scored.plot().savefig(results / "head_scores.png", dpi=200)
    task = lw.load_task("repetition", seed=config["seed"], limit=config["items"])
    task = replace(task, items=tuple(swap_next_word(item) for item in task.items))
    rows, heads = [], scored.summary()
    for name in config["methods"]:
        pointed = METHODS[name](model, task, config, results / name)
        rows.append(agreement(name, pointed, heads))
        heads = heads.merge(pointed.add_prefix(f"{name}_").rename(
            columns={f"{name}_{key}": key for key in HEAD}), on=HEAD)  # fmt: skip
    heads.to_parquet(results / "heads_by_method.parquet", index=False)
    table = pd.DataFrame(rows)
    table.to_parquet(results / "agreement.parquet", index=False)
    listed = [f"{layer}.{head}" for layer, head in scored.induction_heads()]
    print(f"Induction heads: {', '.join(listed)}\n{table.T.to_string()}")
    chosen = [f"{name}_pointed" for name in config["methods"]]
    told = heads[heads[["induction_head", *chosen]].any(axis=1)]
    shown = [f"{name}_{what}" for name in config["methods"] for what in ("effect", "pointed")]
    print(told[[*HEAD, "prefix_matching", "induction_head", *shown]].round(2).to_string())


if __name__ == "__main__":
    main()
