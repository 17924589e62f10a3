"""Pages of runs turned into one HTML text with the template, figures inside.

What is on a page is settled in ``_sections``; the words of the page are in the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from layerwise.presentation.finding import Finding
from layerwise.presentation.naming import naming_layers_of
from layerwise.report._beside import narrow_pictures
from layerwise.report._drawings import Drawing
from layerwise.report._sections import Section, facts_tables, sections
from layerwise.report._side_by_side import comparison, differing_tasks
from layerwise.report.run import Run
from layerwise.results.provenance import ModelFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What all figures for wide screens may weigh together as SVG, and the most that one may, in bytes.
_ALL, _ONE = 4_000_000, 300_000
_PIXELS_PER_INCH = 145


@dataclass(frozen=True)
class Page:
    """One run of the report: its name, its tables and its sentences."""

    name: str
    run: Run
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Picture:
    """A drawing as the template takes it: for wide and for narrow screens."""

    wide: str
    narrow: str
    pixels: int
    caption: str
    alt: str


def render(pages: Sequence[Page]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name.

    Args:
        pages: one per run; names of figures get the run's number if there are several.
    """
    parts = [_parts(page.run) for page in pages]
    pictures, figures = _pictures(parts, [page.run for page in pages])
    runs = [page.run for page in pages]
    text = filled(
        "template.html.j2",
        pages=list(zip(pages, parts, map(facts_tables, runs), strict=True)),
        pictures=pictures,
        comparison=comparison(runs, [page.name for page in pages]) if len(pages) > 1 else None,
        differing=differing_tasks(runs),
    )
    return text, figures


def filled(template: str, **values: Any) -> str:
    """A template of this package, filled; what is put in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("layerwise.report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    style = resources.files("layerwise.report").joinpath("style.css").read_text("utf-8")
    return environment.get_template(template).render(style=Markup(style), **values)


def _parts(run: Run) -> list[Section]:
    with naming_layers_of(run.facts.model):
        return sections(run)


def _pictures(
    parts: Sequence[Sequence[Section]], runs: Sequence[Run]
) -> tuple[dict[Drawing, Picture], dict[str, Any]]:
    listed = [
        (f"run{i}_{drawing.name}" if len(parts) > 1 else drawing.name, drawing, run.facts.model)
        for i, (part, run) in enumerate(zip(parts, runs, strict=True), start=1)
        for section in part
        for drawing in section.drawings
    ]
    return _drawn(listed)


def pictures(drawings: Sequence[Drawing]) -> tuple[dict[Drawing, Picture], dict[str, Any]]:
    """Drawings of no one run in particular as a page takes them, and as figures by name."""
    return _drawn([(drawing.name, drawing, None) for drawing in drawings])


def _drawn(
    listed: Sequence[tuple[str, Drawing, ModelFacts | None]],
) -> tuple[dict[Drawing, Picture], dict[str, Any]]:
    """Pictures of drawings, and figures by their names; narrow ones are made beside wide ones.

    Args:
        listed: names of figures, drawings, and the models that layers are named after.
    """
    from layerwise.presentation.save import svg_address

    most = min(_ONE, _ALL // max(1, len(listed)))  # bytes of one as SVG
    figures: dict[str, Figure] = {}
    made: dict[Drawing, tuple[str, int]] = {}
    with narrow_pictures({drawing: model for _, drawing, model in listed}) as narrow:
        for name, drawing, model in listed:
            with naming_layers_of(model):
                figures[name] = drawing.draw()
                wide = svg_address(figures[name], most)
            made[drawing] = wide, round(figures[name].get_figwidth() * _PIXELS_PER_INCH)
        small = narrow.all()
    return {
        drawing: Picture(wide, small[drawing], pixels, drawing.caption, drawing.alt)
        for drawing, (wide, pixels) in made.items()
    }, figures
