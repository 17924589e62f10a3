"""Pages whose pictures are left out, where tests look at what is beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest


@contextlib.contextmanager
def blank_pages() -> Iterator[None]:
    """Nothing is drawn."""
    with pytest.MonkeyPatch.context() as patched:
        # First where it is imported to, which is imported with the real one.
        patched.setattr("layerwise.report._page.render_pictures", blank)
        patched.setattr("layerwise.presentation.page.render_pictures", blank)
        yield


def blank(listed):
    from matplotlib.figure import Figure

    from layerwise.presentation.page import Picture

    made = {one: Picture("data:,", "data:,", 145, one.caption, one.alt) for _, one, _ in listed}
    return made, {name: Figure(figsize=(1, 1)) for name, *_ in listed}


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Figures are drawn, but made into pictures only where they are saved beside the page."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("layerwise.presentation.page.narrow_pictures", _no_narrow_pictures)
        patched.setattr("layerwise.presentation.save.picture", lambda *_: "")
        yield


@contextlib.contextmanager
def _no_narrow_pictures(jobs) -> Iterator[Callable[[object], str]]:
    yield lambda drawing: "data:,"
