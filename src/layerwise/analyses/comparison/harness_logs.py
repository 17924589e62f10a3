"""Two logs of lm-evaluation-harness compared item by item: no model is loaded.

The harness itself compares two models as if their items were independent; these are the same.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.errors import UserError, count_noun, short_repr, unknown_name
from layerwise.ground.argument_types import ExpectedWords, Resamples, Seed
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import AnyPath
from layerwise.stats.families.estimate import equal_value_bounds
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.tasks._lines import bad_line, lines

# Of several metrics of a log, the first of these that it has.
METRICS = ("acc", "exact_match", "mc1", "acc_norm", "em", "f1")
_HASHES = ("doc_hash", "target_hash", "prompt_hash")
_MOST_CHANGED = 20
# A line holds the prompts of all options, each with its examples.
_MOST_BYTES = 2**24
# Sums of larger values have no end.
_LARGEST = 1e100
_LONGEST_METRIC, _MOST_METRICS = 40, 20


@dataclass(frozen=True, eq=False)
class LogComparison:
    """Two models on the same items of one task.

    Attributes:
        metric: what is compared.
        first: mean of the first log, over the shared items.
        second: of the second.
        difference: second minus first, with its 95 % interval (bootstrap over documents).
        p: exact McNemar test where the metric is right or wrong, else exact sign flips; items of
            the same document are flipped together.
        items: one row per shared item: ``doc_id``, ``target``, ``first``, ``second``,
            ``first_answer``, ``second_answer``.
        n_documents: how many different documents (``doc_hash``) the shared items have.
        other_prompts: shared items that were asked in other words.
        alone: items that only one log has.
        repeated: rows of each log that repeat a document with the same value; they count once.
    """

    metric: str
    first: float
    second: float
    difference: stats.Interval
    p: float
    items: pd.DataFrame
    n_documents: int
    other_prompts: int
    alone: tuple[int, int]
    repeated: tuple[int, int]

    def to_pandas(self) -> pd.DataFrame:
        """The items, one row each."""
        return self.items

    @property
    def changed_items(self) -> pd.DataFrame:
        """The items whose value differs."""
        return self.items.loc[self.items["first"] != self.items["second"]]

    def __str__(self) -> str:
        changes = (self.items["second"] - self.items["first"]).tolist()
        won, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
        is_share = bool(self.items[["first", "second"]].stack().between(0, 1).all())
        scale, unit, points = (100, " %", " points") if is_share else (1, "", "")
        low, high = scale * self.difference.low, scale * self.difference.high
        bounds = f"[{low:.1f}, {high:.1f}]" if math.isfinite(low) else "[no interval]"
        sentences = [
            f"{self.metric} on {count_noun(len(self.items), 'shared item')}: "
            f"{scale * self.first:.1f}{unit} and {scale * self.second:.1f}{unit}.",
            f"Difference (second minus first): {scale * self.difference.estimate:+.1f}{points} "
            f"{bounds}, p = {self.p:.3g} (paired by item).",
            f"The second is better on {count_noun(won, 'item')} and worse on {lost}.",
        ]
        if self.n_documents < len(self.items):
            documents = count_noun(self.n_documents, "document")
            sentences.append(f"They are of {documents}; items of one document are tested together.")
        if any(self.repeated):
            one, other = self.repeated
            sentences.append(
                f"{one} and {other} rows repeat a document of their log: counted once."
            )
        if self.other_prompts:
            sentences.append(
                f"{count_noun(self.other_prompts, 'item')} had another prompt in each log."
            )
        if any(self.alone):
            sentences.append(f"{self.alone[0]} and {self.alone[1]} items are in one log alone.")
        for row in self.changed_items.head(_MOST_CHANGED).to_dict("records"):
            sentences.append(
                f"  {short_repr(row['doc_id'])}: {row['first']:g} -> {row['second']:g}, target "
                f"{short_repr(row['target'])}: {short_repr(row['first_answer'])} -> "
                f"{short_repr(row['second_answer'])}"
            )
        return "\n".join(sentences)


def refuse_few_resamples(n_resamples: int) -> None:
    """Refuse a bootstrap whose percentiles would be chance."""
    if n_resamples < 100:
        raise UserError(
            f"{n_resamples} bootstrap samples are too few: expected 100 or more; leave it out."
        )


@check_arguments()
def compare_logs(
    first: AnyPath,
    second: AnyPath,
    metric: Annotated[str, ExpectedWords("a text", "'acc'")] | None = None,
    *,
    seed: Seed = 0,
    n_resamples: Resamples = 10_000,
) -> LogComparison:
    """Compare two logs that lm-evaluation-harness wrote with ``--log_samples``, paired by item.

    Args:
        first: ``samples_TASK_DATE.jsonl`` of one model.
        second: the same task's log of another model.
        metric: which of the log's metrics; accuracy or exact match if None.
        seed: seed of the bootstrap over documents, and of sign flips.
        n_resamples: number of bootstrap samples, for the interval.

    Returns:
        Both means, their difference with interval and p, and the items that changed.

    Raises:
        UserError: if a file is no such log, if rows of one document disagree, if the logs share
            no item or no metric.

    The test is McNemar's (1947, Psychometrika 12), exact; of metrics that are no 0 or 1, exact
    flips of signs. Items with the same ``doc_hash`` ask for the same thing: they are resampled
    and flipped together.
    """
    refuse_few_resamples(n_resamples)
    logs = [_by_filter(str(path)) for path in (first, second)]
    both = [name for name in logs[0] if name in logs[1]]
    if not both:
        raise UserError(
            f"The logs {Path(first).name} and {Path(second).name} share no filter: expected two "
            "models' logs of the same task; name those."
        )
    rows = [log[both[0]] for log in logs]
    name = _metric(metric, _metrics(rows[0]) & _metrics(rows[1]))
    one, other = (
        _items(str(path), of_log, name) for path, of_log in zip((first, second), rows, strict=True)
    )
    shared = [key for key in one if key in other]
    if not shared:
        raise UserError(
            f"The logs {Path(first).name} and {Path(second).name} share no item: expected two "
            "models' logs of the same task; name those."
        )
    pairs = [(one[key], other[key]) for key in shared]
    values = np.array([[float(row.values[name]) for row in pair] for pair in pairs])
    clusters = Clusters.from_labels([row.doc_hash for row, _ in pairs])
    items = pd.DataFrame({
        "doc_id": pd.Series([row.doc_id for row, _ in pairs], dtype=object),
        "target": [row.target for row, _ in pairs],
        "first": values[:, 0], "second": values[:, 1],
        "first_answer": [row.answer for row, _ in pairs],
        "second_answer": [row.answer for _, row in pairs],
    })  # fmt: skip
    return LogComparison(
        name, float(values[:, 0].mean()), float(values[:, 1].mean()),
        _difference(values, clusters, seed, n_resamples), _p(values, clusters, seed),
        items, clusters.n, sum(row.prompt_hash != its.prompt_hash for row, its in pairs),
        (len(one) - len(shared), len(other) - len(shared)),
        (len(rows[0]) - len(one), len(rows[1]) - len(other)),
    )  # fmt: skip


Values = Float[np.ndarray, "items 2"]


def _difference(values: Values, clusters: Clusters, seed: int, n: int) -> stats.Interval:
    """The mean of second minus first, with an interval over documents."""
    differences = values[:, 1:] - values[:, :1]
    mean = float(differences.mean())
    if clusters.n < 2:
        return stats.Interval(mean, math.nan, math.nan, 0.95)
    draws = clusters.resampled_means(differences, stats.resample_indices(clusters.n, n, seed))
    low, high = (float(end[0]) for end in stats.percentile_bounds(draws, 0.95))
    if low == high and values.min() >= 0 and values.max() <= 1:
        # items that are all alike leave room for unseen ones, whose change is at most 1
        ends = equal_value_bounds(np.array([mean]), np.array([clusters.n]), 1.0)
        low, high = (float(end[0]) for end in ends)
    return stats.Interval(mean, low, high, 0.95)


def _p(values: Values, clusters: Clusters, seed: int) -> float:
    """The test that both models are alike, with the items of a document flipped together."""
    lost = values[:, :1] - values[:, 1:]
    if set(np.unique(values)) <= {0.0, 1.0}:
        return float(paired_p_values(lost.astype(int), clusters)[0])
    return float(stats.sign_flip_p_values(clusters.sums(lost), seed=seed)[0])


class _Row(NamedTuple):
    """Content of a line of a log."""

    line: int
    doc_id: int | str
    doc_hash: str
    target_hash: str
    prompt_hash: str
    values: dict[str, int | float]
    target: str
    answer: str


def _by_filter(path: str) -> dict[str | None, list[_Row]]:
    """The rows of a log by their filter, in the order of the file."""
    rows: dict[str | None, list[_Row]] = {}
    for number, line in lines(path, _MOST_BYTES, "one item a line"):
        if line.strip():
            name, row = _read_line(path, number, line)
            rows.setdefault(name, []).append(row)
    if not rows:
        raise UserError(f"File {path!r} is empty: {_EXPECTED}.")
    return rows


def _read_line(path: str, number: int, line: str) -> tuple[str | None, _Row]:
    """The filter of a line, and its row, checked."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _no_log(path, number, "it is not JSON") from error
    if not isinstance(fields, dict):
        raise _no_log(path, number, "it is not a JSON object")
    doc_id, name = fields.get("doc_id"), fields.get("filter")
    if isinstance(doc_id, bool) or not isinstance(doc_id, int | str):
        raise _no_log(path, number, _wrong(fields, "doc_id", "no number or text"))
    for field in _HASHES:
        if not isinstance(fields.get(field), str):
            raise _no_log(path, number, _wrong(fields, field, "no text"))
    if not isinstance(name, str | None):
        raise _no_log(path, number, _wrong(fields, "filter", "no text"))
    values = {
        field: value for field, value in fields.items()
        if isinstance(value, int | float) and field != "doc_id" and len(field) <= _LONGEST_METRIC
    }  # fmt: skip
    target, answer = _text(fields.get("target", "")), _answer(fields.get("filtered_resps", ""))
    doc, asked, prompt = (fields[field] for field in _HASHES)
    return name, _Row(number, doc_id, doc, asked, prompt, values, target, answer)


_EXPECTED = "expected a file samples_TASK_DATE.jsonl that lm_eval wrote with --log_samples"


def _wrong(fields: dict[str, Any], field: str, what: str) -> str:
    given = f"is {short_repr(fields[field])}, {what}" if field in fields else "is missing"
    return f"field {field!r} {given}"


def _no_log(path: str, number: int, why: str) -> UserError:
    return bad_line(path, number, f"{why}; {_EXPECTED}")


def _metrics(rows: Sequence[_Row]) -> set[str]:
    return {name for row in rows for name in row.values}


def _metric(wanted: str | None, known: set[str]) -> str:
    listed = sorted(known)[:_MOST_METRICS]
    if wanted is not None and wanted not in known:
        raise unknown_name("metric of both logs", wanted, listed)
    name = wanted or next((name for name in METRICS if name in known), None)
    if name is None:
        raise UserError(
            f"The logs share no accuracy: expected a metric such as {METRICS[0]}, and both have "
            f"{', '.join(listed) or 'none'}; name one in Python, compare_logs(..., metric=...)."
        )
    return name


def _items(path: str, rows: Sequence[_Row], name: str) -> dict[tuple[str, str, int], _Row]:
    """The documents of a log, each once, by what was asked and how often that was before."""
    first: dict[int | str, _Row] = {}
    seen: Counter[tuple[str, str]] = Counter()
    items: dict[tuple[str, str, int], _Row] = {}
    for row in rows:
        value = row.values.get(name, math.nan)
        if not -_LARGEST < value < _LARGEST:
            given = short_repr(value) if name in row.values else "no number"
            raise bad_line(path, row.line, f"{name!r} is {given}; expected a finite number")
        asked = row.doc_hash, row.target_hash
        earlier = first.setdefault(row.doc_id, row)
        if earlier is row:
            items[*asked, seen[asked]] = row
            seen[asked] += 1
        else:
            _refuse_other_value(path, row, earlier, name)
    return items


def _refuse_other_value(path: str, row: _Row, earlier: _Row, name: str) -> None:
    """Refuse two rows of one document that disagree: nobody knows which is right."""
    what, before = f"document {short_repr(row.doc_id)}", f"line {earlier.line}"
    if (row.doc_hash, row.target_hash) != (earlier.doc_hash, earlier.target_hash):
        raise bad_line(
            path, row.line, f"{what} is another one than in {before}; expected the log of one task"
        )
    if row.values[name] != earlier.values[name]:
        raise bad_line(
            path, row.line,
            f"{what} has {name} {row.values[name]:g}, and {earlier.values[name]:g} in {before}; "
            "expected one row a document, so keep those of one run",
        )  # fmt: skip


def _text(value: object) -> str:
    """A value as text; only its type if Python cannot write it."""
    try:
        return str(value)
    except (ValueError, RecursionError):  # lists within lists
        return f"a {type(value).__name__}"


def _answer(given: Any) -> str:
    """Answer of the model, as the harness kept it; of options the place of the most likely one."""
    while isinstance(given, list) and len(given) == 1:
        (given,) = given
    try:  # a log-likelihood, and whether it is the greedy text, for each option
        logprobs = [float(logprob) for logprob, greedy in given if _text(greedy) in _TRUTHS]
    except (TypeError, ValueError, OverflowError):
        return _text(given)
    if len(logprobs) < len(given) or not logprobs:
        return _text(given)
    return str(logprobs.index(max(logprobs)))


_TRUTHS = ("True", "False")
