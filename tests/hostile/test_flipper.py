"""Damaged files of every kind: each damage is told, or changes nothing, or shows in a hash."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest

from tests.hostile.damage import REPLACED, Damage, FileReplacement, drawn_damages
from tests.hostile.extent import FLIPS, SEED
from tests.hostile.flipped_files import QUICK, SLOW
from tests.hostile.flipper import FlippedFile, Reading, judge_damages

# Where a model is loaded or a run made for each damage, there are fewer of them.
EACH_QUICK, EACH_SLOW = max(1, FLIPS // 15), max(1, FLIPS // 200)


@pytest.mark.long(but=["results"])
@pytest.mark.parametrize("kind", [*QUICK, *SLOW])
def test_damage_to_a_file_or_a_pipe_in_its_place_is_told_or_changes_nothing(kind: str, count):
    makers, n = (QUICK, EACH_QUICK) if kind in QUICK else (SLOW, EACH_SLOW)
    verdicts: Counter[str] = Counter()
    silent = []
    for index, kept in enumerate(list(makers[kind]())):  # before damaged ones leave files too
        damages: list[Damage | FileReplacement] = list(
            drawn_damages(kept.path.read_bytes(), kept.path.suffix, n, [SEED, index])
        )
        if kind != "parts" and hasattr(os, "mkfifo"):  # parts are copied before they are read
            order = np.random.default_rng([SEED, index]).permutation(len(REPLACED))
            damages += [REPLACED[place] for place in order[: max(1, FLIPS // 30)]]
        told, bad = judge_damages(kept, damages)
        verdicts += told
        silent += bad
    for verdict, times in verdicts.items():
        count(f"damages {verdict}", times)
    assert not silent, "\n".join(map(str, silent))


def test_the_flipper_finds_a_reader_that_believes_everything(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("1 2 3 4 5 6 7 8 9")
    trusting = FlippedFile("numbers", path, lambda: Reading(path.read_bytes()))
    verdicts, silent = judge_damages(trusting, drawn_damages(path.read_bytes(), ".txt", 20, [SEED]))
    assert len(silent) == sum(verdicts.values()) == 20
    assert path.read_text() == "1 2 3 4 5 6 7 8 9"


def test_the_flipper_finds_a_reader_that_hangs_or_eats_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.hostile.limits.SECONDS", 0.2)
    path = tmp_path / "numbers.txt"
    path.write_text("1")

    def hanging() -> Reading:
        damaged = path.read_text() != "1"
        while damaged:
            pass
        return Reading(None)

    def greedy() -> Reading:
        return Reading(len(bytearray(0 if path.read_text() == "1" else 2**34)))

    flip = Damage("flip", (1,), unnoticed=False)
    for read, what in ((hanging, "TooLongError"), (greedy, "MemoryError")):
        _, (silent,) = judge_damages(FlippedFile("numbers", path, read), [flip])
        assert silent.what.startswith(what)
