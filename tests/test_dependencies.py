"""What the ranges of dependencies promise."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.lowest import lowest


def test_the_lowest_releases_are_not_below_what_transformer_lens_needs():
    """It is nearly pinned, so that a lower promise about what it needs could not be kept."""
    claimed = dict(one.split("==") for one in lowest())
    if Version(metadata.version("transformer-lens")) != Version(claimed["transformer-lens"]):
        pytest.skip("another release of transformer-lens than the lowest is installed")
    needed = map(Requirement, metadata.requires("transformer-lens") or [])
    ours = [one for one in needed if canonicalize_name(one.name) in claimed and one.marker is None]
    assert "transformers" in [one.name for one in ours]
    for one in ours:
        assert one.specifier.contains(claimed[canonicalize_name(one.name)]), str(one)
