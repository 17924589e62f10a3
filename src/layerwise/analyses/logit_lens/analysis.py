"""The logit lens: its curves, claims, parts of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.analyses.contract import (
    Analysis,
    Curves,
    PlannableAnalysis,
    PlannedJobs,
    PlanOptions,
    saved_tables,
)
from layerwise.analyses.shared.left_out import words_with_exclusions
from layerwise.analyses.shared.lens_names import (
    DECODER_LENS,
    FEWER_RIVALS,
    LENS_ORDER,
    LOGIT,
    TUNED_DECODER_LENS,
)
from layerwise.presentation.claim import (
    IN_TABLE,
    LENS,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.columns import (
    Column,
    as_text,
    estimate_column,
    number_column,
    p_column,
    plain,
    yes_no_column,
)
from layerwise.presentation.no_signal import gate_tables
from layerwise.presentation.over_run import holm_text
from layerwise.presentation.rows import parts, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    count_range,
    interval,
    number,
    protocol_phrase,
)
from layerwise.stats.depth.item_curves import item_settling_curves
from layerwise.stats.depth.layer_curves import (
    TASK,
    ExcludedTask,
    MethodCurve,
    Sampling,
    Signal,
    mean_of_right,
    progress,
    task_key,
)
from layerwise.stats.items.clusters import clusters_from_table
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import (
    LensResult,
    answer_rows,
    covers_a_stack,
    guessing_chance,
    lens_gate,
    prediction_depths,
)

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

COMPARISONS = (
    *plain("lens", "protocol", "first", "second"),
    Column("n", lambda row: f"{row['n_first']}, {row['n_second']}"),
    estimate_column("depth of second minus first", "difference", "", 1, 2),
    number_column("an item of second settles later (%)", "later", 100),
    p_column("p (Holm)", "p_holm"),
    yes_no_column("significant", "significant"),
)
_LENS_WORDS = (
    "What the model would answer if each layer were its last (final norm and unembedding applied "
    "to the residual stream)."
)
_RIGHT = "the answer's deciding tokens on top of the whole vocabulary behind the last layer"
_SETTLED_WORDS = (
    "How deep is the final answer fixed? For each right answer, this is the first layer after "
    "which it is the lens’s most likely token and stays so. Earlier layers wrote what stands "
    f"there. The lens does not say what they needed for it. {FEWER_RIVALS.capitalize()}."
)
# What is to be known of a lens of the encoder, whose layers the decoder stands behind.
_OF_ENCODER = {
    DECODER_LENS: " It is the exact run of a model whose encoder ends behind each layer.",
    TUNED_DECODER_LENS: (
        " It is a probe: the whole decoder reads what a trained translator makes of the stream "
        "behind each encoder layer."
    ),
}


def depth_claims(run: RunTables) -> list[Claim]:
    """The clearest differences in depth between two capabilities' right answers."""
    # Ranks of items may differ where mean depths cannot be told apart: both must.
    means, compared = (run.table(f"prediction_depth_{name}") for name in ("means", "comparisons"))
    if compared is None or means is None:
        return []
    sure = rows(compared, significant=True).query("low > 0 or high < 0")
    return most_important([_depth_claim(row, means, len(compared)) for row in records(sure)], 1)


def _depth_claim(row: dict[str, Any], means: pd.DataFrame, n_tests: int) -> Claim:
    """Reading of two capabilities by a lens; no order of them, whose answers have other rivals."""
    flipped = row["later"] < 0.5
    earlier, later = ("second", "first") if flipped else ("first", "second")
    share = 1 - row["later"] if flipped else row["later"]
    names = (str(row[later]), str(row[earlier]))
    where = {name: str(row[name]) for name in ("lens", "protocol", "first", "second")}
    here = rows(means, lens=where["lens"], protocol=where["protocol"])
    both = [records(rows(here, capability=name))[0] for name in names]
    of_later, of_earlier = (number(100 * mean["depth"]) for mean in both)
    shown = (interval(*(mean[n] for n in ("depth", "low", "high")), digits=2) for mean in both)
    sign = -1 if flipped else 1
    low, high = sorted(sign * float(row[name]) for name in ("low", "high"))
    return Claim(
        kind=LENS, evidence=IN_TABLE, importance=weight(0.7, 2 * share - 1),
        short=f"Answers stay on top of the {row['lens']} lens from {of_later} % of the depth for "
        f"{names[0]}, {of_earlier} % for {names[1]}, {protocol_phrase(row['protocol'])}.",
        capabilities=names, protocols=(where["protocol"],),
        tasks=tuple(task for mean in both for task in mean["tasks"].split(",")),
        details=(
            f"Right answers come to stay on top at mean relative depth {' against '.join(shown)}.",
            f"{100 * share:.0f} % of the pairs of items are in this order.",
        ),
        estimate=Estimate(sign * float(row["difference"]), low, high, "of the depth", digits=2),
        p=float(row["p_holm"]), test=f"Mann-Whitney test {holm_text(n_tests)}",
        items=f"{row[f'n_{later}']} and {row[f'n_{earlier}']} items",
        caveat=f"This is no order of the capabilities: {FEWER_RIVALS}.",
        source=source("prediction_depth_comparisons", where),
    )  # fmt: skip


def lens_evidence(
    result: LensResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    """Progress of the answer's mean probability from the embedding to the last layer."""
    # Not of its log-probability: an embedding read through the unembedding is sure of a wrong
    # token, so that the first layer alone brings back most of the nats. The curve ends at the
    # model's own answer, right or not, so that without an ablation right answers must beat blind
    # ones.
    lens, own = result.lens, result.signals()
    n_encoder = result.facts.model.n_encoder_layers
    edges = np.arange(-1, sampling.n_layers)
    depths = prediction_depths(lens, sampling.n_layers, n_encoder)
    why = "the answer's probability does not rise from the embedding to the last layer"
    for _, group in answer_rows(lens).groupby(["lens", *TASK], sort=True):
        name, shown = str(group["lens"].iloc[0]), group.assign(probability=np.exp(group["logprob"]))
        wide = shown.pivot_table(index="item", columns="layer", values="probability")
        columns = wide.columns.to_numpy(dtype=int)
        if n_encoder and covers_a_stack(columns, sampling.n_layers, n_encoder):
            wide = wide.reindex(columns=edges).ffill(axis=1).bfill(axis=1)
        curve = progress(f"{name} lens", group, wide, edges, signal, sampling, why)
        if isinstance(curve, MethodCurve):
            named = {"lens": name, "task": curve.task, "protocol": curve.protocol}
            of_curve = depths.loc[(depths[list(named)] == list(named.values())).all(axis=1)]
            curve = _with_settling_depths(
                curve, of_curve, own[curve.task, curve.protocol], sampling
            )
            if curve.settled is None and (curve.task, curve.protocol) not in signal:
                guessed = "no signal: right answers end on top no more often than blind"
                curve = ExcludedTask(*task_key(curve.method, group), guessed)
        yield curve


def _with_settling_depths(
    evidence: MethodCurve, depths: pd.DataFrame, signal: bool, sampling: Sampling
) -> MethodCurve:
    """Add from which layer on right answers stay on top (0 from the embedding on), with signal."""
    right = depths["right"].to_numpy(dtype=bool)
    if right.sum() < 2 or not signal:
        return evidence
    layers = depths["layer"].to_numpy(dtype=float).clip(min=0)
    clusters = clusters_from_table(depths, depths["item"].tolist())
    settling = np.column_stack([right * layers, right])
    settled = mean_of_right(sampling.means(evidence.task, settling, clusters))
    curves = item_settling_curves(layers, right, sampling.n_layers, clusters)
    return evidence._replace(
        settled=settled, n_right=int(right.sum()), settled_curves=curves, settling=settling
    )


def lenses(lens_read: pd.DataFrame, seed: int) -> list[FigureSpec]:
    """Lens curves, a figure for each lens, site and protocol's prompts."""
    from .figures import lens_curves

    figures, orders = [], {"lens": LENS_ORDER, "site": ("resid_post",), "protocol": PROTOCOL_ORDER}
    for (lens, site, protocol), own in parts(rows(lens_read, over="prompt", pos=-1), **orders):
        after = {"resid_pre": "before each layer", "resid_mid": "after each layer's attention"}
        where = after.get(site, "after each layer")
        caption = (
            f"{capitalise(lens)} lens {protocol_phrase(protocol)}, {where} (n = "
            f"{count_noun(len(set(own['item'])), 'item')} in all). Of the answer's "
            f"deciding tokens: "
            "log-probability and median rank. Of the lens's distribution: entropy, and divergence "
            "from the final one. "
            "Bands: 95 % intervals over items (bootstrap; for the median, exact order "
            "statistics). The embedding (layer −1) may lie beyond the scale."
            f"{_OF_ENCODER.get(lens, '')}"
        )
        alt = f"Line charts of what the {lens} lens reads {where} {protocol_phrase(protocol)}."
        draw = partial(lens_curves, own, protocol, seed=seed)
        named = (lens.replace(" ", "_"), site)
        marks = [name for name in named if name not in (LOGIT, "resid_post")]
        figures.append(FigureSpec("_".join(["lens", *marks, protocol]), draw, caption, alt))
    return figures


def settlings(depths: pd.DataFrame, means: pd.DataFrame) -> FigureSpec:
    """From which depth on right answers stay on top of the lens."""
    from .figures import prediction_depth_curves

    caption = (
        "Prediction depth: the first layer from which on the answer stays the lens's most likely "
        "token (after Baldock et al. 2021). Steps: share of the items "
        "answered right that are settled by a depth, in tasks with signal. Points: mean depth "
        f"(n = {count_range(means['n_items'], 'item')}), mean over tasks, with 95 % "
        "intervals over items, those of the table of depths."
    )
    alt = "Cumulative shares of answers settled by depth, one line per capability."
    draw = partial(prediction_depth_curves, depths, means)
    return FigureSpec("prediction_depth", draw, caption, alt)


def sections(run: RunTables) -> list[Section]:
    """Lens curves, and prediction depth with tests of it between capabilities."""
    lens, depths, means, compared = map(
        run.table,
        ("lens", "prediction_depth", "prediction_depth_means", "prediction_depth_comparisons"),
    )
    if lens is None:
        return []
    words = words_with_exclusions(_LENS_WORDS, run.facts, "logit lens")
    gates = gate_tables(run, "lens_gate", _RIGHT, "without the question (%)")
    curves = Section("lens", "Logit lens", 30, words, tuple(lenses(lens, run.facts.seed)),
                     tuple(gates), kinds=(LENS,))  # fmt: skip
    if depths is None or means is None:
        return [curves]
    title = "Prediction depth, capabilities compared ({n})"
    tables = () if compared is None else (as_text(title, COMPARISONS, compared),)
    figures = (settlings(depths, means),)
    settled = Section("settled", "Prediction depth", 34, _SETTLED_WORDS, figures, tables)
    return [curves, settled]


def _tables(result: LensResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    own = lens_gate(result.lens, guessing_chance(result.facts))
    return saved_tables(result, others) | {"lens_gate": own}


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .job import Lens

    return PlannedJobs({"lens": Lens(setup)})


ANALYSIS = Analysis(
    "logit_lens",
    LensResult,
    sections,
    depth_claims,
    tables=_tables,
    files={"lens_gate": "lens.parquet, answers counted"},
    curves=Curves("logit lens", lens_evidence),
    plans=(PlannableAnalysis("lens", _planned_jobs, ("letter", "continuation")),),
)
