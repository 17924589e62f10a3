"""Two logs of lm-evaluation-harness compared item by item: no model is loaded.

The harness itself compares two models as if their items were independent; these are the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.errors import UserError, counted, shown, unknown_name
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import text

# Of several metrics of a log, the first of these that it has.
METRICS = ("acc", "exact_match", "mc1", "acc_norm", "em", "f1")
_NEEDED = ("doc_id", "doc_hash", "target_hash", "prompt_hash")
_MOST_CHANGED = 20


@dataclass(frozen=True, eq=False)
class LogComparison:
    """Two models on the same items of one task.

    Attributes:
        metric: what is compared.
        first: mean of the first log, over the shared items.
        second: of the second.
        difference: second minus first, with its 95 % interval (bootstrap over items).
        p: exact McNemar test where the metric is right or wrong, else exact sign flips of items.
        items: one row per shared item: ``doc_id``, ``target``, ``first``, ``second``,
            ``first_answer``, ``second_answer``.
        other_prompts: shared items that were asked in other words.
        alone: items that only one log has.
    """

    metric: str
    first: float
    second: float
    difference: stats.Interval
    p: float
    items: pd.DataFrame
    other_prompts: int
    alone: tuple[int, int]

    def to_pandas(self) -> pd.DataFrame:
        """The items, one row each."""
        return self.items

    @property
    def changed(self) -> pd.DataFrame:
        """The items whose value differs."""
        return self.items.loc[self.items["first"] != self.items["second"]]

    def __str__(self) -> str:
        changes = (self.items["second"] - self.items["first"]).tolist()
        won, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
        low, high = 100 * self.difference.low, 100 * self.difference.high
        lines = [
            f"{self.metric} on {counted(len(self.items), 'shared item')}: "
            f"{100 * self.first:.1f} % and {100 * self.second:.1f} %.",
            f"Difference (second minus first): {100 * self.difference.estimate:+.1f} points "
            f"[{low:.1f}, {high:.1f}], p = {self.p:.3g} (paired by item).",
            f"The second is better on {counted(won, 'item')} and worse on {lost}.",
        ]
        if self.other_prompts:
            lines.append(f"{counted(self.other_prompts, 'item')} had another prompt in each log.")
        if any(self.alone):
            lines.append(f"{self.alone[0]} and {self.alone[1]} items are in one log alone.")
        for row in self.changed.head(_MOST_CHANGED).to_dict("records"):
            lines.append(
                f"  {row['doc_id']}: {row['first']:g} -> {row['second']:g}, target "
                f"{shown(row['target'])}: {shown(row['first_answer'])} -> "
                f"{shown(row['second_answer'])}"
            )
        return "\n".join(lines)


@check_arguments(metric=text("acc"))
def compare_logs(first: str | Path, second: str | Path, metric: str | None = None) -> LogComparison:
    """Compare two logs that lm-evaluation-harness wrote with ``--log_samples``, paired by item.

    Args:
        first: ``samples_TASK_DATE.jsonl`` of one model.
        second: the same task's log of another model.
        metric: which of the log's metrics; accuracy or exact match if None.

    Returns:
        Both means, their difference with interval and p, and the items that changed.

    Raises:
        UserError: if a file is no such log, if the logs share no item or no metric.

    The test is McNemar's (1947, Psychometrika 12), exact; of metrics that are no 0 or 1, exact
    flips of signs.
    """
    logs = [_read(Path(path)) for path in (first, second)]
    # numbers that all items of both have
    measured = [
        {name for name, value in row.items() if isinstance(value, int | float)}
        for log in logs for row in log.values()
    ]  # fmt: skip
    name = _metric(metric, set.intersection(*measured) - {"doc_id"})
    shared = [key for key in logs[0] if key in logs[1]]
    if not shared:
        raise UserError(
            f"The logs {Path(first).name} and {Path(second).name} share no item: expected two "
            "models' logs of the same task; name those."
        )
    pairs = [(logs[0][key], logs[1][key]) for key in shared]
    values = np.array([[float(first[name]), float(other[name])] for first, other in pairs])
    differences = values[:, 1] - values[:, 0]
    if set(np.unique(values)) <= {0.0, 1.0}:
        p = stats.mcnemar_exact(int((differences < 0).sum()), int((differences > 0).sum()))
    else:
        p = float(stats.sign_flip_p_values(differences[:, None], seed=0)[0])
    items = pd.DataFrame({
        "doc_id": [row["doc_id"] for row, _ in pairs],
        "target": [str(row.get("target", "")) for row, _ in pairs],
        "first": values[:, 0], "second": values[:, 1],
        "first_answer": [_answer(row) for row, _ in pairs],
        "second_answer": [_answer(other) for _, other in pairs],
    })  # fmt: skip
    return LogComparison(
        name, float(values[:, 0].mean()), float(values[:, 1].mean()),
        stats.paired_bootstrap(differences, seed=0, n_resamples=10_000), p, items,
        sum(first["prompt_hash"] != other["prompt_hash"] for first, other in pairs),
        (len(logs[0]) - len(shared), len(logs[1]) - len(shared)),
    )  # fmt: skip


def _read(path: Path) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """The items of a log, by what was asked; of several filters the first."""
    try:
        lines = path.read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise _no_log(path, "cannot be read") from error
    if not rows or not all(isinstance(row, dict) and row.keys() >= set(_NEEDED) for row in rows):
        raise _no_log(path, f"has items without {', '.join(_NEEDED)}")
    kept = [row for row in rows if row.get("filter") == rows[0].get("filter")]
    seen: Counter[tuple[Any, ...]] = Counter()
    items: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in kept:
        key = row["doc_hash"], row["target_hash"]
        items[*key, seen[key]] = row  # the same question may stand there twice
        seen[key] += 1
    return items


def _no_log(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} {why}: expected a file samples_TASK_DATE.jsonl that lm_eval wrote; run lm_eval "
        "with --log_samples."
    )


def _metric(wanted: str | None, known: set[str]) -> str:
    if wanted is not None and wanted not in known:
        raise unknown_name("metric of both logs", wanted, sorted(known))
    name = wanted or next((name for name in METRICS if name in known), None)
    if name is None:
        raise UserError(
            f"The logs share no accuracy: expected a metric such as {METRICS[0]}, and both have "
            f"{', '.join(sorted(known)) or 'none'}; name one with metric."
        )
    return name


def _answer(row: Mapping[str, Any]) -> str:
    """What the model gave, as the harness kept it; of options the place of the most likely one."""
    given = row.get("filtered_resps", "")
    while isinstance(given, list) and len(given) == 1:
        (given,) = given
    try:  # a log-likelihood, and whether it is the greedy text, for each option
        logprobs = [float(logprob) for logprob, greedy in given if str(greedy) in ("True", "False")]
    except (TypeError, ValueError):
        return str(given)
    if len(logprobs) < len(given) or not logprobs:
        return str(given)
    return str(logprobs.index(max(logprobs)))
