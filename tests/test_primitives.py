"""Examples in the docstrings of what is used alone, from a notebook."""

from __future__ import annotations

import doctest

import pytest

import layerwise as lw
from layerwise.analyses.loading import load
from layerwise.prompts.outcomes import intervene, patch
from layerwise.prompts.residual_lens import LogitLens
from layerwise.sweep.changes.interventions import apply
from layerwise.tasks.in_memory import task_from

PRIMITIVES = [LogitLens, patch, intervene, apply, task_from, load]


@pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda one: one.__name__)
def test_the_example_of_a_docstring_runs(primitive):
    ran = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(primitive, primitive.__name__, globs={}):
        ran.run(example)
    assert ran.tries > 1
    assert ran.failures == 0
    assert getattr(lw, primitive.__name__, getattr(lw.sweep, primitive.__name__, None)) is primitive
