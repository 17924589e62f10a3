"""Names from users made safe to draw, and how much room a text takes before it is drawn.

Nothing is drawn here; sizes are for planning line breaks and columns.
"""

from __future__ import annotations

from functools import lru_cache

from matplotlib import font_manager, ft2font

FACE = "DejaVu Sans"
FONT = 7.0
# A mark without width, behind which text goes on from left to right.
_LEFT_TO_RIGHT = "\u200e"
# Mean advance of the face, in em.
_CHARACTER = 0.58


@lru_cache(maxsize=1)
def _font() -> ft2font.FT2Font:
    return ft2font.FT2Font(font_manager.findfont(FACE))


def _drawable(character: str) -> str:
    if not character.isprintable() and character != _LEFT_TO_RIGHT:
        return " "
    return character if _font().get_char_index(ord(character)) else "□"


@lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    """Distance by which a character moves the next one, in em."""
    _font().set_size(100, 72)
    return _font().load_char(ord(_drawable(character))).linearHoriAdvance / 65536 / 100


def label(name: str, longest: int = 24) -> str:
    """A user's name made safe and short for a figure."""
    # Long names lose their middle, since suites often share a beginning. A dollar sign is escaped,
    # or matplotlib would read mathematics into it.
    text = "".join(_drawable(character) for character in name)
    if len(text) > longest:
        head = longest // 2
        text = f"{text[:head]}…{text[len(text) + head - longest + 1 :]}"
    return text.replace("$", r"\$")


def characters(inches: float, size: float = FONT) -> int:
    """Number of characters of ``size`` points that fit into ``inches``, at least one."""
    return max(1, int(inches * 72 / (_CHARACTER * size)))


def text_inches(text: str, size: float = FONT) -> float:
    """Width of a text when drawn, in inches."""
    return sum(map(_advance, text)) * size / 72


def shorten_to_width(text: str, inches: float, size: float = FONT) -> str:
    """A label no wider than some inches, as far as a single character allows."""
    for longest in range(len(text), 0, -1):
        shortened = label(text, longest)
        if text_inches(shortened, size) <= inches:
            return shortened
    return label(text, 1)
