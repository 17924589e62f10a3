"""The part of a page on activation patching.

The figures are drawn elsewhere; here they get their names, captions and alternative texts.
"""

from __future__ import annotations

from functools import partial

import pandas as pd

from layerwise.analyses.shared.left_out import words_and_left_out
from layerwise.presentation.claim import PATCHING
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import rows
from layerwise.presentation.section import FigureSpec, Section, Table, others
from layerwise.presentation.wording import in_order, joined, spread_of
from layerwise.storage.run_tables import RunTables

from .result import CELLS

_PATCHING_WORDS = (
    "Two prompts that differ in one thing have different answers. Putting one run's activation "
    "into the other shows which layer and position carry the difference."
)
_MOST = 2000
PATCHES = {
    "denoising": "the clean run's activation is put into the corrupted run",
    "noising": "the corrupted run's activation is put into the clean run",
}


def patchings(run: RunTables) -> list[FigureSpec]:
    """Patching heat maps, a figure for each direction and site."""
    patching = run.table("patching_summary")
    if patching is None:
        return []
    sections = []
    for direction in in_order(patching["direction"], ("denoising",)):
        of_direction = rows(patching, direction=direction)
        for site in in_order(of_direction["site"], ("resid_pre",)):
            table = rows(of_direction, site=site)
            by_head = bool(table["head"].notna().all())
            sections.append((_heads_patched if by_head else _patched)(table, site, direction))
    return sections


def _patched(table: pd.DataFrame, site: str, direction: str) -> FigureSpec:
    from .figures import patching_map, verb

    caption = (
        f"Activation patching at {site}: {PATCHES[direction]} at one layer and position "
        f"({joined(set(table['protocol']))} prompts). {_where(site)}"
        f"Colour: share of the logit difference {verb(direction)}, over n = "
        f"{spread_of(table['n_items'], 'pair')} a cell, clipped to −1 to 1. Minus signs mark cells "
        "below −0.1, grey what was not patched. The intervals are in the table below."
    )
    alt = f"Heat maps of the share {verb(direction)} by patching {site}, layers by positions."
    draw = partial(patching_map, table, site, direction=direction)
    return FigureSpec(_figure_name(site, direction), draw, caption, alt)


def _heads_patched(table: pd.DataFrame, site: str, direction: str) -> FigureSpec:
    from .figures import patching_heads, verb

    every = "of the stack" if stacks().n_encoder else "from the first changed token on"
    grey = "; grey: not patched, or no such head" if stacks().n_encoder else ""
    caption = (
        f"Activation patching of single heads at {site}: {PATCHES[direction]}, at one position "
        f"or at all {every} ({joined(set(table['protocol']))} prompts). {_where(site)}"
        f"Colour: share of the logit difference {verb(direction)}, over n = "
        f"{spread_of(table['n_items'], 'pair')} a cell{grey}. Dot: differs from 0 by a sign-flip "
        "test over pairs, after Benjamini and Hochberg's correction over all cells of the task (5 "
        "%)."
    )
    alt = f"Heat maps of the share {verb(direction)} by patching {site}, layers by heads."
    draw = partial(patching_heads, table, site, direction)
    return FigureSpec(_figure_name(site, direction), draw, caption, alt)


def _where(site: str) -> str:
    """Which positions are meant where a model has an encoder and a decoder."""
    if not stacks().n_encoder:
        return ""
    if site in ("cross_k", "cross_v"):
        return (
            "Every decoder layer has its own, made of the encoder's output at the prompt's "
            "positions. "
        )
    return (
        "The encoder is patched at the prompt's positions, the decoder at what it begins with; "
        "answer: the position where the answer's first token is predicted. "
    )


def _figure_name(site: str, direction: str) -> str:
    return f"patching_{site}" if direction == "denoising" else f"patching_{site}_{direction}"


def patching_table(run: RunTables) -> list[Table]:
    """The patched cells that recover most, and all of them on demand."""
    patching = run.table("patching_summary")
    if patching is None:
        return []
    ranked = patching.sort_values(by="recovered", ascending=False, kind="stable")
    shown = cells(CELLS, ranked.head(_MOST))
    note = others(len(ranked), len(shown), "rows follow from patching.parquet")
    return [Table(f"Patched cells by share ({len(ranked)})", heads(CELLS), shown, True, note)]


def sections(run: RunTables) -> list[Section]:
    """Heat maps, and the cells in numbers."""
    return [
        Section("patching", "Activation patching", 40,
                words_and_left_out(_PATCHING_WORDS, run.facts, "activation patching"),
                tuple(patchings(run)), tuple(patching_table(run)), kinds=(PATCHING,)),
    ]  # fmt: skip
