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

from .options import path_settings
from .printing import say, say_start, show_claims, show_items, show_series

_Folders = Annotated[
    list[str], typer.Argument(help="Folders of finished runs.", **path_settings("folders"))
]


def report(
    folders: _Folders,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="File to write; report.html in the first folder.", **path_settings("out")
        ),
    ] = None,
) -> None:
    """Make the report again from saved results of one or several runs."""
    say_start("Reading", *folders)
    from layerwise.presentation.claim import refuse_foreign_claims
    from layerwise.report import report_from_folders

    path = Path(folders[0]) / PAGE if out is None else Path(out)
    if out is not None or is_folder(path.parent):  # else it is told that there is no such run
        if len(folders) == 1:
            refuse_unusable_page(path)
            refuse_foreign_claims(path.parent)
        else:
            refuse_foreign_page(path)
    made = report_from_folders(list(folders))
    if len(folders) == 1:
        made.save_figures(path.parent / FIGURES)
        made.save_claims(path.parent)
    made.save(path)
    say(made.text)
    say(f"Report: {path}")


def show(
    folders: _Folders,
) -> None:
    """Print the answer of saved runs again: the strip over the layers, and what is claimed."""
    say_start("Reading", *folders)
    from layerwise.report import report_from_folders

    say(report_from_folders(list(folders)).text)


def items(
    run: Annotated[
        str,
        typer.Argument(help="Folder of a finished run with an ablation.", **path_settings("run")),
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
    say_start("Reading", run)
    from layerwise.analyses.ablation.result import items as of_run

    show_items(of_run(run, layer, task, protocol, changed=False), layer, every=every)


def figures(
    folder: Annotated[
        str, typer.Argument(help="Folder of a finished run.", **path_settings("folder"))
    ],
    out: Annotated[
        str, typer.Option("--out", help="Folder to write to.", **path_settings("out"))
    ] = "figures",
    width: Annotated[
        str, typer.Option(help="Of the figures, in inches, or with a unit: 84mm.")
    ] = "3.3in",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pdf, svg or png. Repeatable.")
    ] = None,
) -> None:
    """Write a run's figures for a paper, with captions, values, LaTeX tables and a methods text."""
    say_start("Reading", folder)
    from layerwise.report.paper import figures_for_paper

    files = figures_for_paper(folder, out, width=width, formats=formats or ("pdf",))
    say(f"Wrote {len(files)} files to {out}.")


def verify(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, comparison or pruned model.", **path_settings("folder")
        ),
    ],
) -> None:
    """Check file by file whether saved results are unchanged."""
    say_start("Checking", folder)
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
            **path_settings("runs"),
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER,FOLDER,...: training seeds of one architecture; two or more groups."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="Folder for the page, tables and figures of runs; comparison if left out.",
            **path_settings("out", refuse_unusable_folder),
        ),
    ] = None,
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
    if runs or group:
        say_start("Comparing", *(runs or ()), *(group or ()))
    folder = Path("comparison" if out is None else out)
    if series:
        from layerwise.analyses.training.api import compare_series
        from layerwise.analyses.training.tables import FOLDER as SERIES

        if group:
            raise UserError(
                "Groups were given of a series: expected the runs of one model's checkpoints; "
                "leave --group or --series out."
            )
        SERIES.refuse_unusable(folder)
        joined = compare_series(runs or [], seed=seed)
        joined.save(folder)
        show_series(joined, folder)
        return
    if any(path.endswith(".jsonl") for path in runs or ()):
        _compare_logs(runs or [], group, out, seed, resamples)
        return
    from layerwise.analyses.comparison.api import compare as run
    from layerwise.analyses.comparison.api import runs_or_groups
    from layerwise.analyses.comparison.report import caution
    from layerwise.analyses.comparison.runs import FOLDER

    FOLDER.refuse_unusable(folder)
    given = runs_or_groups([Path(folder) for folder in runs or ()], group or [])
    comparison = run(given, seed=seed, n_resamples=resamples)
    page = comparison.save(folder)
    say(repr(comparison))
    show_claims(comparison.established_claims()[:5])
    say(caution(comparison))
    say(f"Comparison: {page}")


def _compare_logs(
    paths: list[str], group: list[str] | None, out: str | None, seed: int, resamples: int
) -> None:
    """Print the comparison of two logs of lm-evaluation-harness."""
    from layerwise.analyses.comparison.harness_logs import compare_logs

    if len(paths) != 2 or group or not all(path.endswith(".jsonl") for path in paths):
        raise UserError(
            "Logs are compared two at a time: expected two files samples_TASK_DATE.jsonl, and "
            "neither folders nor --group beside them."
        )
    if out is not None:
        raise UserError(
            "Logs are compared in the terminal, without a page: leave --out out; in Python, "
            "compare_logs(...).items has the items as a table."
        )
    say(str(compare_logs(*paths, seed=seed, n_resamples=resamples)))
