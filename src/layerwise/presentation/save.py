"""Figures as files and as text for a page, the same bytes each time.

Nothing is drawn here.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.places import holds_mark, refuse_foreign, refuse_unusable_folder

from .style import style

DPI = 200
# What a picture says of who wrote it, and how that stands in its file.
_WRITER = "layerwise"
_MARKS = (
    f"Software\0{_WRITER}", f"<dc:title>{_WRITER}</dc:title>", f"/Creator ({_WRITER})",
)  # fmt: skip
_PALETTE = 256
# SVG of figures as they were when last drawn; matplotlib calls them stale once they are changed.
_SVG: WeakKeyDictionary[Figure, bytes] = WeakKeyDictionary()

AnyCanvas = TypeVar("AnyCanvas", FigureCanvasAgg, FigureCanvasSVG)


def figure_bytes(figure: Figure, file_format: str) -> bytes:
    """The figure as ``"svg"`` or ``"png"`` at 200 dots per inch, without dates or versions."""
    # The same bytes as ``Figure.savefig`` writes, which draws a figure twice: its first time is for
    # the layout, which is settled. A page and a folder show the same SVG, which is drawn once.
    buffer = io.BytesIO()
    if file_format == "svg":
        if figure.stale or figure not in _SVG:
            with _canvas(figure, FigureCanvasSVG) as canvas:
                canvas.print_svg(buffer, metadata={"Date": None, "Creator": _WRITER})
            _SVG[figure] = buffer.getvalue()
            figure.stale = False
        return _SVG[figure]
    with _canvas(figure, FigureCanvasAgg) as canvas:
        canvas.print_png(buffer, metadata={"Software": _WRITER})
    return buffer.getvalue()


def picture_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file; in PDF as TrueType fonts that programs can edit."""
    if kind != "pdf":
        return figure_bytes(figure, kind)
    buffer = io.BytesIO()
    with style(), rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": _WRITER})
    return buffer.getvalue()


def refuse_foreign_picture(path: Path) -> None:
    """Refuse a picture that cannot be written, or would replace another file than a picture."""
    refuse_foreign(path, "picture", _is_picture)


def refuse_foreign_pictures(folder: Path, name: str) -> tuple[Path, Path]:
    """Paths of a figure as PNG and SVG; refused as ``refuse_foreign_picture`` does."""
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    for path in paths:
        refuse_foreign_picture(path)
    return paths


def _is_picture(path: Path) -> bool:
    """True if layerwise wrote a picture."""
    return holds_mark(path, *_MARKS)


@contextmanager
def _canvas(figure: Figure, kind: type[AnyCanvas]) -> Iterator[AnyCanvas]:
    """A canvas to print the figure on, in the house style; the figure is left as it was."""
    own, dpi, stale = figure.canvas, figure.dpi, figure.stale
    try:
        figure.dpi = DPI
        with style():
            yield kind(figure)
    finally:
        figure.dpi = dpi
        figure.set_canvas(own)
        figure.stale = stale


def save_figure(figure: Figure, folder: Path | str, name: str) -> tuple[Path, Path]:
    """Write a figure as PNG (200 dots per inch) and SVG, each whole or not at all.

    Args:
        figure: what to write.
        folder: where to; made if it is not there.
        name: file name without its ending.

    Returns:
        The paths of the PNG and of the SVG file.

    Raises:
        UserError: if the folder cannot be made or written to, or has another file of the name, or
            the disk is full.
    """
    refuse_unusable_folder(Path(folder), "a folder for figures")
    paths = refuse_foreign_pictures(Path(folder), name)
    for path in paths:
        write_atomically(path, figure_bytes(figure, path.suffix[1:]))
    return paths


def png_address(figure: Figure) -> str:
    """The figure as a ``data:`` address: PNG with a palette, a third of the size of full colour."""
    with _canvas(figure, FigureCanvasAgg) as canvas:
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    palette = image.quantize(_PALETTE, dither=Image.Dither.NONE)
    palette.save(buffer, "png", dpi=(DPI, DPI))
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


# Points around a mark at which its tooltip is shown.
_REACH = 3.0
_HEAD = re.compile(r"^.*?<svg [^>]*>", re.DOTALL)
_NOT_NEEDED = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", re.DOTALL)
_SPACES = re.compile(r"\s*\n\s*")
_DIGITS = re.compile(r"(?<!scale\()(\d+\.\d\d)\d+")
_COMMANDS = re.compile(r" ?([MLQC]) (?=[-\d])")
_SHIFT = re.compile(r'transform="translate\((-?[\d.]+) 0\)"/>')
_ID = re.compile(r' id="([^"]*)"')
_USE = re.compile(r'(href="#|url\(#)([^")]+)')


def picture(figure: Figure, alt: str, nth: int, largest: int) -> Markup:
    """The figure as the ``nth`` of a page: SVG, or PNG if that has over ``largest`` bytes."""
    drawing = _strip_svg(figure_bytes(figure, "svg").decode(), nth)
    tooltips = _tooltips(figure)
    for inner in (drawing + tooltips, drawing):
        if len(inner) <= largest:
            width, height = (72 * inches for inches in figure.get_size_inches())
            box = f'viewBox="0 0 {width:.2f} {height:.2f}"'
            return Markup(f'<svg role="img" aria-label="{escape(alt)}" {box}>{inner}</svg>')
    return Markup(f'<img src="{png_address(figure)}" alt="{escape(alt)}">')


def _strip_svg(svg: str, nth: int) -> str:
    """Content of an SVG, without what a page does not need, and with names of its own."""
    svg = _NOT_NEEDED.sub("", _HEAD.sub("", svg).replace("</svg>", "")).replace("xlink:", "")
    names = {name: f"f{nth}-{i}" for i, name in enumerate(dict.fromkeys(
        name for _, name in _USE.findall(svg)
    ))}  # fmt: skip
    svg = _ID.sub(lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", svg)
    svg = _USE.sub(lambda match: f"{match[1]}{names[match[2]]}", svg)
    svg = svg.replace('style="fill: #ffffff"', 'fill="none"')
    svg = _SPACES.sub(" ", _DIGITS.sub(r"\1", svg))
    return _SHIFT.sub(r'x="\1"/>', _COMMANDS.sub(r"\1", svg))


def _tooltips(figure: Figure) -> str:
    """Invisible boxes over the marks, each with its text; marks in one place share a box."""
    height, scale = 72 * figure.get_figheight(), 72 / figure.dpi
    boxes: dict[str, list[str]] = {}
    changes: dict[str, str] = {}
    for axes, (left, top, right, foot), text, change in getattr(figure, "tooltips", ()):
        (x, y), (u, v) = scale * axes.transData.transform([(left, top), (right, foot)])
        x, u, y, v = min(x, u), max(x, u), height - max(y, v), height - min(y, v)
        if u - x < _REACH:
            x, u, y, v = x - _REACH, u + _REACH, y - _REACH, v + _REACH
        box = f"M{x:.1f} {y:.1f}h{u - x:.1f}v{v - y:.1f}H{x:.1f}z"
        boxes.setdefault(box, []).append(text)
        if change and box not in changes:
            changes[box] = f' data-change="{escape(change)}"'
    drawn = "".join(
        f'<path d="{box}"{changes.get(box, "")}>'
        f"<title>{escape(chr(10).join(texts), quote=False)}</title></path>"
        for box, texts in boxes.items()
    )
    return f'<g fill="none" pointer-events="all">{drawn}</g>'
