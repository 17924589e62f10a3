"""A run's figures, tables and words for a paper: files at a column's width, without titles."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.loading import load_results
from layerwise.analyses.registry import tables_of_run
from layerwise.ground.readers import some_of
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.save import picture_bytes
from layerwise.presentation.section import FigureSpec, Table
from layerwise.presentation.style import COLUMN_WIDTH, inches, without_titles
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.provenance import Facts

from ._layers import sections

FORMATS = ("pdf", "svg", "png")
_ESCAPED = str.maketrans({char: f"\\{char}" for char in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip
_BIBTEX = """@software{layerwise,
  title = {layerwise: which layers of a language model retrieve, know and reason},
  version = {VERSION},
  year = {YEAR},
}

@article{song2025demystifying,
  title = {Demystifying the Roles of {LLM} Layers in Retrieval, Knowledge, and Reasoning},
  author = {Song, Xinyuan and others},
  journal = {arXiv preprint arXiv:2510.02091},
  year = {2025},
}
"""


@check_arguments(
    formats=some_of("format of figures", FORMATS), width=lambda _, width: inches(width)
)
def figures_for_paper(
    folder: str | Path,
    out: str | Path,
    *,
    width: float | str = COLUMN_WIDTH,
    formats: str | Sequence[str] = ("pdf",),
) -> list[Path]:
    """Write the figures of a saved run at the width of a paper's column, with what goes with them.

    Beside each figure lie its caption (.txt) and the values of its marks (.csv). Tables are
    written as LaTeX, and ``methods.txt`` and ``references.bib`` are filled in from the run.

    Args:
        folder: the folder of a finished run.
        out: the folder to write to.
        width: of the figures, in inches, or a text such as ``"84mm"``: 3.3 fits a column of
            most papers.
        formats: ``pdf`` (fonts embedded), ``svg`` or ``png``; one or several.

    Returns:
        The files that were written.

    Raises:
        UserError: if the run cannot be read, or the folder not be written.
    """
    run, place = tables_of_run(load_results(folder)), Path(out)
    place.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    with naming_layers_of(run.facts.model), without_titles():
        for section in sections(run):
            for drawing in section.drawings:
                files |= dict(_files_of(drawing, width, formats))
            for number, table in enumerate(section.tables, start=1):
                files[f"{section.anchor}_{number}.tex"] = latex(table).encode()
    files["methods.txt"] = methods(run.facts).encode()
    year = str(run.facts.created)[:4]
    version = run.facts.versions.get("layerwise", "0.1.0")
    files["references.bib"] = _BIBTEX.replace("VERSION", version).replace("YEAR", year).encode()
    for name, content in files.items():
        write_atomically(place / name, content)
    return [place / name for name in files]


def _files_of(
    drawing: FigureSpec, width: float | str, formats: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """A figure's files: its pictures, its caption and the values of its marks."""
    figure = drawing.draw(width=width)
    for kind in formats:
        yield f"{drawing.name}.{kind}", picture_bytes(figure, kind)
    yield f"{drawing.name}.txt", drawing.caption.encode()
    rows = [(axes.get_title("left").replace("\n", " "), text)
            for axes, _, text, _ in getattr(figure, "tooltips", ())]  # fmt: skip
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("panel", "value"), *rows])
    yield f"{drawing.name}.csv", buffer.getvalue().encode()


def latex(table: Table) -> str:
    """A table as a LaTeX ``tabular`` with rules of the booktabs package."""
    lines = [[text.translate(_ESCAPED) for text in row] for row in (table.columns, *table.cells)]
    first, *rest = [" & ".join(row) + r" \\" for row in lines]
    columns = "l" * len(table.columns)
    body = [r"\toprule", first, r"\midrule", *rest, r"\bottomrule"]
    title = f"% {table.title}"
    return "\n".join([title, rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", ""])


def methods(facts: Facts) -> str:
    """What was done, in sentences for a methods section."""
    tasks = ", ".join(f"{task.name} (n = {task.n_items})" for task in facts.tasks)
    versions = facts.versions
    model = facts.model
    return (
        f"We measured {model.name} ({model.n_layers} layers, {model.dtype}; SHA-256 of the weights "
        f"{model.hash[:12]}) with layerwise {versions.get('layerwise', '0.1.0')} "
        f"(torch {versions.get('torch', 'unknown')}). "
        f"Tasks were {tasks}, scored under {', '.join(facts.protocols)}. "
        "Effects are paired by item; intervals are bootstrap intervals over items, and p-values "
        "are exact and corrected by Holm's method. "
        "Nothing is claimed where the model is not above chance and its controls. "
        f"The seed was {facts.seed}.\n"
    )
