"""The short HTML that a result shows in a notebook: a heading and a compact table.

Figures and the full report are ``report/``'s business.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd

from layerwise.errors import counted

from .provenance import Facts


def intervals(
    table: pd.DataFrame, estimate: str, low: str, high: str, digits: int = 2
) -> list[str]:
    """Estimates with their bounds as text, or that there are none; a dash if there is nothing."""
    shown = ([number(value, digits) for value in table[name]] for name in (estimate, low, high))
    return [
        "–" if e == "?" else f"{e} (no interval)" if lo == hi == "?" else f"{e} [{lo}, {hi}]"
        for e, lo, hi in zip(*shown, strict=True)
    ]


def number(value: float, digits: int = 2) -> str:
    """A number to some digits after the point, a question mark if there is none."""
    return "?" if pd.isna(value) else f"{value:z.{digits}f}"


def heading(facts: Facts, n_items: int, protocols: Sequence[str], tasks: Sequence[str]) -> str:
    """Model, tasks, protocols and number of items in one line of text."""
    return (
        f"{facts.model.name}; tasks: {', '.join(tasks) or 'none'}; "
        f"protocols: {', '.join(protocols) or 'none'}; {counted(n_items, 'item')}"
    )


def to_html(title: str, text: str, rows: pd.DataFrame, if_empty: str) -> str:
    """A heading, a line and a compact table, all text escaped."""
    body = rows.to_html(index=False, escape=True, border=0, float_format=number, na_rep="")
    return (
        f"<h4>{html.escape(title)}</h4><p>{html.escape(text)}</p>"
        f"{body if len(rows) else f'<p>{html.escape(if_empty)}</p>'}"
    )
