"""Figures of ``ablation``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.heat import (
    DIVERGING,
    LOSS,
    LOST,
    Mark,
    Row,
    colour_limit,
    head_maps,
    is_significant,
    loss_strips,
    share_lost_tooltip,
)
from layerwise.presentation.charts.lines import (
    Words,
    draw_accuracy,
    draw_ranges,
    draw_series,
    ranges,
    series,
)
from layerwise.presentation.charts.marks import PALE, level, points
from layerwise.presentation.charts.panels import Bar, Panels, task_title
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import (
    by_protocol,
    by_task,
    layers_in,
    numbers,
    parts,
    records,
    rows,
)
from layerwise.presentation.style import FULL_WIDTH, look, protocol_look, with_style
from layerwise.presentation.wording import (
    HEAD_WORDS,
    LAYER_MAIN,
    PROTOCOL_ORDER,
    RUNG_ORDER,
    capitalise,
    in_order,
    intervention_phrase,
    number,
    protocol_phrase,
    protocol_words,
)
from layerwise.stats.share_tests.dissociation import ALPHA

from ..tables.saved_effects import set_name, sets_noun

MOST = 30
LOST_UNIT = "above-floor\naccuracy lost (%)"
LIMITS = -50.0, 125.0
_SURE = Words("filled: significant (Holm)", interval="95 % interval")


@with_style
def role_map(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    signal: pd.DataFrame | None = None,
) -> Figure:
    """Layers that each task needs under each protocol.

    A panel per task, a row per protocol. Colour is the share of the above-floor accuracy that is
    lost, clipped to 0 to 1; a dot marks a loss that is significant after Holm's correction, a
    triangle a gain; hatched rows have no signal.

    ``effects`` is the table ``effects``; ``signal`` is the table ``signal``; what
    has no signal gets a hatched row even if no layer was changed there.
    """
    shown = rows(effects, kind=kind, site=site)
    silent = [] if signal is None else [rows(signal, signal=False)]
    every, layers = pd.concat([shown, *silent]), layers_in(shown)
    marks = (
        Mark(LOSS, is_significant()),
        Mark("significant gain", is_significant(sign=-1), "^", "gain"),
    )
    panels = loss_strips(
        every, "protocol", PROTOCOL_ORDER, layers, marks, _tell_loss, width, left=1.05, least=width
    )
    action = capitalise(intervention_phrase(kind, site, "a layer"))
    return panels.finish(f"{action}: accuracy lost, by task and way of scoring", "layer", bar=LOST)


def _tell_loss(row: Row) -> str:
    what = protocol_words(row.get("rung") or row["protocol"])
    return f"{what}, layer {name_layer(row['layer'])}: {share_lost_tooltip(row)}"


@with_style
def ladder(
    table: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """Loss without each layer at every scoring step, a panel per task.

    Rungs run down from the letter to free generation, layers across. Colour is the share lost of
    what is above the floor (accuracy, or nats of the margin), clipped to 0 to 1; a dot marks a loss
    that is significant after Holm's correction; hatched rungs have no signal. At the right of each
    rung: the intact model's accuracy in percent, or its margin in nats.

    ``table`` is the table ``ladder``.
    """
    shown = rows(table, kind=kind, site=site)
    panels = loss_strips(
        shown, "rung", RUNG_ORDER, layers_in(shown), [Mark(LOSS, is_significant("loss"))],
        _tell_loss, width, left=1.0, right=0.65, beside=_intact,
    )  # fmt: skip
    action = capitalise(intervention_phrase(kind, site, "one layer"))
    title = f"{action}: what is lost, from picking a letter to writing"
    return panels.finish(title, "layer", bar=LOST)


def _intact(row: Row) -> str:
    if pd.isna(row["intact"]):
        return ""
    if row["unit"] == "nats":
        return f"{number(row['intact'], 1)} nats"
    return f"{number(100 * row['intact'])} %"


@with_style
def accuracy_by_layer(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    *,
    signal: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy with each layer intervened on, against the intact model and the measured floor.

    A panel per task. Bands are the paired bootstrap intervals of the effect, drawn about the
    accuracy; dotted lines are the intact model's accuracy, dashed ones that without any layer, in
    the protocol's colour (stated chance where it was not measured). Arrowheads at the right edge
    are the accuracy when asked other items' questions. Protocols without signal are drawn pale and
    without a band.

    ``effects`` is the table ``effects``; ``signal`` is the table ``signal``, if
    accuracies under other questions are to be shown.
    """
    shown = rows(effects, kind=kind, site=site)
    tasks = by_task(shown)
    panels = Panels([task_title(part) for _, part in tasks], width)
    for axes, (task, part) in zip(panels.flat, tasks, strict=True):
        for protocol, line in by_protocol(part):
            seen, words = protocol_look(protocol), Words(interval="95 % interval of the effect")
            named = protocol_words(protocol)
            draw_accuracy(axes, line, protocol, seen, words, x="layer", label=named)
            blind = pd.DataFrame() if signal is None else rows(signal, task=task, protocol=protocol)
            for row in records(blind.dropna(subset=["blind"]) if len(blind) else blind):
                points(  # outside the axis, so that it covers no line
                    axes, [1.0], [100 * row["blind"]], "<", f"blind {protocol}", "other questions",
                    transform=axes.get_yaxis_transform(), ms=3.2, color=seen.color, clip_on=False,
                    alpha=1.0 if row["signal"] else PALE,
                )  # fmt: skip
    panels.flat[0].set_ylim(-3, 103)
    panels.over_layers(layers_in(shown))
    title = f"Accuracy after {intervention_phrase(kind, site, 'one layer')}"
    return panels.finish(title, "layer", ["accuracy (%)"])


@with_style
def protocol_comparison(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    dissociations: pd.DataFrame | None = None,
) -> Figure:
    """The share of the above-floor accuracy lost at each layer, under each protocol.

    Unlike accuracy, the share has one scale under every protocol, so that lines that lie on
    each other mean that the answer does not depend on the way of scoring.

    A panel per task with signal. Filled markers are significant after Holm's correction; ticks at
    the foot mark layers that lose more items under one protocol than under another, of those right
    under both. Protocols without signal are not drawn.

    ``effects`` is the table ``effects``; ``dissociations`` is the table
    ``dissociations``, for the ticks.
    """
    shown = rows(effects, kind=kind, site=site, signal=True)
    tasks = by_task(shown)
    panels = Panels([task_title(part) for _, part in tasks], width, left=0.8)
    for axes, (task, part) in zip(panels.flat, tasks, strict=True):
        level(axes, 0)
        lines = [
            series(line, f"share {protocol}", protocol_look(protocol), "share_lost",
                   ends=("share_low", "share_high"), scale=100, unit=" % lost", sure="significant",
                   label=protocol_words(protocol))
            for protocol, line in by_protocol(part)
        ]  # fmt: skip
        draw_series(axes, lines, _SURE)
        apart: list[int] = []  # cost significantly more under one protocol than under another
        if dissociations is not None and len(dissociations):
            both = ["letter", "choice", "generate"]
            pairs = rows(dissociations, task=task, kind=kind, site=site, first=both, second=both)
            least = pairs[["p_first", "p_second"]].min(axis=1)
            apart = layers_in(pd.DataFrame(pairs.loc[least < ALPHA]))
        points(axes, apart, np.full(len(apart), 0.05), "|", "apart", "one way loses more",
               transform=axes.get_xaxis_transform())  # fmt: skip
    panels.flat[0].set_ylim(*LIMITS)
    panels.over_layers(layers_in(shown))
    title = f"{capitalise(intervention_phrase(kind, site, 'one layer'))}: loss by way of scoring"
    return panels.finish(title, "layer", [LOST_UNIT])


@with_style
def head_effect_maps(
    effects: pd.DataFrame,
    protocol: str | None = None,
    kind: str | None = None,
    site: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """Loss of each task with signal without one head, or one key/value group.

    Colours run about 0, to the largest share of the above-floor accuracy that is lost or gained;
    dots mark what is significant after Benjamini and Hochberg's correction.

    ``effects`` is the rows of ``effects`` that name a head, one of them with signal.
    """
    shown = _rows_or_first(rows(effects, signal=True), kind=kind, site=site, protocol=protocol)
    first, limit = shown.iloc[0], colour_limit(shown, "share_lost")
    heads = HEAD_WORDS[str(first["site"])]
    action = capitalise(intervention_phrase(str(first["kind"]), str(first["site"]), f"one {heads}"))
    return head_maps(
        [(task_title(part), part) for _, part in by_task(shown)],
        "share_lost",
        Bar(DIVERGING, -limit, limit, "share of above-floor accuracy lost (below 0: gained)"),
        f"{action}: accuracy lost {protocol_phrase(first['protocol'])}",
        width,
        heads=heads,
        mark="significant (Benjamini-Hochberg)",
        tell=share_lost_tooltip,
    )


def _rows_or_first(effects: pd.DataFrame, **chosen: str | None) -> pd.DataFrame:
    """The rows of a kind, a site ... each the first that there is if it was not chosen."""
    for name, wanted in chosen.items():
        effects = rows(effects, **{name: wanted or str(effects[name].iloc[0])})
    return effects


@with_style
def set_losses(
    effects: pd.DataFrame,
    kind: str | None = None,
    site: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """The share of the above-floor accuracy that is lost without each block or set.

    A row per set, those with the largest losses if there are more than ``MOST``, in the order of
    the table; a point with its paired bootstrap interval per protocol with signal. Filled points
    are significant after Holm's correction.

    ``effects`` is the rows of ``effects`` that change several places at once, one of them
    with signal.
    """
    shown = _rows_or_first(rows(effects, signal=True), kind=kind, site=site)
    sets = largest_sets(shown)
    shown = rows(shown, intervention=sets)
    first = shown.drop_duplicates("intervention").set_index("intervention").loc[sets]
    names = [set_name(*pair) for pair in zip(first["layers"], first["heads"], strict=True)]
    groups = [
        ({"protocol": protocol}, protocol_look(protocol), protocol_words(protocol))
        for protocol in in_order(shown["protocol"], PROTOCOL_ORDER)
    ]
    tasks = by_task(shown)
    panels = Panels([task_title(part) for _, part in tasks], width, (0.19 * len(sets) + 0.1,),
                    left=0.9)  # fmt: skip
    for axes, (_, part) in zip(panels.flat, tasks, strict=True):
        for at in (0, 100):
            level(axes, at, upright=True)
        drawn = ranges(
            part, sets, "intervention", groups, ("share_lost", "share_low", "share_high"),
            span=0.5, scale=100, unit=" % lost", sure="significant",
        )  # fmt: skip
        draw_ranges(axes, names, drawn, _SURE, longest=18)
    kind, site = (str(shown[name].iloc[0]) for name in ("kind", "site"))
    noun, action = sets_noun(site), action_on_sets(kind, site)
    return panels.finish(
        f"{capitalise(action)}: accuracy lost (lines: 95 % intervals)", LOST_UNIT,
        [noun if noun == "layers" else f"layer: {noun}"],
    )  # fmt: skip


def action_on_sets(kind: str, site: str) -> str:
    """``"skipping several layers at once"``."""
    where = f"several {sets_noun(site)}"
    return f"{intervention_phrase(kind, 'layer' if site == 'layers' else site, where)} at once"


def largest_sets(effects: pd.DataFrame) -> list[str]:
    """The interventions in the order of the table; those that lose most, if there are many."""
    losses = {name: float(numbers(part, "share_lost").mean())
              for (name,), part in parts(effects, intervention=())}  # fmt: skip
    kept = sorted(losses, key=lambda name: -losses[name])[:MOST]
    return [name for name in losses if name in kept]


@with_style
def book_losses(
    books: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """The share lost at each layer without a passage and with it, and their paired difference.

    A column of two panels per protocol. Above: the share of the above-floor accuracy that is lost,
    closed and open book. Below: the share lost without the passage minus that with it, with
    bootstrap 95 % intervals. Triangles mark layers that lose more items without the passage (up)
    or with it (down), of those right both ways.

    ``books`` is the table ``books``, of one pair of tasks and of single layers.
    """
    shown = rows(books, kind=kind, site=site)
    lines = by_protocol(shown)
    titles = [
        [
            f"{protocol_words(protocol)}, n = {line['n_pairs'].iloc[0]}",
            f"({line['n_common'].iloc[0]} right both)",
        ]
        for protocol, line in lines
    ]
    panels = Panels(titles, width, (0.95, 0.95), left=0.8)
    ways = (("closed", "without", "^", look(0)), ("open", "with", "v", look(1)))
    for (above, below), (_, line) in zip(panels.axes, lines, strict=True):
        for axes in (above, below):
            level(axes, 0)
        draw_series(above, [
            series(line, f"share {name}", seen, f"share_{name}", scale=100, unit=" % lost",
                   label=f"{words} the passage: {line[name].iloc[0]}")
            for name, words, _, seen in ways
        ])  # fmt: skip
        difference = series(
            line, "difference", look(2), "share_difference", ends=("share_low", "share_high"),
            scale=100, unit=" points", band=False, line=False,
        )  # fmt: skip
        draw_series(below, [difference], Words(interval="95 % interval of the difference"))
        for name, words, marker, seen in ways:
            more = rows(line, loses_more=name)
            points(below, more["layer"], 100 * numbers(more, "share_difference"), marker,
                   f"more {name}", f"loses more {words} it (Holm)", color=seen.color, mec="black",
                   mew=0.5)  # fmt: skip
    lowest = 100 * float(np.nanmin(numbers(shown, "share_difference")))
    panels.axes[0][0].set_ylim(*LIMITS)
    panels.axes[0][1].set_ylim(LIMITS[0] if lowest > LIMITS[0] + 10 else -LIMITS[1], LIMITS[1])
    panels.over_layers(layers_in(shown))
    title = f"{capitalise(intervention_phrase(kind, site, 'one layer'))}: what the passage protects"
    return panels.finish(title, "layer", [LOST_UNIT, "without minus\nwith (points)"])
