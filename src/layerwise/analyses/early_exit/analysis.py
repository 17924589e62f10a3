"""Early exit: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.analyses.contract import Analysis, reads_prompts, saved_tables
from layerwise.analyses.logit_lens.result import guessing_chance
from layerwise.presentation.claim import (
    ESTABLISHED,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import stacks
from layerwise.presentation.no_signal import gate_tables
from layerwise.presentation.over_run import run_wide_evidence
from layerwise.presentation.rows import claim_scope, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    count_noun,
    count_range,
    interval,
    number,
    protocol_phrase,
)
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.run_tables import RunTables

from .result import EXITS, EarlyExitResult
from .tables import earliest, exit_name, gate

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

    from .api import EarlyExit

KIND = "early exit"
_LAYERS, _GATE = "early_exit_layers", "early_exit_gate"
_MOST = 3
_WORDS = (
    "What would the model answer if it stopped after a layer? Its final norm and unembedding read "
    "the stream there. An exit is safe if it and all later ones lose less than what is of interest."
)
_CAVEAT = (
    "Only the answer's first token is read. A written text needs an exit at every token, and later "
    "tokens would read what earlier exits left out."
)
_RIGHT = "the answer's first token on top of the whole vocabulary behind the last layer"


def findings(run: RunTables) -> list[Claim]:
    """The first safe exit of each task, and tasks that lose something before the last layer."""
    table = run.table(_LAYERS)
    if table is None or table.empty:
        return []
    last = table.sort_values(by="layer").groupby(["task", "protocol", "lens"], sort=False).tail(1)
    last = pd.DataFrame(last.query("signal and significant and acc_diff > 0"))
    safe = [_safe(row, run, table) for row in records(earliest(table))]
    needed = [
        Claim(
            short=f"In {row['task']}, stopping one layer early, after {exit_name(row)}, already "
            f"loses accuracy {protocol_phrase(row['protocol'])}.",
            importance=weight(0.5, row["acc_diff"]), **_claim_fields(row),
            **run_wide_evidence(
                row, table, "exact sign flips of items", ("p_holm", "Holm over its exits")
            ),
        )
        for row in records(last)
    ]  # fmt: skip
    return most_important(safe, _MOST) + most_important(needed, 1)


def _safe(row: dict[str, Any], run: RunTables, table: pd.DataFrame) -> Claim:
    loss = number(100 * SmallestEffects.from_settings(run.facts.settings).loss)
    about = _claim_fields(row)
    left_out = len(rows(table, **about["source"]["where"]).query(f"layer >= {row['layer']}"))
    return Claim(
        short=f"In {row['task']}, an exit after layer {exit_name(row)} loses less than {loss} "
        f"accuracy points {protocol_phrase(row['protocol'])}.",
        evidence=ESTABLISHED, importance=weight(0.6, left_out / run.facts.model.n_layers),
        details=(
            f"It leaves out {count_noun(left_out, 'layer')}; the final token is the same in "
            f"{interval(*(100 * row[name] for name in ('same', 'same_low', 'same_high')))} %.",
            f"The right answer loses {interval(row['nats'], row['nats_low'], row['nats_high'], 2)} "
            "nats.",
        ),
        p=float(row["p_no_loss_run"]),
        test=f"test that {loss} points or more are lost, from the last exit down, Bonferroni over "
        f"{count_noun(int(row['n_sequences']), 'sequence')} of exits",
        **about,
    )  # fmt: skip


def _claim_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Fields that claims of an exit have alike."""
    middle, low, high = (100 * row[name] for name in ("acc_diff", "acc_diff_low", "acc_diff_high"))
    where = {name: str(row[name]) for name in ("task", "protocol", "lens")}
    return {
        "kind": KIND,
        "layers": (max(int(row["layer"]), 0),),
        "estimate": Estimate(middle, low, high, "accuracy points lost", digits=1),
        "source": source(_LAYERS, where, layer=int(row["layer"])),
        "caveat": _CAVEAT,
        **claim_scope(pd.DataFrame([row])),
    }


def sections(run: RunTables) -> list[Section]:
    """Cost of each exit, and the first safe ones."""
    from .figures import exit_strips

    table = run.table(_LAYERS)
    if table is None or table.empty:
        return []
    caption = (
        "Early exit: accuracy that is lost by stopping after each layer (n = "
        f"{count_range(table['n_items'], 'item')} a task). The answer's first token is read there "
        "with the final norm and the unembedding. Squares: exits that lose less than what is of "
        "interest, as all later ones do. Dots: significant losses (Holm)."
    )
    if stacks().n_encoder:
        caption += " In the encoder, the whole decoder reads the stream after the layer."
    alt = "Strips of accuracy lost by an exit after each layer, one row per way of scoring."
    figure = FigureSpec("early_exit", partial(exit_strips, table), caption, alt)
    safe = as_text("First safe exits ({n})", EXITS, earliest(table), collapsed=False)
    tables = (safe, *gate_tables(run, _GATE, _RIGHT, "without the question (%)"))
    return [Section("early-exit", "Early exit", 36, _WORDS, (figure,), tables, kinds=(KIND,))]


def _job(setup: Setup, of_profile: bool) -> EarlyExit:
    from .api import EarlyExit, Lens

    return EarlyExit(Lens(setup, strict=not of_profile), shared=of_profile)


_PLANS, _EXTRAS = reads_prompts("early-exit", "the layers after which the model could stop", _job)
ANALYSIS = Analysis(
    "early_exit", EarlyExitResult, sections, findings,
    tables=lambda result, others: saved_tables(result, others)
    | {_GATE: gate(result.early_exit, guessing_chance(result.facts))},
    files={_GATE: "early_exit.parquet, answers counted"},
    plans=_PLANS,
    extras=_EXTRAS,
    done={
        "early_exit": "The model was read out after each layer, as if it ended there.",
    },
)  # fmt: skip
