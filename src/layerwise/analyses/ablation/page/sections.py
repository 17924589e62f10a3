"""The parts of a page on what changing layers, heads, blocks and sets costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd

from layerwise.presentation.claim import APART, ONE_ORDER, ROLES, SCORING, SILENT
from layerwise.presentation.columns import as_text, run_table_as_text
from layerwise.presentation.over_run import HOLM, LEVEL, RATE, count_that_hold, n_tests
from layerwise.presentation.rows import by_protocol, by_task, numbers, parts, records, rows
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import (
    HEAD_WORDS,
    PROTOCOL_ORDER,
    capitalise,
    count_range,
    in_order,
    intervention_phrase,
    join_words,
    protocol_phrase,
    spread,
    writes,
)
from layerwise.storage.run_tables import RunTables

from ..claims.differences import compared_capabilities, with_named_sides
from ..claims.scoring_steps import PASSAGES
from ..tables.saved_effects import (
    HEADS,
    SETS,
    ablations,
    detectable_effect_text,
    effects_of_layers,
    kinds_and_sites,
    select_effects,
    sets_noun,
    single_layers,
)
from .columns import PASSAGE_PAIRS, SIGNAL, STEPS, WITH_PASSAGES, effect_columns
from .examples import examples_section

_ROLE_WORDS = (
    "Share of the accuracy above guessing that is lost when a layer is left out or overwritten. "
    "It shows what breaks without the layer, not what the layer does."
)
_CROSSING_WORDS = (
    "If layers differ only in how much damage their loss does, a point per layer rises along one "
    "curve, whatever the difficulty of either task. Two layers cross if each costs one capability "
    "more than the other layer does. Then no one order of layers explains both capabilities. That "
    "no layers are shown to cross does not show that there is one order."
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
_STEP_WORDS = (
    "Choosing and writing differ in several things at once. Each scoring step changes one of "
    "them, on the same items and, below the letter, the same prompts. A harder step loses more at "
    "the same layers. Other layers are needed only if one layer costs more under one step and "
    "another layer costs more under the other, item by item."
)
_SILENT_WORDS = (
    "A task has signal if the intact model beats guessing, its own answers to other items’ "
    "questions, and the model without layers. The tests are exact, one-sided, at 2.5 % after "
    "Holm’s correction over all tasks and ways of scoring. Without signal a layer has nothing to "
    "take away, and nothing is said about layers."
)
_WITH_SIGNAL = "Intact model, tasks with signal"
_WITHOUT_SIGNAL = "Not shown to be better than blind"
_PASSAGE_WORDS = (
    "The same questions with a passage that states the answer, and without it. A task that is "
    "answered more surely loses less under any damage. So a smaller loss with the passage does "
    "not show where knowledge is. The test takes the items that the intact model gets right both "
    "ways. It compares the answers that a layer loses without the passage only with those that it "
    "loses with the passage only. The passage protects if some layers lose more without it, and "
    "others more with it."
)


def _role_map(run: RunTables, kind: str, site: str) -> FigureSpec:
    from .figures import role_map

    effects = select_effects(run, kind, site)
    action = intervention_phrase(kind, site, "a layer")
    caption = (
        f"Role map for {action}. A panel per task, grouped by capability, with a row per way "
        f"of scoring; layers run across. Colour: share of the above-floor accuracy "
        "lost, from 0 (as the intact model) to 1 (as without any layer), clipped "
        f"(n = {count_range(effects['n_items'], 'item')} a row). Dot: "
        "loss significant after Holm's correction over the layers of the row (exact McNemar "
        f"test, p < 0.05); triangle: significant gain{_hold(run, effects)}. Hatched: no "
        "signal, so nothing is claimed. The intervals are in the table of effects."
    )
    alt = f"Heat map of accuracy lost by {action}, tasks and ways of scoring by layers."
    draw = partial(role_map, effects, kind, site, signal=run.table("signal"))
    return FigureSpec(f"role_map_{kind}_{site}", draw, caption, alt)


def state_traces(run: RunTables, *, first: bool = False) -> Iterator[FigureSpec]:
    """Capabilities against each other: all pairs, or the one with the largest crossing alone."""
    pairs = compared_capabilities(run)
    pairs = [pair for pair in pairs if pair.layers[0]][:1] if first else pairs
    if not pairs:
        return
    from .state_trace import state_trace

    row = pairs[0].closest[0]
    kind, site = str(row["kind"]), str(row["site"])
    n_items = count_range([row["n_items"] for pair in pairs for row in pair.closest], "item")
    caption = (
        f"Each point is the model when {intervention_phrase(kind, site, 'one layer')}; "
        f"star: the full model. "
        "Marked layers cross: without one, the vertical capability loses more than without the "
        "other, and the horizontal one less (exact sign flips of items on both sides, Holm over "
        f"{row['n_tests']} crossings). Axes: right answers, over the tasks and ways of scoring "
        f"that both capabilities have signal under (n = {n_items}). Differences have intervals "
        "in estimates.parquet."
    )
    alt = "Scatter of one capability's accuracy against another's, a point per layer."
    name = "first_state_trace" if first else "state_traces"
    draw = partial(state_trace, select_effects(run, kind, site), pairs, kind, site)
    yield FigureSpec(name, draw, with_named_sides(pairs[0]) if first else caption, alt)


def _ways(effects: pd.DataFrame) -> str:
    """``"chooses and writes"``: what the model does under each protocol of a table."""
    return join_words(map(writes, in_order(effects["protocol"], PROTOCOL_ORDER)))


def _hold(run: RunTables, shown: pd.DataFrame, *, of_heads: bool = False) -> str:
    """Number of the marks of a figure that hold over the whole run."""
    every = effects_of_layers(run, heads=of_heads)
    assert every is not None
    correction = RATE if of_heads else HOLM
    counts = count_that_hold(rows(shown, significant=True), every, correction)
    return f"; {counts}" if counts else ""


def _accuracy(run: RunTables, kind: str, site: str) -> FigureSpec:
    from .figures import accuracy_by_layer

    effects = select_effects(run, kind, site)
    action = intervention_phrase(kind, site, "one layer")
    caption = (
        f"Accuracy after {action}, by task; a line per way of scoring "
        f"({_ways(effects)}). Dotted: the intact "
        f"model. Dashed: floor, the accuracy without any layer (stated chance where it was not "
        "measured). Arrowheads at the right: the intact model asked other items' questions. "
        "Bands: paired bootstrap 95 % interval of the change "
        f"(n = {count_range(effects['n_items'], 'item')}). Pale lines have no signal."
    )
    alt = f"Line charts of accuracy against the layer, after {action}, one chart per task."
    draw = partial(accuracy_by_layer, effects, kind, site, signal=run.table("signal"))
    return FigureSpec(f"accuracy_{kind}_{site}", draw, caption, alt)


def _head_maps(run: RunTables) -> Iterator[FigureSpec]:
    """A figure for each kind, site and protocol with signal."""
    from .figures import head_effect_maps

    for kind, site in ablations(run, HEADS):
        effects = select_effects(run, kind, site, HEADS, signal=True)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER):
            shown = rows(effects, protocol=protocol)
            noun = HEAD_WORDS[site]
            action = intervention_phrase(kind, site, f"one {noun}")
            caption = (
                f"Share of the above-floor accuracy lost by {action}, layers by {noun}s, "
                f"{protocol_phrase(protocol)} (n = {count_range(shown['n_items'], 'item')} "
                f"a task, tasks with "
                "signal). Red is lost, blue gained. Dot: significant after Benjamini-Hochberg "
                f"correction over the {spread(shown.groupby('task').size())} {noun}s of a task "
                f"(exact McNemar test, q < 0.05{_hold(run, shown, of_heads=True)}). The "
                "intervals are in the table."
            )
            alt = f"Heat maps of accuracy lost by {action}, layers by {noun}s."
            name = f"head_effects_{kind}_{site}_{protocol}"
            yield FigureSpec(name, partial(head_effect_maps, shown), caption, alt)


def _sets(run: RunTables) -> Iterator[FigureSpec]:
    """Roles of blocks and sets, a figure for each kind and site with signal."""
    from .figures import MOST, action_on_sets, set_losses

    for kind, site in ablations(run, SETS):
        shown = select_effects(run, kind, site, SETS, signal=True)
        if shown.empty:
            continue
        n_sets = len(set(shown["intervention"]))
        most = f", the {MOST} of {n_sets} that lose most" if n_sets > MOST else ""
        action = action_on_sets(kind, site)
        caption = (
            f"{capitalise(action)}: share of the above-floor accuracy lost "
            f"(n = {count_range(shown['n_items'], 'item')} a task, tasks with signal; the model "
            f"{_ways(shown)}). A row per block or set of "
            f"{sets_noun(site)}{most}. Lines: paired bootstrap 95 % intervals. Filled: "
            "significant after Holm's correction over the sets of a task and way of scoring (exact "
            f"McNemar test, p < 0.05{_hold(run, shown)}). The numbers are in the tables."
        )
        alt = f"Points with intervals: accuracy lost by {action}."
        draw = partial(set_losses, shown, kind, site)
        yield FigureSpec(f"sets_{kind}_{site}", draw, caption, alt)


def _protocols(run: RunTables, kind: str, site: str) -> Iterator[FigureSpec]:
    """The loss under each protocol, of tasks with signal under two or more."""
    from .figures import protocol_comparison

    effects = select_effects(run, kind, site, signal=True)
    several = [task for task, part in by_task(effects) if len(set(part["protocol"])) > 1]
    shown = rows(effects, task=several)
    if shown.empty:
        return
    caption = (
        f"Does the answer change with the way of scoring? Share of the above-floor accuracy "
        f"lost by {intervention_phrase(kind, site, 'one layer')}, of tasks with signal "
        f"under two or more "
        f"ways (n = {count_range(shown['n_items'], 'item')}). Bands: paired bootstrap 95 "
        "% intervals. Filled markers: significant after Holm's correction over the layers"
        f"{_hold(run, shown)}. Ticks at the foot: of the items right under both ways, "
        "the layer loses more under one (exact tests, Holm over the layers)."
    )
    alt = "Line charts of accuracy lost against the layer, one line per way of scoring."
    apart = run.table("dissociations")
    draw = partial(protocol_comparison, shown, kind, site, dissociations=apart)
    yield FigureSpec(f"protocols_{kind}_{site}", draw, caption, alt)


def _scoring_steps(run: RunTables, kind: str, site: str) -> Iterator[FigureSpec]:
    """Loss without every layer at each scoring step, of tasks with signal at some step."""
    from .figures import ladder

    table = run.table("ladder")
    if table is None:
        return
    shown = rows(table, kind=kind, site=site)
    shown = rows(shown, task=list(rows(shown, signal=True)["task"]))
    if shown.empty:
        return
    caption = (
        f"The scoring steps, {intervention_phrase(kind, site, 'one layer')}: the same "
        f"items from picking "
        "a letter to writing. Margin: log-probability of the right text above the "
        "best wrong one (share of its nats). Chooses: the right text is the likeliest option. "
        "First word: the right text's first token is the likeliest of the vocabulary. "
        "Each word: so is each of its tokens after those before it (teacher forcing). Colour: "
        "share of the score lost, clipped. Dots: significant loss (exact McNemar test, sign flips "
        "for the margin; Holm over the layers). The 95 % intervals are in estimates.parquet. "
        "At the right: the intact model. Tasks with signal on some step "
        f"(n = {spread(shown['n_items'])})."
    )
    alt = "Grids of layers by way of scoring, coloured by the share lost."
    yield FigureSpec(f"ladder_{kind}_{site}", partial(ladder, shown, kind, site), caption, alt)


def _passages(run: RunTables) -> Iterator[FigureSpec]:
    """Protection by a passage, a figure for each pair of tasks."""
    from .figures import book_losses

    books = run.table("books")
    layers = pd.DataFrame() if books is None else single_layers(books)
    if layers.empty:
        return
    kind, site = kinds_and_sites(layers)[0]
    pairs = parts(rows(layers, kind=kind, site=site), closed=(), open=())
    for i, ((closed, opened), shown) in enumerate(pairs):
        sure = shown.loc[shown["loses_more"].notna()]
        n_holding = int((numbers(sure, "p_run") < LEVEL).sum())
        caption = (
            f"{closed} without the passage and {opened} with it, "
            f"{intervention_phrase(kind, site, 'one layer')}. "
            "Above: the share of the above-floor accuracy that is lost, each from its own floor. "
            "Below: the paired difference (bootstrap 95 % intervals, "
            f"n = {count_range(shown['n_pairs'], 'item')} both ways). Triangles: of the "
            f"items right "
            "both ways the layer loses more without the passage (up), or with it (down). Exact "
            "tests allow for lucky and flipped answers: p < 0.05 after Holm's correction over the "
            f"layers of a panel. Of {len(sure)} such layers {n_holding} hold over all "
            f"{n_tests(layers)} tests of the run."
        )
        alt = "Line charts of the accuracy lost by layer, with and without the passage."
        draw = partial(book_losses, shown, kind, site)
        yield FigureSpec(f"books_{kind}_{site}_{i}", draw, caption, alt)


def _draws_note(run: RunTables) -> str:
    """Note on what knows of several draws of few-shot examples; empty if there is one."""
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
    every, first = ablations(run), ablations(run)[:1]
    power = [
        f"{capitalise(protocol_phrase(protocol))}, {detectable_effect_text(cell)}."
        for kind, site in first
        for protocol, cell in by_protocol(select_effects(run, kind, site, signal=True))
    ]
    title = "From step to step, and whether other layers are needed ({n})"
    steps = tuple(run_table_as_text(run, "ladder_steps", title, STEPS))
    step_maps, protocols = (
        tuple(figure for pair in first for figure in figures(run, *pair))
        for figures in (_scoring_steps, _protocols)
    )
    effects = (
        *effects_tables(run),
        *run_table_as_text(run, "signal", _WITH_SIGNAL, SIGNAL, signal=True),
    )
    silent = run_table_as_text(
        run, "signal", _WITHOUT_SIGNAL, SIGNAL, collapsed=False, signal=False
    )
    of_heads = tuple(effects_tables(run, of_heads=True))
    return [
        Section("crossings", "Different layers, or one order?", 4, _CROSSING_WORDS,
                tuple(state_traces(run)), kinds=(APART, ONE_ORDER)),
        Section("roles", "Role map", 5, _ROLE_WORDS + _draws_note(run),
                tuple(_role_map(run, *pair) for pair in every), kinds=ROLES),
        examples_section(run),
        Section("accuracy", "Accuracy per layer", 10, "",
                tuple(_accuracy(run, *pair) for pair in first)),
        Section("head-effects", "Ablation of heads", 12, _HEAD_WORDS, tuple(_head_maps(run)),
                of_heads, kinds=(HEADS,)),
        Section("sets", "Ablation of blocks and sets", 14, _SET_WORDS, tuple(_sets(run))),
        Section("ladder", "Scoring steps", 18, _STEP_WORDS, step_maps, steps, kinds=(SCORING,)),
        passages_section(run),
        Section("protocols", "Protocol comparison", 20, _PROTOCOL_WORDS, protocols),
        Section("effects", "Effects in numbers", 90, " ".join(power), (), effects),
        Section("silent", "No signal", 95, _SILENT_WORDS, (), tuple(silent), kinds=(SILENT,)),
    ]  # fmt: skip


def passages_section(run: RunTables) -> Section:
    """Protection by a passage; empty where there is no pair of tasks."""
    pairs = run.table("book_pairs")
    silent = [
        f"{join_words(row[way] for way in ('closed', 'open') if not row[f'signal_{way}'])} "
        f"{protocol_phrase(row['protocol'])}"
        for row in records(pd.DataFrame() if pairs is None else pairs)
        if not (row["signal_closed"] and row["signal_open"])
    ]
    words = _PASSAGE_WORDS
    if silent:
        words += (
            f" Nothing is claimed without signal of both: there is none of {join_words(silent)}."
        )
    title = "With and without the passage, change by change ({n})"
    tables = (
        *run_table_as_text(run, "book_pairs", "Pairs of tasks", PASSAGE_PAIRS, collapsed=False),
        *run_table_as_text(run, "books", title, WITH_PASSAGES, by="p"),
    )
    figures, kinds = tuple(_passages(run)), (PASSAGES,)
    return Section("books", "What a passage protects", 19, words, figures, tables, kinds=kinds)


def effects_tables(run: RunTables, *, of_heads: bool = False) -> list[Table]:
    """The largest effects of layers and sets, or of heads, significant ones first; then all."""
    effects = effects_of_layers(run, heads=of_heads)
    if effects is None:
        return []
    title, every, columns = "Largest effects", "All effects", effect_columns("p_holm", "Holm")
    if of_heads:
        effects = rows(effects, signal=True)
        title, every = "Strongest heads", "All effects of heads, tasks with signal"
        columns = effect_columns("p_bh", "BH")
    if effects.empty:
        return []
    ranked = effects.sort_values(
        by=["significant", "share_lost"], ascending=False, kind="stable", na_position="last"
    )
    where = "rows are in effects (estimates.parquet)"
    return [
        as_text(f"{title} ({{n}} of {len(ranked)})", columns, ranked.head(15), collapsed=False),
        as_text(f"{every} ({{n}})", columns, ranked, where=where),
    ]
