"""Scores of heads on repeated tokens: their part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_noun, count_range
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import HeadsResult, head_columns

_HEADS_WORDS = (
    "Random tokens are given twice. What a head attends to the second time shows whether it can "
    "continue what was there before."
)


def sections(run: RunTables) -> list[Section]:
    """Attention of heads on repeated random tokens, by layer and head, and the highest scores."""
    from .figures import head_score_maps

    heads = run.table("heads_summary")
    if heads is None:
        return []
    chosen = len(rows(heads, induction_head=True))
    # Where what is repeated stands in an encoder-decoder.
    two_stacks = (
        " The encoder reads the tokens twice, and there each occurrence is also asked about the "
        "other, and all tokens about the next. The decoder's self-attention is given them twice, "
        "while the encoder has read others; for cross-attention the encoder has read them once "
        "and the decoder is given them once. Grey: no such score, or no such head."
    )
    caption = (
        f"Mean attention on random tokens that are repeated once, over n = "
        f"{count_range(heads['n_sequences'], 'sequence')}: from the second occurrence of a "
        f"token to "
        "the successor of the first (prefix matching, as induction heads attend), to the token "
        f"before, and to the first occurrence.{two_stacks if stacks().n_encoder else ''} Dots: "
        f"{count_noun(chosen, 'induction head')}, whose prefix matching lies above "
        f"{run.facts.settings['threshold']} with its whole 95 % interval (bootstrap over "
        "sequences)."
    )
    alt = "Heat maps of attention scores, layers by heads, one for each kind of attention."
    figure = FigureSpec("head_scores", partial(head_score_maps, heads), caption, alt)
    ranked = heads.sort_values(by="prefix_matching", ascending=False, kind="stable")
    title = "Heads by prefix matching ({shown} of {n})"
    table = as_text(title, head_columns(heads), ranked, most=200)
    return [Section("heads", "Induction heads", 55, _HEADS_WORDS, (figure,), (table,))]


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from .api import THRESHOLD, fitting_heads

    able = start.able
    yield fitting_heads(able.model, able.loaded, THRESHOLD, able.seed, executor=able.executor)


ANALYSIS = Analysis(
    "heads", HeadsResult, sections,
    extras=(
        Extra(
            "head-scores", "scores of heads on repeated random tokens", _jobs_of_a_profile,
            asks_tasks=False,
        ),
    ),
    done={
        "heads_summary": "Heads were scored by their attention on repeated random tokens.",
    },
)  # fmt: skip
