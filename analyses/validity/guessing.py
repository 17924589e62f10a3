"""Claims of each method on models in which there is nothing to find; ablation in ``null_models``.

A claim is a significant cell, a depth stated, or a sentence of the report's summary other than
*no signal*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import null_models
import numpy as np
import pandas as pd
from transformer_lens import HookedTransformer

import layerwise as lw
from layerwise import stats
from layerwise.analyses.ablation.claims.findings import SILENT
from layerwise.analyses.emergence.api import CRITICAL
from layerwise.analyses.measurements import with_curves
from layerwise.analyses.similarity.analysis import SIMILARITY
from layerwise.analyses.similarity.result import prediction_table
from layerwise.models.organisms.wired import wired_model
from layerwise.report.html import findings
from layerwise.results import Result
from layerwise.stats.effects import ALPHA
from layerwise.tasks import Task, load_task

READ = "continuation"
MODELS = {null_models.RANDOM: range(100), null_models.SHUFFLED: range(40)}
COUNTS = ("pairs_solved", "pairs_reversed")
PATCHED, PATHS = "activation patching", "path patching"
EMERGENCE = "emergence of all these"


def measure(models: Mapping[str, Iterable[int]] = MODELS) -> pd.DataFrame:
    """One row per case, model and method.

    Args:
        models: by case, the seeds of its models.

    Returns:
        ``case``, ``model``, ``method``, ``claims`` (their number); of patching, ``unguarded``:
        what would be claimed if it were not counted how many pairs the model reverses.
    """
    rows = []
    for case, seeds in models.items():
        for seed in seeds:
            model, task = _model_and_task(case, seed)
            for method, claims, unguarded in _claims_by_method(model, task, case):
                named = {"case": case, "model": seed, "method": method}
                rows.append({**named, "claims": claims, "unguarded": unguarded})
    return pd.DataFrame(rows).astype({"unguarded": "Int64"})


def claim_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Rate of models in which a method claims anything, with its exact 95 % interval."""
    rows = []
    for (case, method), group in table.groupby(["case", "method"], sort=False):
        false, bare = (int((group[name] > 0).sum()) for name in ("claims", "unguarded"))
        found = stats.exact_interval(false, len(group))
        bare = bare if group["unguarded"].notna().any() else None
        counts = {"models": len(group), "false": false, "unguarded": bare}
        rows.append(
            {"case": case, "method": method, **counts, "low": found.low, "high": found.high}
        )
    return pd.DataFrame(rows).astype({"unguarded": "Int64"})


def _model_and_task(case: str, seed: int) -> tuple[HookedTransformer, Task]:
    """A model, and a suite that it can do no better than by guessing."""
    task = load_task("wired-lookup", seed=seed, limit=null_models.N_ITEMS)
    if case == null_models.RANDOM:
        return null_models.untrained_model(seed), task
    return wired_model(), _shuffle_twins(null_models.shuffle_answers(task, seed), seed)


def _shuffle_twins(task: Task, seed: int) -> Task:
    """The answers of the changed questions drawn at random, too, from the other choices."""
    rng, items = np.random.default_rng([seed, *b"pairs"]), []
    for item in task.items:
        assert item.corruption is not None
        others = [choice for choice in item.choices if choice != item.answer]
        drawn = others[int(rng.integers(len(others)))]
        items.append(replace(item, corruption=replace(item.corruption, answer=drawn)))
    return replace(task, items=tuple(items))


def _claims_by_method(
    model: HookedTransformer, task: Task, case: str
) -> Iterator[tuple[str, int, int | None]]:
    """Each method alone, then depths by all methods together; and what is said unguarded."""
    quiet = {"progress": False}
    skips, lens = lw.ablate(model, task, READ, **quiet), lw.logit_lens(model, task, READ, **quiet)
    patched = lw.patch_activations(model, task, sites=("resid_pre", "z"), **quiet)
    paths = lw.patch_paths(model, task, **quiet)
    written = lw.attribution(model, task, READ, **quiet)
    yield "logit lens", _n_claims(lens), None
    yield (
        PATCHED,
        *(_n_claims(r) + _sure(r.effects()) for r in (patched, _bare(patched, "patching"))),
    )
    bare = _bare(paths, "path_patching")
    yield PATHS, *(_n_claims(r) + _sure(r.effects()) for r in (paths, bare))
    yield "direct attribution", _n_claims(written) + _sure(written.summary()), None
    estimated = lw.attribute_patches(model, task, positions="last", sample=16, **quiet)
    bare = _bare(estimated, "attribution_patching")
    yield "attribution patching", *(_n_claims(r) for r in (estimated, bare))
    similar = lw.similarity(model, task, READ, **quiet)
    predicted = prediction_table(
        similar.similarity, similar.cka, skips.records, skips.facts.chance, 0
    )
    sentences = [f for f in findings([skips, similar]) if f.kind == SIMILARITY]
    yield "similarity", int((predicted["p_holm"] < ALPHA).sum()) + len(sentences), None
    ways = ("greedy", "effect", "influence")
    removed = lw.removal_order(model, task, READ, n_removed=2, by=ways, **quiet)
    yield "removal orders", _n_claims(removed) + len(removed.curves()), None
    if case == null_models.RANDOM:  # the wired model has heads of the kinds that are scored
        heads = lw.head_scores(model, length=12, sequences=10, **quiet).summary()
        yield "head scores", int(heads["induction_head"].sum()), None
    yield EMERGENCE, _depths([skips, lens, patched, written]), None


def _n_claims(result: Result) -> int:
    """The depths that emergence states by one result, and the sentences about it."""
    sentences = [finding for finding in findings([result]) if finding.kind != SILENT]
    return len(sentences) + (_depths([result]) if with_curves([result]) else 0)


def _depths(results: list[Result]) -> int:
    found = lw.emergence(results, n_resamples=500).emergence
    return int(((found["measure"] != CRITICAL) & (found["axis"] == "computation")).sum())


def _sure(table: pd.DataFrame) -> int:
    return int(table["significant"].sum())


def _bare(result: Result, name: str) -> Result:
    """The same without the counts of pairs, as earlier versions wrote it."""
    table = getattr(result, name).copy()
    table[list(COUNTS)] = pd.NA
    return replace(result, **{name: table.astype(dict.fromkeys(COUNTS, "Int64"))})
