"""A distillation: its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

from layerwise.analyses.contract import Analysis
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table
from layerwise.storage.run_tables import RunTables

from .columns import GAINS
from .findings import KIND, findings
from .result import DistillationResult
from .words import objective_in_words, trained_in_words

_WORDS = (
    "A student was trained to say what its teacher says, on other texts than those it is asked "
    "here, and asked the same items before and after, beside the teacher."
)


def _figures(run: RunTables) -> list[FigureSpec]:
    """How near the student came to its teacher."""
    from .figures import training_curve

    curve = run.table("distillation_curve")
    if curve is None:
        return []
    settings = dict(run.facts.settings)
    caption = (
        f"Training of the student ({trained_in_words(settings)}). Line: the divergence that is "
        f"minimised ({objective_in_words(settings)}), a mean over the last steps. Points: "
        "KL(teacher, student) at temperature 1 on texts that it is not trained on."
    )
    alt = "Line chart of the divergence between student and teacher against the step of training."
    return [FigureSpec("distillation", partial(training_curve, curve), caption, alt)]


def _tables(run: RunTables) -> list[Table]:
    gains = run.table("distillation_gains")
    if gains is None:
        return []
    title = "What the student can do before and after"
    return [Table(title, heads(GAINS), cells(GAINS, gains))]


def sections(run: RunTables) -> list[Section]:
    """What training brought, and how it went."""
    if run.table("distillation_gains") is None:
        return []
    return [
        Section("distilled", "Distilled from a teacher", 17, _WORDS, tuple(_figures(run)),
                tuple(_tables(run)), kinds=(KIND,)),
    ]  # fmt: skip


ANALYSIS = Analysis("distillation", DistillationResult, sections, findings)
