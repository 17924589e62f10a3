"""Commands that read saved runs: the report again, whether files are whole, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerwise.errors import UserError
from layerwise.storage.places import (
    FIGURES,
    PAGE,
    is_folder,
    refuse_foreign_page,
    refuse_unusable_folder,
    refuse_unusable_page,
)

from .options import reading_path
from .printing import say, show_claims, show_items, show_series

_Folders = Annotated[
    list[str], typer.Argument(help="Folders of finished runs.", **reading_path("folders"))
]


def report(
    folders: _Folders,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="File to write; report.html in the first folder.", **reading_path("out")
        ),
    ] = None,
) -> None:
    """Make the report again from saved results of one or several runs."""
    from layerwise.report import report_from_folders

    path = Path(folders[0]) / PAGE if out is None else Path(out)
    if out is not None or is_folder(path.parent):  # else it is told that there is no such run
        refuse = refuse_unusable_page if len(folders) == 1 else refuse_foreign_page
        refuse(path)
    made = report_from_folders(list(folders))
    made.save(path)
    if len(folders) == 1:
        made.save_figures(path.parent / FIGURES)
        made.save_claims(path.parent)
    say(made.text)
    say(f"Report: {path}")


def show(
    folders: _Folders,
) -> None:
    """Print the answer of saved runs again: the strip over the layers, and what is claimed."""
    from layerwise.report import report_from_folders

    say(report_from_folders(list(folders)).text)


def items(
    run: Annotated[
        str,
        typer.Argument(help="Folder of a finished run with an ablation.", **reading_path("run")),
    ],
    layer: Annotated[str, typer.Option(help="Which layer, e.g. 11, or encoder.3.")],
    task: Annotated[str, typer.Option(help="Which task of the run.")],
    protocol: Annotated[
        str | None, typer.Option(help="letter, continuation or generate; all if left out.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All items, not only those that changed.")
    ] = False,
) -> None:
    """List items with the answers of the intact model, and without a layer."""
    from layerwise.analyses.ablation.items import items as of_run

    show_items(of_run(run, layer, task, protocol, changed=False), layer, every=every)


def figures(
    folder: Annotated[
        str, typer.Argument(help="Folder of a finished run.", **reading_path("folder"))
    ],
    out: Annotated[
        str, typer.Option("--out", help="Folder to write to.", **reading_path("out"))
    ] = "figures",
    width: Annotated[
        str, typer.Option(help="Of the figures, in inches, or with a unit: 84mm.")
    ] = "3.3in",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pdf, svg or png. Repeatable.")
    ] = None,
) -> None:
    """Write a run's figures for a paper, with captions, values, LaTeX tables and a methods text."""
    from layerwise.report.paper import figures_for_paper

    files = figures_for_paper(folder, out, width=width, formats=formats or ("pdf",))
    say(f"Wrote {len(files)} files to {out}.")


def verify(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, comparison or pruned model.", **reading_path("folder")
        ),
    ],
) -> None:
    """Check file by file whether saved results are unchanged."""
    from layerwise.analyses.verifying import verify as run

    verified = run(folder)
    for name, state in verified.files.items():
        say(f"{name}: {state}")
    if not verified.ok:
        raise UserError(verified.sentence)
    say(verified.sentence)


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of two or more runs of different models, or two logs of "
            "lm-evaluation-harness (samples_*.jsonl).",
            **reading_path("runs"),
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER,FOLDER,...: training seeds of one architecture; two or more groups."
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Folder for the page, tables and figures.",
            **reading_path("out", refuse_unusable_folder),
        ),
    ] = "comparison",
    seed: Annotated[int, typer.Option(help="Decides the bootstrap over items.")] = 0,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap samples.")] = 10_000,
    series: Annotated[
        bool,
        typer.Option(
            "--series",
            help="The runs are of one model's checkpoints, in folders whose names end with their "
            "step, or given as STEP=FOLDER.",
        ),
    ] = False,
) -> None:
    """Test differences between saved runs of different models, or between groups of them."""
    if series:
        from layerwise.analyses.training.api import compare_series
        from layerwise.analyses.training.tables import FOLDER as SERIES

        if group:
            raise UserError(
                "Groups were given of a series: expected the runs of one model's checkpoints; "
                "leave --group or --series out."
            )
        SERIES.refuse_unusable(Path(out))
        joined = compare_series(runs or [], seed=seed)
        joined.save(Path(out))
        show_series(joined, Path(out))
        return
    if runs and len(runs) == 2 and all(path.endswith(".jsonl") for path in runs):
        from layerwise.analyses.comparison.harness_logs import compare_logs

        say(str(compare_logs(*runs)))
        return
    from layerwise.analyses.comparison.api import compare as run
    from layerwise.analyses.comparison.api import runs_or_groups
    from layerwise.analyses.comparison.report import caution
    from layerwise.analyses.comparison.runs import FOLDER

    FOLDER.refuse_unusable(Path(out))
    given = runs_or_groups([Path(folder) for folder in runs or ()], group or [])
    comparison = run(given, seed=seed, n_resamples=resamples)
    page = comparison.save(out)
    say(repr(comparison))
    show_claims(comparison.established()[:5])
    say(caution(comparison))
    say(f"Comparison: {page}")
