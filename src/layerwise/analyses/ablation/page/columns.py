"""Columns of the table of effects, on a page and in a notebook."""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.columns import (
    Column,
    Row,
    estimate_column,
    number_column,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.naming import name_intervention
from layerwise.presentation.no_signal import option_name
from layerwise.presentation.section import bounds
from layerwise.presentation.wording import item_counts_text, layer_ranges, number, protocol_words


def _share(row: Row) -> str:
    if not row["signal"]:
        return "no signal"
    return bounds(row, "share_lost", "share_low", "share_high", 100)


def _two(head: str, first: str, second: str, between: str = " → ") -> Column:
    """Two shares in percent."""
    return Column(
        head, lambda row: between.join(number(100 * row[name]) for name in (first, second))
    )


def _guesser_cell(row: Row) -> str:
    """Accuracy and rule of the best guesser; a dash where none was measured."""
    if pd.isna(row["guesser"]):
        return "–"
    rule = row["guesser_rule"] if row["guesser_held"] else "no better than chance"
    return f"{number(100 * row['guesser'])} ({rule})"


def effect_columns(p: str, correction: str) -> tuple[Column, ...]:
    """The columns of effects."""
    return (
        *plain("task", "protocol"),
        Column("intervention", lambda row: name_intervention(row["intervention"])),
        Column("n", item_counts_text),
        _two("accuracy (%)", "acc_intact", "acc"),
        estimate_column("change (points)", "acc_diff", "acc_diff_", -100),
        Column("share lost (%)", _share, True),
        estimate_column("gold log-prob. lost (nats)", "nats", "nats_", 1, 2),
        estimate_column("margin lost (nats)", "margin", "margin_", 1, 2),
        p_column(f"p ({correction})", p),
        p_column(f"p (run, {correction})", "p_run"),
        Column("significant", lambda row: "yes" if row["signal"] and row["significant"] else "no"),
    )


def _favourite_option_cell(row: Row) -> str:
    """The option that the intact model takes most often, and how often; a dash without options."""
    name = option_name(row)
    if not name:
        return "–"
    share = number(100 * row["n_most_taken"] / row["n_items"])
    return f"{name.removeprefix('option ')} {share} %"


SIGNAL = (
    *plain("task", "capability", "protocol"),
    Column("n", item_counts_text),
    estimate_column("accuracy (%)", "accuracy", "", 100),
    number_column("chance (%)", "chance", 100),
    number_column("other questions (%)", "blind", 100),
    number_column("no layers (%)", "no_layers", 100),
    Column("without the question (%)", _guesser_cell),
)

SCORE = (
    *plain("task", "protocol"),
    Column("n", item_counts_text),
    estimate_column("right (%)", "accuracy", "", 100),
    *SIGNAL[5:8],
    Column("takes most", _favourite_option_cell),
    yes_no_column("signal", "signal"),
)


STEPS = (
    *plain("task", "kind", "site"),
    Column("step", lambda row: " → ".join(protocol_words(row[end]) for end in ("first", "second"))),
    Column("n", item_counts_text),
    _two("accuracy (%)", "accuracy_first", "accuracy_second"),
    _two("mean share lost (%)", "share_first", "share_second"),
    estimate_column("difference (points)", "difference", "", 100),
    p_column("p (Holm)", "p_holm"),
    text_column("right both ways", "n_common"),
    Column("layers, first more", lambda row: layer_ranges(row["layers_first"])),
    Column("layers, second more", lambda row: layer_ranges(row["layers_second"])),
    p_column("other layers: p (Holm)", "p_other_layers_holm"),
)


_WAYS = {"closed": "without the passage", "open": "with the passage"}


WITH_PASSAGES = (
    *plain("closed", "open", "protocol"),
    Column("intervention", lambda row: name_intervention(row["intervention"])),
    _two("share lost, closed and open (%)", "share_closed", "share_open", ", "),
    estimate_column("difference (points)", "share_difference", "share_", 100),
    estimate_column("difference (accuracy points)", "difference", "", 100),
    estimate_column("difference (nats)", "nats_difference", "nats_", 1, 2),
    estimate_column("difference (nats of the margin)", "margin_difference", "margin_", 1, 2),
    *(text_column(head, name) for head, name in (
        ("right both ways", "n_common"), ("lost closed alone", "only_closed"),
        ("lost open alone", "only_open"), ("lost both", "lost_both"),
    )),
    p_column("p (corrected)", "p_table"),
    p_column("p (run)", "p_run"),
    Column("loses more", lambda row: _WAYS.get(row["loses_more"], "–")),
)  # fmt: skip


PASSAGE_PAIRS = (
    *plain("closed", "open", "protocol"),
    Column("n", lambda row: item_counts_text({**row, "n_items": row["n_pairs"]})),
    _two("accuracy (%)", "acc_closed", "acc_open", ", "),
    _two("floor (%)", "floor_closed", "floor_open", ", "),
    text_column("right both ways", "n_common"),
    Column(
        "no signal",
        lambda row: (
            " and ".join(row[kind] for kind in ("closed", "open") if not row[f"signal_{kind}"])
            or "–"
        ),
    ),
    text_column("changes that lose more closed", "n_closed_more"),
    text_column("more open", "n_open_more"),
    p_column("both sorts: p (Holm)", "p_holm"),
)
