"""The parts of a page on what changing layers, heads, blocks and sets costs.

The figures are drawn elsewhere; here they get their names, captions and alternative texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from layerwise.presentation.claim import ROLES, SCORING, SILENT
from layerwise.presentation.columns import Column, cells, heads
from layerwise.presentation.over_run import RATE, count_that_hold
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.section import FigureSpec, Section, Table, others
from layerwise.presentation.wording import (
    HEAD_WORDS,
    PROTOCOL_ORDER,
    capitalised,
    doing,
    in_order,
    joined,
    spread,
    spread_of,
)
from layerwise.storage.run_tables import RunTables

from .columns import SIGNAL, STEPS, effect_columns
from .items import examples_section
from .report_passages import books_section
from .saved_effects import (
    HEADS,
    SETS,
    ablations,
    effects_of,
    effects_of_layers,
    sets_noun,
    what_could_be_seen,
)

_ROLE_WORDS = (
    "Share of the accuracy above guessing that is lost when a layer is left out or overwritten. "
    "It shows what breaks without the layer, not what the layer does."
)
_HEAD_WORDS = (
    "One attention head is changed at a time, before the output projection mixes it with the "
    "others. A head without a loss may still matter if others can replace it."
)
_SET_WORDS = (
    "Several layers or heads are changed at once. If they can replace each other, a block costs "
    "far more than its layers one at a time."
)
_PROTOCOL_WORDS = (
    "The same questions scored in other ways. Where the lines lie on each other, the way of "
    "scoring does not matter."
)
_LADDER_WORDS = (
    "Choosing and writing differ in several things at once. Each scoring step changes one of "
    "them, on the same items and, below the letter, the same prompts. A harder step loses more at "
    "the same layers. Other layers are needed only if one layer costs more under one step and "
    "another layer costs more under the other, item by item."
)
_SILENT_WORDS = (
    "A task has signal if the intact model beats guessing, its own answers to other items’ "
    "questions, and the model without layers. The tests are exact, one-sided, at 2.5 % after "
    "Holm’s correction over all tasks and protocols. Without signal a layer has nothing to take "
    "away, and nothing is said about layers."
)
_TOP, _MOST = 15, 2000


def role_maps(run: RunTables) -> list[FigureSpec]:
    """A role map for each kind and site of intervention."""
    from .figures import role_map

    signal = run.table("signal")
    figures = []
    for kind, site in ablations(run):
        effects = effects_of(run, kind, site)
        action = doing(kind, site, "a layer")
        caption = (
            f"Role map for {action}. A panel per task, grouped by capability, with a row per "
            f"protocol; layers run across. Colour: share of the above-floor accuracy "
            "lost, from 0 (as the intact model) to 1 (as without any layer), clipped "
            f"(n = {spread_of(effects['n_items'], 'item')} a row). Dot: "
            "loss significant after Holm's correction over the layers of the row (exact McNemar "
            f"test, p < 0.05); triangle: significant gain{_hold(run, effects)}. Hatched: no "
            "signal, so nothing is claimed. The intervals are in the tables below."
        )
        alt = f"Heat map of accuracy lost by {action}, tasks and protocols by layers."
        draw = partial(role_map, effects, kind, site, signal=signal)
        figures.append(FigureSpec(f"role_map_{kind}_{site}", draw, caption, alt))
    return figures


def _hold(run: RunTables, shown: pd.DataFrame, *, heads: bool = False) -> str:
    """How many of the marks of a figure hold over the whole run."""
    every = effects_of_layers(run, heads=heads)
    assert every is not None
    counts = count_that_hold(rows(shown, significant=True), every, *([RATE] if heads else []))
    return f"; {counts}" if counts else ""


def accuracies(run: RunTables) -> list[FigureSpec]:
    """Accuracy by layer for the first kind and site of intervention."""
    from .figures import accuracy_by_layer

    figures = []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site)
        action = doing(kind, site, "one layer")
        caption = (
            f"Accuracy after {action}, by task; a line per protocol "
            f"({joined(in_order(effects['protocol'], PROTOCOL_ORDER))}). Dotted: the intact "
            f"model. Dashed: floor, the accuracy without any layer (stated chance where it was not "
            "measured). Arrowheads at the right: the intact model asked other items' questions. "
            "Bands: paired bootstrap 95 % interval of the change "
            f"(n = {spread_of(effects['n_items'], 'item')}). Pale lines have no signal."
        )
        alt = f"Line charts of accuracy against the layer, after {action}, one chart per task."
        draw = partial(accuracy_by_layer, effects, kind, site, signal=run.table("signal"))
        figures.append(FigureSpec(f"accuracy_{kind}_{site}", draw, caption, alt))
    return figures


def head_effects(run: RunTables) -> list[FigureSpec]:
    """What single heads are needed for, a figure for each kind, site and protocol with signal."""
    from .figures import head_effect_maps

    figures = []
    for kind, site in ablations(run, HEADS):
        effects = effects_of(run, kind, site, HEADS, signal=True)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER):
            own = rows(effects, protocol=protocol)
            noun = HEAD_WORDS[site]
            action = doing(kind, site, f"one {noun}")
            caption = (
                f"Share of the above-floor accuracy lost by {action}, layers by {noun}s, under "
                f"{protocol} (n = {spread_of(own['n_items'], 'item')} a task, tasks with "
                "signal). Red is lost, blue gained. Dot: significant after Benjamini-Hochberg "
                f"correction over the {spread(own.groupby('task').size())} {noun}s of a task "
                f"(exact McNemar test, q < 0.05{_hold(run, own, heads=True)}). The intervals are "
                "in the table below."
            )
            alt = f"Heat maps of accuracy lost by {action}, layers by {noun}s."
            draw = partial(head_effect_maps, own)
            figures.append(FigureSpec(f"head_effects_{kind}_{site}_{protocol}", draw, caption, alt))
    return figures


def set_effects(run: RunTables) -> list[FigureSpec]:
    """What blocks and sets are needed for, a figure for each kind and site with signal."""
    from .figures import MOST, action_on_sets, set_losses

    figures = []
    for kind, site in ablations(run, SETS):
        own = effects_of(run, kind, site, SETS, signal=True)
        if own.empty:
            continue
        sets = len(set(own["intervention"]))
        most = f", the {MOST} of {sets} that lose most" if sets > MOST else ""
        noun = sets_noun(site)
        caption = (
            f"{capitalised(action_on_sets(kind, site))}: share of the above-floor accuracy lost "
            f"(n = {spread_of(own['n_items'], 'item')} a task, tasks with signal under "
            f"{joined(in_order(own['protocol'], PROTOCOL_ORDER))}). A row per block or set of "
            f"{noun}{most}. Lines: paired bootstrap 95 % intervals. Filled: significant after "
            "Holm's correction over the sets of a task and protocol (exact McNemar test, "
            f"p < 0.05{_hold(run, own)}). The numbers are in the tables below."
        )
        alt = f"Points with intervals: accuracy lost by {action_on_sets(kind, site)}."
        draw = partial(set_losses, own, kind, site)
        figures.append(FigureSpec(f"sets_{kind}_{site}", draw, caption, alt))
    return figures


def comparisons(run: RunTables) -> list[FigureSpec]:
    """The loss under each protocol, of tasks with signal under two or more."""
    from .figures import protocol_comparison

    figures = []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        several = [
            task
            for task in in_order(effects["task"], ())
            if len(set(rows(effects, task=task)["protocol"])) > 1
        ]
        effects = rows(effects, task=several)
        caption = (
            f"Does the answer change with the way of scoring? Share of the above-floor accuracy "
            f"lost by {doing(kind, site, 'one layer')}, of tasks with signal under two or more "
            f"protocols (n = {spread_of(effects['n_items'], 'item')}). Bands: paired bootstrap 95 "
            "% intervals. Filled markers: significant after Holm's correction over the layers"
            f"{_hold(run, effects)}. Ticks at the foot: of the items right under both protocols, "
            "the layer loses more under one (exact tests, Holm over the layers)."
        )
        alt = "Line charts of accuracy lost against the layer, one line per protocol."
        apart = run.table("dissociations")
        draw = partial(protocol_comparison, effects, kind, site, dissociations=apart)
        figures += [FigureSpec(f"protocols_{kind}_{site}", draw, caption, alt)] if several else []
    return figures


def _power_words(run: RunTables) -> str:
    """How large a loss could have been found, by protocol."""
    parts = []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        parts = [
            f"Under {protocol}, {what_could_be_seen(rows(effects, protocol=protocol))}."
            for protocol in in_order(effects["protocol"], PROTOCOL_ORDER)
        ]
    return " ".join(parts)


def ladders(run: RunTables) -> list[FigureSpec]:
    """What every layer costs on each rung of scoring."""
    from .figures import ladder

    table = run.table("ladder")
    if table is None:
        return []
    figures = []
    for kind, site in ablations(run)[:1]:
        own = rows(table, kind=kind, site=site)
        with_signal = in_order(rows(own, signal=True)["task"], ())
        own = rows(own, task=with_signal)
        caption = (
            f"The scoring steps, {doing(kind, site, 'one layer')}: the same items from naming "
            "the letter to free generation. Margin: log-probability of the right text above the "
            "best wrong one (share of its nats). Choice: the right text is the likeliest option. "
            "First token: the right text's first token is the likeliest of the vocabulary. "
            "Teacher forcing: so is each of its tokens after those before it. Colour: share of "
            "the score lost, clipped. Dots: significant loss (exact McNemar test, sign flips for "
            "the margin; Holm over the layers). The 95 % intervals are in ladder.parquet. At the "
            "right: the intact model. Tasks with signal on some step "
            f"(n = {spread(own['n_items'])})."
        )
        alt = "Grids of layers by way of scoring, coloured by the share lost."
        draw = partial(ladder, own, kind, site)
        figures += [FigureSpec(f"ladder_{kind}_{site}", draw, caption, alt)] if with_signal else []
    return figures


def _over_draws(run: RunTables) -> str:
    """What knows of several draws of few-shot examples and what does not; empty if there is one."""
    effects = run.table("effects")
    if effects is None or "n_examples" not in effects:
        return ""
    if not (numbers(effects, "n_examples") > 1).any():
        return ""
    return (
        f" These are means over items and {spread(effects['n_examples'])} draws of the few-shot "
        "examples; intervals and tests count the spread of both. The rest of this page is from "
        "the first draw alone, and holds for these examples. Depths by ablation, the scoring "
        "steps and what a passage protects are left out."
    )


def sections(run: RunTables) -> list[Section]:
    """Role maps first, the numbers and what has no signal last."""
    numbers = (*effects_tables(run), *signal_table(run, True))
    silent = tuple(signal_table(run, False))
    return [
        Section("roles", "Role map", 5, _ROLE_WORDS + _over_draws(run), tuple(role_maps(run)),
                kinds=ROLES),
        examples_section(run),
        Section("accuracy", "Accuracy per layer", 10, "", tuple(accuracies(run))),
        Section("head-effects", "Ablation of heads", 12, _HEAD_WORDS, tuple(head_effects(run)),
                tuple(head_effects_tables(run)), kinds=(HEADS,)),
        Section("sets", "Ablation of blocks and sets", 14, _SET_WORDS, tuple(set_effects(run))),
        Section("ladder", "Scoring steps", 18, _LADDER_WORDS, tuple(ladders(run)),
                tuple(ladder_tables(run)), kinds=(SCORING,)),
        books_section(run),
        Section("protocols", "Protocol comparison", 20, _PROTOCOL_WORDS, tuple(comparisons(run))),
        Section("effects", "Effects in numbers", 90, _power_words(run), (), numbers),
        Section("silent", "No signal", 95, _SILENT_WORDS, (), silent, kinds=(SILENT,)),
    ]  # fmt: skip


def effects_tables(run: RunTables) -> list[Table]:
    """The largest effects, significant ones first, and all of them on demand."""
    effects = effects_of_layers(run)
    if effects is None:
        return []
    columns = effect_columns("p_holm", "Holm")
    shown, n, note = _effects(effects, columns)
    title = f"Largest effects ({min(_TOP, len(shown))} of {n})"
    top = Table(title, heads(columns), shown[:_TOP])
    return [top, Table(f"All effects ({n})", heads(columns), shown, True, note)]


def head_effects_tables(run: RunTables) -> list[Table]:
    """The heads with the largest effects, significant ones first, and all of them on demand."""
    of_heads = effects_of_layers(run, heads=True)
    effects = pd.DataFrame() if of_heads is None else rows(of_heads, signal=True)
    if effects.empty:
        return []
    columns = effect_columns("p_bh", "BH")
    shown, n, note = _effects(effects, columns)
    title = f"Strongest heads ({min(_TOP, len(shown))} of {n})"
    top = Table(title, heads(columns), shown[:_TOP])
    return [top, Table(f"All effects of heads, tasks with signal ({n})", heads(columns), shown,
                       True, note)]  # fmt: skip


def _effects(effects: pd.DataFrame, columns: Sequence[Column]) -> tuple[list[list[str]], int, str]:
    """Effects as text, strongest first, how many there are, and where the others are."""
    ranked = effects.sort_values(
        by=["significant", "share_lost"], ascending=False, kind="stable", na_position="last"
    )
    shown = cells(columns, ranked.head(_MOST))
    return shown, len(ranked), others(len(ranked), len(shown), "rows are in effects.parquet")


def signal_table(run: RunTables, above_chance: bool) -> list[Table]:
    """The intact model's accuracy in task-protocol pairs with signal, or without."""
    signal = run.table("signal")
    if signal is None:
        return []
    shown = cells(SIGNAL, rows(signal, signal=above_chance))
    silent = "Not shown to be better than blind"
    title = "Intact model, tasks with signal" if above_chance else silent
    return [Table(title, heads(SIGNAL), shown, above_chance)] if shown else []


def ladder_tables(run: RunTables) -> list[Table]:
    """Each rung against the next, and the protocols against each other."""
    steps = run.table("ladder_steps")
    if steps is None:
        return []
    title = f"From step to step, and whether other layers are needed ({len(steps)})"
    return [Table(title, heads(STEPS), cells(STEPS, steps), True)]
