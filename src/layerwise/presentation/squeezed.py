"""SVG that matplotlib wrote, in fewer bytes for a page; files of figures stay as they are."""

from __future__ import annotations

import re


def squeezed(svg: str) -> str:
    """The same picture in two thirds of the bytes, most of which place single letters."""
    shorter = re.sub(r"\n\s*", "\n", re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))
    shorter = re.sub(r"([1-9]\d*\.\d\d)\d+", r"\1", shorter)  # a hundredth of a point is enough
    shorter = shorter.replace("xlink:href", "href").replace("#DejaVuSans", "#D")
    shorter = shorter.replace('id="DejaVuSans', 'id="D')
    return re.sub(r'transform="translate\((-?[\d.]+) 0\)"/>', r'x="\1"/>', shorter)
