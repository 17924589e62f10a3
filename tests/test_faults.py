"""The lists of faults: that they are about the code as it is.

Whether tests catch them takes longer: `make test-mutants` and `make test-mistakes` put each into
a copy and run the tests.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "within"), [("mutants", "sweep"), ("mistakes", "")])
def test_each_text_is_in_its_file_once_and_each_test_is_there(monkeypatch, name, within):
    monkeypatch.syspath_prepend(ROOT / "tests")
    faults = importlib.import_module("faults")
    listed = importlib.import_module(name)
    assert len({fault.name for fault in listed.FAULTS}) == len(listed.FAULTS)
    for fault in listed.FAULTS:
        text = (faults.PACKAGE / within / fault.file).read_text("utf-8")
        assert text.count(fault.old) == 1, fault.name
        assert fault.old != fault.new
        for test in fault.tests:
            path, _, function = test.partition("::")
            assert (ROOT / path).exists(), fault.name
            if function:
                said = (ROOT / path).read_text("utf-8")
                assert f"def {function.partition('[')[0]}" in said, fault.name
