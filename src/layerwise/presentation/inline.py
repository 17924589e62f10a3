"""Figures as part of a page: in few bytes, with a tooltip for every mark.

Files of figures are the business of ``save``.
"""

from __future__ import annotations

import re
from html import escape

from markupsafe import Markup
from matplotlib.figure import Figure

from .save import figure_bytes, png_address

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
    """The figure as an element of a page: its SVG, or a PNG if that has over ``largest`` bytes.

    ``nth`` is its number on the page, so that names within it are its own.
    """
    drawing = _plain(figure_bytes(figure, "svg").decode(), nth)
    tooltips = _tooltips(figure)
    for inner in (drawing + tooltips, drawing):
        if len(inner) <= largest:
            width, height = (72 * inches for inches in figure.get_size_inches())
            box = f'viewBox="0 0 {width:.2f} {height:.2f}"'
            return Markup(f'<svg role="img" aria-label="{escape(alt)}" {box}>{inner}</svg>')
    return Markup(f'<img src="{png_address(figure)}" alt="{escape(alt)}">')


def _plain(svg: str, nth: int) -> str:
    """What is within an SVG, without what a page needs no more, and with names of its own."""
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
