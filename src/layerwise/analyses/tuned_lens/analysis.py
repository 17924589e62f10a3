"""A tuned lens's part of the page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

from layerwise.analyses.contract import Analysis
from layerwise.analyses.shared.lens_names import TUNED_DECODER_LENS
from layerwise.presentation.over_run import every_test
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_range
from layerwise.storage.run_tables import RunTables

from .result import TunedLensResult

_TUNED_WORDS = (
    "A translator for each layer, trained on other texts, corrects the lens for what later layers "
    "do to every residual stream alike. The figure shows how near the lens comes to the final "
    "output, with it and without it."
)


def sections(run: RunTables) -> list[Section]:
    """Gain of each depth's translator in nearness to the final distribution."""
    from .figures import tuned_lens_curves

    table = run.table("tuned_lens_layers")
    if table is None:
        return []
    two_stacks = TUNED_DECODER_LENS in set(table["lens"])
    caption = (
        "KL divergence from the final distribution to that of the logit lens and of the tuned lens "
        f"({table['kind'].iloc[0]}; Belrose et al. 2023), after each layer, on n = "
        f"{count_range(table['n_texts'], 'text')} that it was not trained on. Bands: "
        f"bootstrap 95 % "
        f"intervals over texts. Filled: lower than {'without' if two_stacks else 'the logit lens'} "
        f"(signed-rank test, p < 0.05 over {every_test(len(table))} of the run, Holm)."
    )
    if two_stacks:
        caption += (
            " Of the encoder, the whole decoder reads the stream behind each layer: as it is "
            "(decoder lens, the exact run of a shorter model) or translated (a trained probe)."
        )
    alt = "Line chart of the divergence of both lenses against the layer."
    figure = FigureSpec("tuned_lens", partial(tuned_lens_curves, table), caption, alt)
    return [Section("tuned", "Tuned lens", 32, _TUNED_WORDS, (figure,))]


ANALYSIS = Analysis(
    "tuned_lens",
    TunedLensResult,
    sections,
    done={
        "tuned_lens": "A tuned lens, an affine map per depth, was trained and tested on "
        "other texts (Belrose et al. 2023).",
    },
)
