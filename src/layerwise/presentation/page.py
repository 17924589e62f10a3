"""One HTML file with figures inside: a template filled, drawings made into pictures, and saved.

What is on a page is settled by those who hand it in.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from layerwise.ground.process import has_beside
from layerwise.storage.atomic_files import remove_temporaries, write_atomically
from layerwise.storage.places import PAGE_MARK, refuse_foreign_page
from layerwise.storage.provenance import ModelFacts

from .claim import Claim, save_claims
from .naming import model_layer_names
from .section import FigureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What all figures for wide screens may weigh together as SVG, and the most that one may, in bytes.
_ALL, _ONE = 4_000_000, 400_000
_PIXELS_PER_INCH = 145


@dataclass(frozen=True)
class Picture:
    """A drawing as the template takes it."""

    wide: str  # an element of the page
    narrow: str  # an address, for narrow screens
    pixels: int
    caption: str
    alt: str


@dataclass(frozen=True)
class Report:
    """A report: its sentences, and an HTML page that is made on first use.

    Attributes:
        findings: its sentences, most important first; with several runs each begins with
            the name of its run.
        make: what draws the figures and fills the page; gives both.
        write: what writes its first screen as text; the claims in lines if nothing does.
    """

    findings: tuple[Claim, ...]
    make: Callable[[], tuple[str, dict[str, Any]]] = field(repr=False, compare=False)
    write: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _page_parts(self) -> tuple[str, dict[str, Any]]:
        # Most of a small run's time goes into pictures, which who reads its sentences needs not.
        return self.make()

    @property
    def html(self) -> str:
        """The whole page."""
        return self._page_parts[0]

    @property
    def figures(self) -> dict[str, Any]:
        """The figures by name, as matplotlib figures."""
        return self._page_parts[1]

    @cached_property
    def text(self) -> str:
        """The first screen in 80 columns and under 40 lines, for a terminal."""
        if self.write is not None:
            return self.write()
        return "\n".join(f"- {claim.short} ({claim.evidence})" for claim in self.findings)

    def save(self, path: str | Path) -> Path:
        """Write the page as one file; an older file stays until the new one is whole.

        Raises:
            UserError: if the path is a folder, a file that is no page of layerwise, or cannot be
                written, or the disk is full.
        """
        path = Path(path)
        refuse_foreign_page(path)
        remove_temporaries(path.parent, path.name)
        write_atomically(path, self.html.encode())
        return path

    def save_figures(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG and SVG.

        Raises:
            UserError: if the folder cannot be written, or has other files of these names.
        """
        from .save import save_figure

        remove_temporaries(Path(folder))
        named = self.figures.items()
        return [path for name, figure in named for path in save_figure(figure, folder, name)]

    def save_claims(self, folder: str | Path) -> None:
        """Write ``claims.json`` and ``claims.parquet``: what the report says, for programs.

        Raises:
            UserError: if the folder cannot be written, or has other files of these names.
        """
        save_claims(self.findings, Path(folder))

    def _repr_html_(self) -> str:
        # In a frame of its own, so that the page's style does not reach the notebook's.
        page = html.escape(self.html)
        return f'<iframe srcdoc="{page}" style="width:100%;height:80vh;border:0"></iframe>'


def render_template(package: str, template: str, script: str = "", **values: Any) -> str:
    """Fill a template; what is put in is escaped. ``script`` follows that of all pages."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    where = ChoiceLoader([PackageLoader(package, ""), PackageLoader("layerwise.presentation", "")])
    environment = Environment(
        loader=where, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["hash_source"] = _hash_source
    environment.globals["page_mark"] = Markup(PAGE_MARK)
    folder = resources.files("layerwise.presentation")
    style, tables = (
        Markup(folder.joinpath(name).read_text("utf-8")) for name in ("style.css", "tables.js")
    )
    page = environment.get_template(template)
    return page.render(style=style, script=tables + Markup(script), **values)


def _hash_source(script: str) -> str:
    """Hash by which a content security policy names a script: browsers run no other."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def pictures(drawings: Sequence[FigureSpec]) -> tuple[dict[FigureSpec, Picture], dict[str, Any]]:
    """Drawings of no one run in particular as a page takes them, and as figures by name."""
    return render_pictures([(drawing.name, drawing, None) for drawing in drawings])


def render_pictures(
    listed: Sequence[tuple[str, FigureSpec, ModelFacts | None]],
) -> tuple[dict[FigureSpec, Picture], dict[str, Any]]:
    """Pictures of drawings, and figures by their names; narrow ones are made beside wide ones."""
    from .save import picture

    most = min(_ONE, _ALL // max(1, len(listed)))  # bytes of one as SVG
    figures: dict[str, Figure] = {}
    made: dict[FigureSpec, tuple[str, int]] = {}
    with narrow_pictures({drawing: model for _, drawing, model in listed}) as narrow:
        for nth, (name, drawing, model) in enumerate(listed):
            with model_layer_names(model):
                figures[name] = drawing.draw()
                wide = picture(figures[name], drawing.alt, nth, most)
            made[drawing] = wide, round(figures[name].get_figwidth() * _PIXELS_PER_INCH)
        return {
            drawing: Picture(wide, narrow(drawing), pixels, drawing.caption, drawing.alt)
            for drawing, (wide, pixels) in made.items()
        }, figures


# A second process imports what draws for as long as this many narrow pictures take.
_FEWEST = 8


@contextmanager
def narrow_pictures(
    jobs: dict[FigureSpec, ModelFacts | None],
) -> Iterator[Callable[[FigureSpec], str]]:
    """Futures of the narrow picture of each drawing; a second process may begin with them."""
    if not (has_beside() and len(jobs) >= _FEWEST and _n_cores() > 1):
        yield lambda drawing: narrow_picture(drawing, jobs[drawing])
        return
    begun: dict[FigureSpec, Future[str]] = {}

    def one(drawing: FigureSpec) -> str:
        # A process that cannot be started, or was ended by someone, leaves this one to draw.
        with suppress(BrokenProcessPool, KeyError):
            return begun[drawing].result()
        return narrow_picture(drawing, jobs[drawing])

    spawning = get_context("spawn")  # a fork would copy locks that threads of torch hold
    with ProcessPoolExecutor(1, spawning, initializer=_begin) as pool:
        try:
            with suppress(BrokenProcessPool, OSError):
                begun |= {each: pool.submit(narrow_picture, each, jobs[each]) for each in jobs}
            yield one
        finally:  # after an interrupt, what is not begun is not waited for
            pool.shutdown(cancel_futures=True)


def narrow_picture(drawing: FigureSpec, model: ModelFacts | None) -> str:
    """The narrow picture of one drawing, as a ``data:`` address."""
    from .save import png_address
    from .style import COLUMN_WIDTH

    with model_layer_names(model):
        return png_address(drawing.draw(width=COLUMN_WIDTH))


def _n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _begin() -> None:
    """In the second process: leave interrupts to the first, and end with it however it ends."""

    def end_with(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        Thread(target=end_with, args=(parent,), daemon=True).start()
