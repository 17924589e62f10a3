"""Commands that read saved runs: the report again, whether files are whole, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerwise.errors import UserError
from layerwise.storage.atomic_files import is_folder, refuse_unusable_file, refuse_unusable_folder

from .options import READ, path_of, paths_of
from .printing import say, tell_findings


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs.", parser=str, callback=paths_of("folders")),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File to write; report.html in the first folder.",
            callback=path_of("out", refuse_unusable_file),
            **READ,
        ),
    ] = None,
) -> None:
    """Make the report again from saved results; several runs stand side by side."""
    from layerwise.report import report_from_folders

    path = out or folders[0] / "report.html"
    if is_folder(path.parent):  # otherwise it is told that there is no such run
        refuse_unusable_file(path)
    made = report_from_folders(list(folders))
    made.save(path)
    if len(folders) == 1:
        made.save_figures(path.parent / "figures")
    tell_findings(made.findings[:3])
    say(f"Report: {path}")


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, comparison or pruned model.",
            parser=str,
            callback=path_of("folder"),
        ),
    ],
) -> None:
    """Check whether saved results are as they were written, file by file."""
    from layerwise.analyses.verifying import verify as run

    found = run(folder)
    for name, state in found.files.items():
        say(f"{name}: {state}")
    if not found.ok:
        raise UserError(found.sentence)
    say(found.sentence)


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of two or more runs of different models.",
            parser=str,
            callback=paths_of("runs"),
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER,FOLDER,...: training seeds of one architecture; two or more groups."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for the page, tables and figures.",
            callback=path_of("out", refuse_unusable_folder),
            **READ,
        ),
    ] = Path("comparison"),
    seed: Annotated[int, typer.Option(help="Decides the bootstrap over items.")] = 0,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap samples.")] = 10_000,
) -> None:
    """Test what differs between saved runs of different models, or between groups of them."""
    from layerwise.analyses.comparison.api import compare as run
    from layerwise.analyses.comparison.api import runs_or_groups
    from layerwise.analyses.comparison.report import caution

    found = run(runs_or_groups(runs or [], group or []), seed=seed, n_resamples=resamples)
    page = found.save(out)
    say(repr(found))
    tell_findings(found.established()[:5])
    say(caution(found))
    say(f"Comparison: {page}")
