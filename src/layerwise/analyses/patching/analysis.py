"""Activation patching's part of the page, and its declaration ``ANALYSIS``."""

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
)
from layerwise.analyses.shared.left_out import words_with_exclusions
from layerwise.presentation.claim import PATCHING as KIND
from layerwise.presentation.claim import Claim, Estimate, Evidence, most_important, source, weight
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.no_signal import has_signal
from layerwise.presentation.rows import claim_scope, layers_in, numbers, parts, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    count_range,
    in_order,
    join_words,
    percent,
    protocol_phrase,
)
from layerwise.stats.depth.layer_curves import (
    PATCHING,
    TASK,
    ExcludedTask,
    MethodCurve,
    Sampling,
    Signal,
    progress,
    task_key,
    while_the_encoder_runs,
    with_own_signal,
)
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import CELLS, PatchingResult
from .tables import signals_of_pairs

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup


_CHANGED = ("last changed", "first changed")
_BOUNDS = ("recovered", "recovered_run_low", "recovered_run_high")
# Of what the answer depends on; two places that hold so much together hold about all of it.
_QUARTER, _HALF, _ABOUT_ALL = 0.25, 0.5, 0.75
_TOGETHER = "bounds for all that the run patched together"
_UNMEASURED = "The intact model's accuracy was not measured."


def hand_overs(run: RunTables) -> list[Claim]:
    """Layers in which the last position takes over from the changed token, where established."""
    return most_important(
        [c for of_site, note in _averages_by_task(run) for c in _hand_over_claims(of_site, note)], 1
    )


def take_ups(run: RunTables) -> list[Claim]:
    """Layers in which a decoder takes up what the encoder has found, where established."""
    return most_important(
        [c for of_site, note in _averages_by_task(run) for c in _take_up_claims(of_site, note)], 1
    )


def findings(run: RunTables) -> list[Claim]:
    """Hand-overs from token to token, and take-ups from the encoder."""
    return [*hand_overs(run), *take_ups(run)]


def _averages_by_task(run: RunTables) -> Iterator[tuple[pd.DataFrame, str]]:
    """Averages of each task, and what is not known of it."""
    patching = run.table("patching_summary")
    if patching is None:
        return
    streams = rows(patching, site="resid_pre", direction="denoising")
    for (task, protocol), of_site in parts(streams, task=(), protocol=PROTOCOL_ORDER):
        signal = has_signal(run, task, protocol)
        if signal is not False and rows(of_site, signal=False).empty:
            yield of_site, "" if signal is not None else _UNMEASURED


def _hand_over_claims(of_site: pd.DataFrame, note: str) -> list[Claim]:
    changed = next((name for name in _CHANGED if name in set(of_site["pos_label"])), None)
    if changed is None or "last" not in set(of_site["pos_label"]):
        return []
    bounds = hand_over_layer(of_site, changed)
    if bounds is None:
        return []
    middle, low, high = bounds
    there = {row["pos_label"]: row for row in records(rows(of_site, layer=middle))}
    start, end = _hand_over_range(of_site, low, high)
    # What is there before a layer, and was not before the one in front of it, moved in that one.
    at, first, last = (name_layer(layer - 1) for layer in bounds)
    token = percent(*(there[changed][name] for name in _BOUNDS))
    details = (
        f"The last position overtakes the {changed} token in layer {at} [{first}, {last}].",
        f"Patching the {changed} token behind it recovers {token} of the logit difference.",
    )
    layers = (middle - 1,) if start == end else (start - 1, end - 1)
    says = "what decides the answer moves from the changed word to the prompt's last token "
    if start < end:
        says = "most of what decides the answer moves from the changed word to the last token "
        details = (
            "Between these layers lie the bounds, and where the last token has a quarter and three "
            "quarters of it.",
            *details,
        )
    says += _layer_range_words(layers)
    evidence, between = Evidence.ESTABLISHED, _move_layers(of_site, changed)
    if between is not None:
        evidence, layers, (left, reached) = Evidence.IN_TABLE, between, map(name_layer, between)
        says = (
            f"what decides the answer leaves the changed word in layer {left} and reaches the last "
            f"token in {reached}"
        )
        details = ("In between it is at neither.", *details)
    return [_claim(
        says, there["last"], [changed, "last"], layers=layers, evidence=evidence,
        importance=weight(0.65, 1 - (end - start) / 10), details=details, caveat=note,
    )]  # fmt: skip


def _hand_over_range(of_site: pd.DataFrame, low: int, high: int) -> tuple[int, int]:
    """The layers before which the last position has a quarter and three quarters, or the bounds."""
    # One layer of the mean is where no pair moves, if half of the pairs move early and half late.
    last = rows(of_site, pos_label="last").sort_values("layer")
    layers, share = layers_in(last), numbers(last, "recovered")
    quarter, most = _stays(share > _QUARTER), _stays(share > _ABOUT_ALL)
    start = layers[0] if quarter is None else layers[quarter]
    end = layers[-1] + 1 if most is None else layers[most]
    return min(low, max(start, 1)), max(high, end)


def _layer_range_words(layers: Sequence[int]) -> str:
    """``"in layer 8"``, or ``"between layers 8 and 24"``."""
    first, last = name_layer(layers[0]), name_layer(layers[-1])
    return f"in layer {first}" if len(layers) == 1 else f"between layers {first} and {last}"


def _claim(says: str, row: dict[str, Any], places: list[str] | str, **more: Any) -> Claim:
    """A claim on a row, with the share that patching before its layer recovers."""
    where = {name: str(row[name]) for name in ("task", "protocol", "direction", "site")}
    value, low, high = (100 * float(row[name]) for name in _BOUNDS)
    at = "the last position" if row["pos_label"] == "last" else "where the answer is predicted"
    unit = f"% of the logit difference, by patching {at} before layer {name_layer(row['layer'])}"
    return Claim(
        kind=KIND, short=f"On {row['task']}, {says} {protocol_phrase(row['protocol'])}.",
        source=source("patching_summary", {**where, "pos_label": places}, layer=int(row["layer"])),
        estimate=Estimate(value, low, high, unit, _TOGETHER), **more,
        **claim_scope(pd.DataFrame([row]), "pair"),
    )  # fmt: skip


def _move_layers(of_site: pd.DataFrame, changed: str) -> tuple[int, int] | None:
    """The layers at which the answer leaves one place and reaches the other, if far apart."""
    layers = layers_in(rows(of_site, pos_label="last"))
    token, last = (
        numbers(rows(of_site, pos_label=name).set_index("layer").reindex(layers), "recovered")
        for name in (changed, "last")
    )
    left, reached = _stays(token < _HALF), _stays(last > _HALF)
    if left is None or reached is None or reached <= left:
        return None
    both = (token + last)[left:reached]
    return (layers[max(left - 1, 0)], layers[reached - 1]) if both.min() < _ABOUT_ALL else None


def _take_up_claims(of_site: pd.DataFrame, note: str) -> list[Claim]:
    """The layer in which more than half arrives where the decoder answers, to stay."""
    answer = rows(of_site, pos_label="answer").sort_values("layer")
    if answer.empty:
        return []
    bounds = [_stays(numbers(answer, name) > _HALF) for name in _BOUNDS]
    middle, last, first = (None if at is None else layers_in(answer)[at] for at in bounds)
    if middle is None or last is None or first is None or middle == layers_in(answer)[0]:
        return []
    row = records(rows(answer, layer=middle))[0]
    # What is there before a layer, and was not before the one in front of it, came in that one.
    layers = (middle - 1,) if first == last else (first - 1, last - 1)
    return [_claim(
        (f"more than half of what decides the answer reaches the decoder's answer "
f"{_layer_range_words(layers)}"),
        row, "answer", layers=layers, evidence=Evidence.ESTABLISHED, caveat=note,
        importance=weight(0.6, 1 - (last - first) / 10),
        details=(f"The layer lies in [{name_layer(first - 1)}, {name_layer(last - 1)}], with "
                 "bounds over all that the run patched.",),
    )]  # fmt: skip


def hand_over_layer(of_site: pd.DataFrame, changed: str) -> tuple[int, int, int] | None:
    """The layer from which the last position recovers more than the changed token, with bounds."""
    layers = layers_in(rows(of_site, pos_label="last"))  # in an encoder-decoder, the encoder's
    token, last = (
        rows(of_site, pos_label=name).set_index("layer").reindex(layers)
        for name in (changed, "last")
    )
    middle, low, high = (
        _stays(numbers(last, _BOUNDS[a]) > numbers(token, _BOUNDS[b]))
        for a, b in ((0, 0), (2, 1), (1, 2))
    )
    before = numbers(token, _BOUNDS[1])[0] > numbers(last, _BOUNDS[2])[0]
    if not before or middle is None or low is None or high is None:
        return None
    return layers[middle], layers[low], layers[high]


def _stays(holds: Sequence[bool] | np.ndarray) -> int | None:
    """The first index from which on something holds to the end."""
    broken = np.flatnonzero(~np.asarray(holds, dtype=bool))
    first = int(broken[-1]) + 1 if len(broken) else 0
    return first if first < len(holds) else None


_PATCHING_WORDS = (
    "Two prompts that differ in one thing have different answers. Putting one run's activation "
    "into the other shows which layer and position carry the difference."
)
PATCHES = {
    "denoising": "the clean run's activation is put into the corrupted run",
    "noising": "the corrupted run's activation is put into the clean run",
}


def patching_evidence(
    result: PatchingResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    """Share recovered by patching the residual stream where the answer is read."""
    # ``resid_pre`` of a layer is what stands before it. After the last layer the whole is recovered
    # by definition, of pairs solved by luck, too: so more must be solved than reversed.
    patching, n_encoder = result.patching, result.facts.model.n_encoder_layers
    label, where = ("answer", "answer's") if n_encoder else ("last", "last")
    chosen = patching["site"].eq("resid_pre") & patching["pos_label"].eq(label)
    chosen &= patching["direction"].eq("denoising")
    gains = patching.assign(
        gain=patching["patched_diff"] - patching["corrupted_diff"],
        whole=patching["clean_diff"] - patching["corrupted_diff"],
    )
    solved = signals_of_pairs(patching)
    for _, every in gains.groupby(TASK, sort=True):
        key = task_key(PATCHING, every)
        group = every.loc[chosen.loc[every.index]]
        if group.empty:
            yield ExcludedTask(*key, f"no resid_pre at the {where} position")
            continue
        wide = group.pivot_table(index="item", columns="layer", values="gain")
        whole = group.groupby("item")["whole"].mean()
        wide = wide.assign(**{str(sampling.n_layers): whole})
        wide = while_the_encoder_runs(wide, n_encoder)
        edges = np.arange(sampling.n_layers + 1)
        why = "the clean and the corrupted run do not differ"
        own_signal = with_own_signal(signal, key, solved[key[3], key[1]] is not False)
        yield progress(PATCHING, group, wide, edges, own_signal, sampling, why, from_first=False)


def _figure(table: pd.DataFrame, direction: str, site: str) -> FigureSpec:
    from .figures import patching_heads, patching_map, verb

    by_head, two_stacks = bool(table["head"].notna().all()), stacks().n_encoder > 0
    share = verb(direction)
    asked = join_words(map(protocol_phrase, in_order(table["protocol"], PROTOCOL_ORDER)))
    if by_head:
        every = "of the stack" if two_stacks else "from the first changed token on"
        where = f", at one position or at all {every}"
        grey = "; grey: not patched, or no such head" if two_stacks else ""
        marks = (
            f"{grey}. Dot: differs from 0 by a sign-flip test over pairs, after Benjamini and "
            "Hochberg's correction over all cells of the task (5 %)."
        )
    else:
        where = " at one layer and position"
        marks = (
            ", clipped to −1 to 1. Minus signs mark cells below −0.1, grey what was not patched. "
            "The intervals are in the table of patching."
        )
    caption = (
        f"Activation patching {'of single heads ' * by_head}at {site}: {PATCHES[direction]}{where} "
        f"({asked}). {_position_words(site) if two_stacks else ''}Colour: share of the logit "
        f"difference {share}, over n = {count_range(table['n_items'], 'pair')} a cell{marks}"
    )
    down = "heads" if by_head else "positions"
    alt = f"Heat maps of the share {share} by patching {site}, layers by {down}."
    draw = partial(patching_heads if by_head else patching_map, table, site, direction=direction)
    other = "" if direction == "denoising" else f"_{direction}"
    return FigureSpec(f"patching_{site}{other}", draw, caption, alt)


def _position_words(site: str) -> str:
    """Positions that are meant where a model has an encoder and a decoder, in words."""
    if site in ("cross_k", "cross_v"):
        return (
            "Every decoder layer has its own, made of the encoder's output at the prompt's "
            "positions. "
        )
    return (
        "The encoder is patched at the prompt's positions, the decoder at what it begins with; "
        "answer: the position where the answer's first token is predicted. "
    )


def sections(run: RunTables) -> list[Section]:
    """Heat maps, one for each direction and site, and the cells that recover most."""
    patching = run.table("patching_summary")
    if patching is None:
        return []
    figures = [
        _figure(table, direction, site)
        for (direction, site), table in parts(
            patching, direction=("denoising",), site=("resid_pre",)
        )
    ]
    ranked = patching.sort_values(by="recovered", ascending=False, kind="stable")
    where = "rows follow from patching.parquet"
    table = as_text("Patched cells by share ({n})", CELLS, ranked, where=where)
    words = words_with_exclusions(_PATCHING_WORDS, run.facts, "activation patching")
    return [
        Section("patching", "Activation patching", 40, words, tuple(figures), (table,),
                kinds=(KIND,)),
    ]  # fmt: skip


def _tables(result: PatchingResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return {"patching_summary": result.summary()}


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .api import Patching

    return PlannedJobs({"patching": Patching(setup, options["pairs"], ("resid_pre",))})


ANALYSIS = Analysis(
    "patching",
    PatchingResult,
    sections,
    findings,
    tables=_tables,
    files={"patching_summary": "patching.parquet, averaged over pairs"},
    curves=Curves("activation patching", patching_evidence),
    plans=(PlannableAnalysis("patching", _planned_jobs, ("continuation",), paired=True),),
)
