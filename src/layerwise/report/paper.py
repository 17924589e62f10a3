"""A run's figures, tables and words for a paper: files at a column's width, without titles."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from layerwise.analyses import loading
from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.registry import run_tables
from layerwise.errors import UserError, count_noun
from layerwise.ground.argument_types import SomeNames, known_name_validator
from layerwise.ground.readers import AnyPath, Reads
from layerwise.ground.regular_files import read_regular
from layerwise.presentation.claim import Claim
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.save import picture_bytes
from layerwise.presentation.section import FigureSpec, Table
from layerwise.presentation.style import COLUMN_WIDTH, inches, part_of_figures, without_titles
from layerwise.presentation.wording import MINUS, interval, number, p_value
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.file_list import files_without, states, with_list
from layerwise.storage.places import OutputFolder, refuse_foreign, refuse_unusable_folder
from layerwise.storage.run_tables import RunTables

from ._answer import first_screen
from ._layers import sections
from ._methods import methods, references
from .html import findings_from_tables

FORMATS = ("pdf", "svg", "png")
LIST_FILE = "figures.json"
"""The list of the files that were written, by which they are known when they are written again."""
# A figure is drawn in parts rather than taller than so many times its width, and a table of more
# rows is cut.
_TALLEST, _MOST_ROWS = 1.5, 40
_NOTHING = "–"
# A column of LaTeX whose texts are longer than so many characters breaks their lines.
_LONGEST, _LONG = 40, r"p{0.25\textwidth}"
_ESCAPED = str.maketrans({char: f"\\{char}" for char in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip
_NUMBER = r"([-−]?\d[\d,]*(?:\.\d+)?)"
# Cells of several numbers and others, and what each number adds to the name of its column.
_CELLS = {
    rf"{_NUMBER} \[{_NUMBER}, {_NUMBER}\](?: •)?": ("", " low", " high"),
    rf"{_NUMBER} → {_NUMBER}": (" before", " after"),
    "((?s:.*))": ("",),
}
_ESTIMATE = re.compile(rf"{_NUMBER}(?: \[{_NUMBER}, {_NUMBER}\])?(?P<unit>[^,;(]*)")
_LAYER = re.compile(r"(?:^|, )layer ([^\s,]+)")


Width = Annotated[float | str, Reads(lambda _, width: inches(width), "float | str")]


@check_arguments()
def figures_for_paper(
    folder: AnyPath,
    out: OutputFolder,
    *,
    width: Width = COLUMN_WIDTH,
    formats: Annotated[SomeNames, known_name_validator("format of figures", FORMATS)] = ("pdf",),
) -> list[Path]:
    """Write the figures of a saved run at the width of a paper's column, with what goes with them.

    The first is the picture of layers and capabilities that a page begins with. A figure of several
    rows that would be more than 1.5 times as tall as wide comes in parts (``_part1``, ``_part2``).
    Beside each lie its caption (.txt) and the numbers of its marks (.csv). Tables are written as
    LaTeX, long ones cut after 40 rows, with all rows beside them (.csv). ``tests`` is the table of
    claims with their tests; ``methods.txt`` and ``references.bib`` are filled in from the run.

    Args:
        folder: the folder of a finished run.
        out: the folder to write to: a new or empty one, or one that this function wrote.
        width: of the figures, in inches, or a text such as ``"84mm"``: 3.3 fits a column of
            most papers.
        formats: ``pdf`` (fonts embedded), ``svg`` or ``png``; one or several.

    Returns:
        The files that were written.

    Raises:
        UserError: if the run cannot be read, or the folder not be written, holds other files, or
            files that were changed since.
    """
    place = Path(out)
    known = _previous_files(place)
    run = run_tables(loading.load(folder))
    claims = findings_from_tables(run)
    files: dict[str, bytes] = {}
    with model_layer_names(run.facts.model), without_titles():
        for drawing in _first_screen(run, claims):
            files |= dict(_figure_files(drawing, width, formats))
        for section in sections(run):
            for drawing in section.all_drawings:
                files |= dict(_figure_files(drawing, width, formats))
            for nth, table in enumerate(section.tables, start=1):
                files |= dict(_files_of_table(f"{section.anchor}_{nth}", table))
        files |= dict(_files_of_tests(claims))
    files["methods.txt"] = methods(run).encode()
    files["references.bib"] = references(run.facts).encode()
    for name in files:
        refuse_foreign(place / name, "file of figures", lambda path: path.name in known)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    # The list comes first, so that the same call goes on in the folder of one that was killed.
    write_atomically(place / LIST_FILE, with_list({}, LIST_FILE, hashes | known))
    for name, content in files.items():
        write_atomically(place / name, content)
    write_atomically(place / LIST_FILE, with_list({}, LIST_FILE, known | hashes))
    return [place / name for name in files]


def _previous_files(place: Path) -> dict[str, str]:
    """The files that an earlier call wrote there, by their hashes; others are refused."""
    refuse_unusable_folder(place, "a folder for figures")
    there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if not there:
        return {}
    try:
        content = json.loads(read_regular(place / LIST_FILE))
        known = files_without(content, LIST_FILE)
        of_now = states(place, known)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{place} holds other files ({there[0]}, ...): expected a new or empty folder, or one "
            "that this command wrote; choose another."
        ) from None
    changed = [name for name, state in of_now.items() if state == "changed"]
    if changed:
        raise UserError(
            f"{place / changed[0]} was changed after it was written, and would be replaced: choose "
            "another folder, or delete the file."
        )
    return {name: digest for name, digest in known.items() if of_now[name] == "ok"}


def _first_screen(run: RunTables, claims: Sequence[Claim]) -> Iterator[FigureSpec]:
    """The picture that a page begins with, of a run that changed layers."""
    from .figures.first_screen import layers_by_capability

    answer = first_screen(run, claims)
    if not answer.blocks:
        return
    caption = (
        f"What each capability loses by {answer.change}: share of the above-floor score, the mean "
        "over its tasks with signal, for each way of scoring. Dots: layers that the capability is "
        "shown to need, its rows taken together. Frames: layers that cross with a layer of "
        f"another capability. Hatched: no signal. {answer.headline}"
    )
    alt = "Strips of cells: capabilities and ways of scoring down, layers across."
    yield FigureSpec("first_screen", partial(layers_by_capability, answer), caption, alt)


def _figure_files(
    drawing: FigureSpec, width: float | str, formats: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """A figure's files, or those of each of its parts: pictures, caption, numbers of its marks."""
    n_parts, part = 1, 0
    while part < n_parts:
        with part_of_figures(_TALLEST, part):
            figure: Any = drawing.draw(width=width)
        n_parts = getattr(figure, "n_parts", 1)
        name = drawing.name if n_parts == 1 else f"{drawing.name}_part{part + 1}"
        which = "" if n_parts == 1 else f" (Part {part + 1} of {n_parts}.)"
        for kind in formats:
            yield f"{name}.{kind}", picture_bytes(figure, kind)
        yield f"{name}.txt", f"{drawing.caption}{which}\n".encode()
        marks = [
            [axes.get_title("left").replace("\n", " "), *tooltip_numbers(text)]
            for axes, _, text, _ in getattr(figure, "tooltips", ())
        ]
        yield f"{name}.csv", _csv([("panel", *COLUMNS), *marks])
        part += 1


COLUMNS = ("series", "layer", "value", "low", "high", "unit", "n", "significant")


def tooltip_numbers(text: str) -> list[str]:
    """Numbers of a mark's tooltip, as the entries of ``COLUMNS``."""
    where, _, said = text.rpartition(": ") if ": " in text else ("", "", text)
    layer = _LAYER.search(where)
    series = where if layer is None else (where[: layer.start()] + where[layer.end() :]).strip(", ")
    found = _ESTIMATE.match(said)
    if found is None:
        return [text, *[""] * (len(COLUMNS) - 1)]
    middle, low, high = (
        (one or "").replace(MINUS, "-").replace(",", "") for one in found.groups()[:3]
    )
    items = re.findall(r"n = (\d+)", said)
    sure = "" if "significant" not in said else str("not significant" not in said).lower()
    at = "" if layer is None else layer[1].replace(MINUS, "-")
    unit = found["unit"].strip()
    return [series, at, middle, low, high, unit, items[0] if len(items) == 1 else "", sure]


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode()


def _files_of_table(name: str, table: Table) -> Iterator[tuple[str, bytes]]:
    """A table as LaTeX; of a long one its first rows, and beside it all of them."""
    yield f"{name}.tex", latex(table, name).encode()
    if len(table.cells) > _MOST_ROWS:
        yield f"{name}.csv", _csv(split_estimates(table))


def split_estimates(table: Table) -> list[list[str]]:
    """A table's rows with estimates, their bounds and both ends of a change in columns."""
    columns = list(zip(*table.cells, strict=True))
    parted: list[list[str]] = []
    for head, cells in zip(table.columns, columns, strict=True):
        pattern = next(one for one in _CELLS if any(re.fullmatch(one, cell) for cell in cells))
        found = [re.fullmatch(pattern, cell) for cell in cells]
        for group, more in enumerate(_CELLS[pattern], start=1):
            kept = [one[group] if one else text * (group == 1)
                    for one, text in zip(found, cells, strict=True)]  # fmt: skip
            parted.append([head + more, *map(_plain, kept)])
    return list(map(list, zip(*parted, strict=True)))


def _plain(cell: str) -> str:
    """A cell as programs read it: a number without commas, nothing for a dash."""
    text = "" if cell == _NOTHING else cell.replace(MINUS, "-")
    return text.replace(",", "") if re.fullmatch(_NUMBER, cell) else text


def latex(table: Table, name: str = "") -> str:
    """A table as LaTeX ``tabular`` with rules of the booktabs package; a long one is cut."""
    cells = table.cells[:_MOST_ROWS]
    lines = [[text.translate(_ESCAPED) for text in row] for row in (table.columns, *cells)]
    first, *rest = [" & ".join(row) + r" \\" for row in lines]
    longest = [max(map(len, column)) for column in zip(table.columns, *cells, strict=True)]
    columns = "".join(_LONG if length > _LONGEST else "l" for length in longest)
    body = [r"\toprule", first, r"\midrule", *rest, r"\bottomrule"]
    title = [f"% {table.title}"]
    if len(cells) < len(table.cells):
        title.append(f"% The first {len(cells)} of {len(table.cells)} rows; all are in {name}.csv.")
    return "\n".join([*title, rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}", ""])


def _files_of_tests(claims: Sequence[Claim]) -> Iterator[tuple[str, bytes]]:
    """The claims with their estimates and tests: numbers as CSV, and a table as LaTeX."""
    heads = ("claim", "evidence", "estimate", "low", "high", "unit", "bounds", "p", "test", "items")
    rows, cells = [], []
    for claim in claims:
        found, p = claim.estimate, "" if claim.p is None else f"{claim.p:.6g}"
        values = ["" if math.isnan(one) else f"{one:.6g}" for one in (found or [math.nan] * 3)[:3]]
        named = [found.unit, found.bounds] if found else ["", ""]
        rows.append([claim.short, claim.evidence, *values, *named, p, claim.test, claim.items])
        shown = _NOTHING
        if found and math.isnan(found.low + found.high):
            shown = number(found.value, found.digits)
        elif found:
            shown = interval(*found[:3], found.digits)
        sure = _NOTHING if claim.p is None else p_value(claim.p)
        cells.append([claim.short, shown, named[0], sure, claim.test, claim.items])
    if rows:
        yield "tests.csv", _csv([heads, *rows])
        columns = ("claim", "estimate", "unit", "p", "test", "items")
        title = f"Claims and their tests ({count_noun(len(rows), 'claim')})"
        yield "tests.tex", latex(Table(title, columns, cells), "tests").encode()
