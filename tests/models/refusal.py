"""Common form of every refusal of the package, checked in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from layerwise.errors import UserError


@contextlib.contextmanager
def expect_refusal(*parts: str) -> Iterator[None]:
    """Expect a ``UserError`` of one line that has all ``parts`` and says what was expected."""
    with pytest.raises(UserError) as caught:
        yield
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in (*parts, "xpected"):
        assert part in sentence, sentence
