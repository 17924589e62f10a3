"""Figures as files and as text for a page, the same bytes each time.

Nothing is drawn here.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from matplotlib.figure import Figure

from layerwise.errors import UserError
from layerwise.report.figures.style import style

DPI = 200


def figure_bytes(figure: Figure, file_format: str, dpi: int = DPI) -> bytes:
    """The figure as ``"svg"`` or ``"png"``, without dates or versions in its metadata."""
    empty: dict[str, str | None] = {"Date": None, "Creator": None}
    metadata = empty if file_format == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=file_format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, folder: Path | str, name: str) -> tuple[Path, Path]:
    """Write a figure as PNG (200 dots per inch) and SVG.

    Args:
        figure: what to write.
        folder: where to; made if it is not there.
        name: file name without its ending.

    Returns:
        The paths of the PNG and of the SVG file.

    Raises:
        UserError: if the folder cannot be made or written to.
    """
    paths = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_bytes(figure_bytes(figure, path.suffix[1:]))
    except OSError as error:
        raise UserError(
            f"The figure {name!r} could not be written to {str(folder)!r} ({error.strerror}); "
            "a folder that can be written to was expected, so choose another."
        ) from error
    return paths


def svg_address(figure: Figure, largest: int) -> str:
    """The figure as a ``data:`` address: SVG, or PNG if the SVG has over ``largest`` bytes.

    An image in an address runs no scripts and shares no ids with the page around it.
    """
    content = figure_bytes(figure, "svg")
    return _address(content, "svg+xml") if len(content) <= largest else png_address(figure, largest)


def png_address(figure: Figure, largest: int) -> str:
    """The figure as a ``data:`` address: PNG, at half the resolution if over ``largest`` bytes."""
    content = figure_bytes(figure, "png")
    if len(content) > largest:
        content = figure_bytes(figure, "png", dpi=DPI // 2)
    return _address(content, "png")


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
