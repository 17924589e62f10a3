"""The similarity of layers: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.contract import Analysis, reads_prompts, saved_tables
from layerwise.presentation.claim import IN_TABLE, Claim, Estimate, most_important, source, weight
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import claim_scope, numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    count_noun,
    count_range,
    in_order,
    protocol_phrase,
)
from layerwise.stats.cells import has_several_examples
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import INFLUENCE, PREDICTION, SimilarityResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

    from .api import Similarity

SIMILARITY = "similarity"
_PREDICTORS = {"influence": "block influence", "angular": "angular distance",
               "cka": "1 minus linear CKA"}  # fmt: skip
_COSTS = {"share_lost": "above-floor accuracy", "nats": "log-probability of right answers"}


def similarity_predicts(run: RunTables) -> list[Claim]:
    """The measure of similarity that ranks layers best by what skipping them costs."""
    prediction = run.table("prediction")
    if prediction is None:
        return []
    sure = prediction.loc[prediction["stack"].isna() & (numbers(prediction, "p_holm") < 0.05)]
    claims = []
    for row in records(sure):
        n_tests = len(rows(prediction, effect=row["effect"]))
        names = ("capability", "protocol", "predictor", "effect")
        where: dict[str, str | None] = {name: str(row[name]) for name in names}
        if stacks().n_encoder:  # each stack has a row, too
            where["stack"] = None
        rho, low, high = (float(row[name]) for name in ("rho", "low", "high"))
        unit = f"rank correlation over {row['n_layers']} layers"
        change, cost = _PREDICTORS[row["predictor"]], _COSTS[row["effect"]]
        claims.append(Claim(
            kind=SIMILARITY, evidence=IN_TABLE, importance=weight(0.45, abs(rho)),
            short=f"In {row['capability']}, layers that change the stream more cost "
            f"{'more' if rho > 0 else 'less'} when skipped, {protocol_phrase(row['protocol'])}.",
            details=(f"Change is {change}, cost is {cost}.",),
            estimate=Estimate(rho, low, high, unit, digits=2), p=float(row["p_holm"]),
            test="items and orders of layers, the larger p, Holm over "
            f"{count_noun(n_tests, 'test')} of this cost",
            source=source("prediction", where), **claim_scope(pd.DataFrame([row])),
        ))  # fmt: skip
    return most_important(claims, 1)


def similarities(run: RunTables) -> list[FigureSpec]:
    """Maps of similarity, a figure for each protocol's prompts."""
    from .figures import similarity_map

    angular, influence, cka = map(run.table, ("angular", "influence", "cka"))
    if angular is None or influence is None or cka is None:
        return []
    of_stacks = (
        " The encoder's stream is averaged over its positions, the decoder's read where the "
        "answer begins, and influence there is over what the decoder begins with. Blocks and "
        "pairs of depths are within one stack."
    ) * bool(stacks().n_encoder)
    figures = []
    for protocol in in_order(influence["protocol"], PROTOCOL_ORDER):
        table = rows(influence, protocol=protocol)
        caption = (
            f"Similarity of layers {protocol_phrase(protocol)} (n = "
            f"{count_range(table['n_items'], 'item')} a task). Left: angular distance between what "
            "enters a block of layers and what leaves it, at the prompt's last position; dots: "
            "the block of each size that turns the stream least. Middle: block influence, 1 minus "
            "the cosine of what enters and what leaves a layer, mean over all positions; bands: "
            "range over the capability's tasks; values below 0.001 stand there. Right: unbiased "
            "linear CKA between depths, at the last position, over items; grey: undefined. The "
            f"intervals are in the table.{of_stacks}"
        )
        alt = f"Heat maps and curves of how similar layers are {protocol_phrase(protocol)}."
        draw = partial(similarity_map, angular, influence, cka, protocol)
        figures.append(FigureSpec(f"similarity_{protocol}", draw, caption, alt))
    return figures


def predictions(run: RunTables) -> list[FigureSpec]:
    """Agreement of similarity's ranking of layers with what skipping them costs."""
    from .figures import prediction_ranges

    prediction = run.table("prediction")
    if prediction is None:
        return []
    caption = (
        "Spearman's rank correlation, over layers, of each measure of similarity with what "
        "skipping the layer costs: 1 where the layers that turn the stream most are those that "
        f"cost most (n = {count_range(prediction['n_items'], 'item')}; mean over tasks "
        f"with signal). "
        "Lines: bootstrap 95 % interval over items. Filled: different from 0 after Holm's "
        "correction over all points of the effect."
        f"{' Rows of a stack: over its layers alone.' if stacks().n_encoder else ''}"
    )
    alt = "Points with intervals: rank correlation of similarity with effects of skipping layers."
    return [FigureSpec("prediction", partial(prediction_ranges, prediction), caption, alt)]


def sections(run: RunTables) -> list[Section]:
    """Maps of similarity, how well it predicts what skipping costs, and both in numbers."""
    figures = (*similarities(run), *predictions(run))
    tables = (
        *run_table_as_text(run, "prediction", "Similarity against effects ({n})", PREDICTION),
        *run_table_as_text(run, "influence", "Block influence ({n})", INFLUENCE),
    )
    words = (
        "How little a layer changes the residual stream. Layers that hardly turn it are often "
        "called dispensable. If layers were skipped too, the page shows how far that is true."
    )
    title = "Similarity of layers"
    return [Section("similarity", title, 70, words, figures, tables, kinds=(SIMILARITY,))]


def _tables(result: SimilarityResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """Also how well similarity predicts what skipping costs, where layers were changed too."""
    tables = saved_tables(result, others)
    ablations = [
        other
        for other in others
        if isinstance(other, AblationResult) and not has_several_examples(other.records)
    ]
    return tables | ({"prediction": result.predicts(ablations[0])} if ablations else {})


def _job(setup: Setup, of_profile: bool) -> Similarity:
    from .api import Similarity

    return Similarity(setup)


_PLANS, _EXTRAS = reads_prompts("similarity", "angular distance, block influence, CKA", _job)
ANALYSIS = Analysis(
    "similarity", SimilarityResult, sections, similarity_predicts, tables=_tables,
    plans=_PLANS,
    extras=_EXTRAS,
    done={
        "influence": "Similarity of the residual stream before and after layers was measured.",
    },
)  # fmt: skip
