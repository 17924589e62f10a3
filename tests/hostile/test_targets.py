"""Whatever lies where something is written: it stays, unless layerwise wrote it of that kind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from layerwise.results import AblationResult
from tests import commands, test_saving
from tests.analysis import word_task, write_jsonl
from tests.hostile.documents import TEXTS, VALUES
from tests.hostile.extent import fuzz
from tests.hostile.killed_commands import BUDGET, finished_run_folder, kind_model
from tests.hostile.strings import FILE_NAMES
from tests.hostile.test_fuzzer import outcome
from tests.test_saving import DOORS

OF_DOORS, OF_COMMANDS = 7, 40
RUN, TASK = "run", "keys.jsonl"
# Files of one kind may replace each other; every other door is a kind of its own.
KINDS = {
    "page": ("grid .html", "report", "report.html", "comparison.html"),
    "picture": ("grid .png", "grid .svg", "grid .pdf", "figure", "figure as png"),
    "claims": ("claims", "table of claims"),
    "table": ("results", "list of a comparison", "table of a comparison", "page of a comparison"),
}
KIND_OF = {door: door for door in DOORS} | {
    door: kind for kind, doors in KINDS.items() for door in doors
}


@functools.cache
def own_files(door: str) -> dict[str, bytes]:
    """The files that a door writes into an empty folder."""
    name, write = DOORS[door]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        place.mkdir()
        write(place / name)
        return {path.name: path.read_bytes() for path in place.iterdir()}


# Wide spaces are harmless in a sentence, though Python calls them unprintable.
SHOWN = [name for name in FILE_NAMES.values() if "\u3000" not in name]
NEW = ["new.csv", "new.PNG", "sub/new.parquet", "up/new.html", "config.json", "model.safetensors",
       "tuned_lens.safetensors", "requests.jsonl", "run.json", "estimates.parquet", ".", "..",
       *SHOWN, *(f"{name}.svg" for name in SHOWN)]  # fmt: skip
NAMES = st.sampled_from([*dict(DOORS.values()), *dict(DOORS.values()), *NEW])

Put = Callable[[Path], object]


def linked(target: str) -> Put:
    return lambda path: path.symlink_to(path.name if target == "itself" else target)


FOREIGN: st.SearchStrategy[Put] = st.one_of(
    st.sampled_from(
        [test_saving.table, test_saving.weights, test_saving.link, test_saving.dangling_link,
         test_saving.pipe, test_saving.folder]
    ),
    st.sampled_from(["/dev/zero", "/dev/full", "itself", "..", "keys.jsonl"]).map(linked),
    st.one_of(
        st.binary(max_size=60),
        TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
        VALUES.map(lambda value: json.dumps(value).encode()),
    ).map(lambda content: lambda path: path.write_bytes(content)),
)  # fmt: skip


class Place:
    """A folder with drawn files, and the kind of those that layerwise wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds: dict[str, str] = {}
        write_jsonl(folder / TASK, word_task(2).items)

    def fill(self, own: list[str], foreign: list[tuple[str, Put]]) -> None:
        """Put files of these doors there, then those of others, some in their places."""
        for door in own:
            for name, content in own_files(door).items():
                (self.folder / name).write_bytes(content)
                self.kinds[name] = KIND_OF[door]
        for name, put in foreign:
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            if path.is_dir() or path.is_symlink():
                continue
            path.unlink(missing_ok=True)
            kind = self.kinds.pop(name, None)
            put(path)
            # A list names it, so that a file or link there is a damaged table, and written again.
            if kind == "table" and (path.is_symlink() or path.is_file()):
                self.kinds[name] = kind

    def state(self) -> dict[str, Any]:
        """Contents of a folder: files with their bytes, links with their targets."""
        return {
            str(path.relative_to(self.folder)): os.readlink(path) if path.is_symlink()
            else path.read_bytes() if path.is_file() else path.lstat().st_mode
            for path in self.folder.rglob("*")
        }  # fmt: skip

    def check(self, before: dict[str, Any], written: set[str] | None) -> None:
        """Nothing is changed by a refusal (None), and only these kinds by what was done."""
        after = self.state()
        changed = {name for name, content in before.items() if after.get(name) != content}
        assert {self.kinds.get(name) for name in changed} <= (written or set()), changed
        assert written is not None or after.keys() == before.keys()


FILLED = {
    "own": st.lists(st.sampled_from(list(DOORS)), max_size=3),
    "foreign": st.lists(st.tuples(NAMES, FOREIGN), max_size=6),
}


def test_no_door_replaces_what_is_not_of_its_kind(monkeypatch, count):
    # What is computed of the tables takes most of the time of saving.
    monkeypatch.setattr(AblationResult, "derived_tables", lambda self: {})

    @fuzz(OF_DOORS, door=st.sampled_from(list(DOORS)), name=NAMES, usual=st.booleans(), **FILLED)
    def tried(door: str, name: str, usual: bool, own: list[str], foreign: Any):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "inside").mkdir()
            place = Place(Path(folder) / "inside")
            place.fill(own, foreign)
            usual_name, write = DOORS[door]
            before = place.state()
            done = outcome(lambda: [write(place.folder / (usual_name if usual else name))])
            place.check(before, None if done is None else {KIND_OF[door]})
        count("written targets")


def commands_to(out: str, other: str) -> dict[str, tuple[tuple[object, ...], set[str]]]:
    """Commands that write to a path, with the kinds of files that each may replace."""
    asked = ("--task", TASK, "--protocol", "continuation", "--fewshot", 0, *BUDGET)
    tiny, run, another = (
        kind_model("decoder"),
        finished_run_folder("decoder"),
        finished_run_folder("seq2seq"),
    )
    again = {"page", "picture", "claims"}
    return {
        "report": (("report", run, another, "--out", out), {"page"}),
        "report beside": (("report", RUN, "--out", out), again),
        "figures": (("figures", RUN, "--format", "svg", "--out", out), set()),
        "compare": (("compare", run, another, "--resamples", 100, "--out", out), again | {"table"}),
        "ablate": (("ablate", tiny, *asked, "--out", out), set()),
        "decide": (("decide", tiny, *asked, "--out", out), set()),
        "prune": (("prune", tiny, "--remove", 1, *asked, "--out", out), set()),
        "transplant": (("transplant", tiny, tiny, *asked, "--out", out, "--write", other), set()),
        "train-lens": (("train-lens", tiny, "--task", TASK, "--steps", 2, "--text", TASK,
                        *BUDGET, "--out", out), set()),
    }  # fmt: skip


def add_run(place: Place) -> None:
    """A finished run in the place, whose page and figures may be made again."""
    shutil.copytree(finished_run_folder("decoder"), place.folder / RUN)
    for name in place.state():
        if name.startswith(f"{RUN}/"):
            kind = {".html": "page", ".svg": "picture", ".png": "picture"}.get(Path(name).suffix)
            place.kinds[name] = "claims" if f"{RUN}/claims." in name else kind or "run"


OUTS = st.one_of(
    NAMES, st.sampled_from([RUN, f"{RUN}/report.html", f"{RUN}/records.parquet", f"{RUN}/figures",
                            TASK, f"{TASK}/new", "figures", "new", "new/deeper"])
)  # fmt: skip
NAMED = ("report", "report beside", "figures", "compare", "ablate", "decide", "prune",
         "transplant", "train-lens")  # fmt: skip


def test_no_command_replaces_what_is_not_of_its_kind(count):
    @fuzz(OF_COMMANDS, name=st.sampled_from(NAMED), out=OUTS, other=OUTS, **FILLED)
    def tried(name: str, out: str, other: str, own: list[str], foreign: Any):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "inside").mkdir()
            place = Place(Path(folder) / "inside")
            place.fill(own, foreign)
            add_run(place)
            before = place.state()
            commands_here = commands_to(out, other)
            assert (*commands_here,) == NAMED
            words, kinds = commands_here[name]
            with contextlib.chdir(place.folder):
                ended = commands.run(*words)
            if ended.code:
                commands.assert_refused(ended)
            place.check(before, None if ended.code else kinds)
        count("written targets")


def test_a_door_that_replaces_another_file_is_found(tmp_path: Path):
    place = Place(tmp_path)
    place.fill(["results"], [])
    before = place.state()
    (tmp_path / "records.parquet").write_bytes(own_files("grid .parquet")["look.parquet"])
    with pytest.raises(AssertionError, match=r"records\.parquet"):
        place.check(before, {"grid .parquet"})
    place.check(before, {"table"})
