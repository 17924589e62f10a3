"""Finished folders whose files are lost, damaged or edited: told, or made again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.comparison.api import Comparison
from layerwise.analyses.comparison.runs import ComparisonFacts
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.shared.written_model import refuse_occupied_folder
from layerwise.errors import DamagedFileWarning, DamagedResultsError, MadeAgainWarning, UserError
from layerwise.report import Report
from layerwise.results import AblationResult, LensResult, RunFolder, load
from layerwise.runs import folder as runs_folder
from layerwise.runs import records
from layerwise.storage import base
from layerwise.storage.file_list import NOT_KEPT_FILE
from layerwise.storage.parquet import frame
from layerwise.storage.places import PAGE_MARK
from tests import commands, synthetic
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.models.tiny import tiny_model
from tests.stopping import stop_after

REQUESTS = "requests.jsonl"


@pytest.fixture(scope="module")
def ablation() -> AblationResult:
    return synthetic.small_ablation()


@pytest.fixture
def folder(ablation, tmp_path) -> Path:
    ablation.save(tmp_path)
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    return dict(lw.verify(folder).files)


def edit_value(path: Path) -> None:
    """Change a value, and write a table that is whole in itself."""
    table = pd.read_parquet(path)
    first = next(name for name in table.columns if table[name].dtype in (bool, float))
    value = table[first].iloc[0]
    table.loc[table.index[0], first] = not value if table[first].dtype == bool else value + 1
    table.to_parquet(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = [edit_value, Path.unlink, *in_long_runs((truncate,), (lambda path: path.write_text(""),))]


def test_a_saved_folder_lists_its_files_and_verifies(ablation, folder):
    found = lw.verify(folder)
    assert found.ok
    names = ["run.json", "records.parquet", "estimates.parquet"]
    assert dict(found.files) == dict.fromkeys(names, "ok")
    said = commands.run_cleanly("verify", folder)
    assert "records.parquet: ok\n" in said
    assert said.endswith("is as it was written: 3 files have their SHA-256.\n")


@pytest.mark.parametrize("damage", DAMAGES)
def test_records_that_are_not_as_written_are_refused(folder, damage):
    damage(folder / "records.parquet")
    for refused in (load, AblationResult.load, lw.report_from_folders):
        with pytest.raises(UserError, match="give the command that made its folder again"):
            refused(folder)
    outcome = commands.run("verify", folder)
    assert outcome.code == 2
    state = "changed" if (folder / "records.parquet").exists() else "missing"
    assert f"records.parquet: {state}\n" in outcome.out
    assert f"is not as it was written (records.parquet is {state}" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_tables_that_follow_from_the_records_are_made_again(folder, damage):
    whole = (folder / "estimates.parquet").read_bytes()
    damage(folder / "estimates.parquet")
    assert states(folder)["estimates.parquet"] in ("changed", "missing")
    with pytest.warns(MadeAgainWarning, match=r"made again from the others: estimates\.parquet\."):
        load(folder)
    assert (folder / "estimates.parquet").read_bytes() == whole
    assert lw.verify(folder).ok
    load(folder)


@pytest.mark.long
def test_depths_are_joined_again_from_as_many_draws(ablation, folder):
    emergence([ablation], n_resamples=20).save(folder)
    whole = pd.read_parquet(folder / "estimates.parquet")
    (folder / "left_out.parquet").unlink()
    with pytest.warns(MadeAgainWarning, match="left_out"):
        assert len(load(folder)) == 2
    again = pd.read_parquet(folder / "estimates.parquet")
    pd.testing.assert_frame_equal(again, whole)
    assert lw.verify(folder).ok


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("seed", 1), ("protocols", ["generate"]), ("files", {}), ("created", "never")],
)
def test_an_edited_run_json_is_refused(folder, field, value):
    path = folder / "run.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {field: value}))
    with pytest.raises(UserError, match=r"run\.json was changed after it was written"):
        load(folder)
    assert states(folder) == {"run.json": "changed"}


def test_every_flipped_byte_of_run_json_is_told_or_changes_nothing(folder):
    path = folder / "run.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            same = json.loads(bytes(flipped)) == json.loads(whole)
        except ValueError:
            same = False
        assert lw.verify(folder).ok == same


def test_results_whose_run_json_was_deleted_are_refused_whoever_reads_them(folder, ablation):
    (folder / "run.json").unlink()
    says = (
        rf"{folder} holds results \(records\.parquet(, \.\.\.)?\) and no run\.json: the checksums "
        r"of the files and the facts of the run are lost with it, .* so restore it, or delete the "
        r"folder and give the command that made it again\."
    )
    other = synthetic.lens(np.linspace(-9, -1, 9) + np.zeros((5, 9)), "keys", "retrieval")
    for refused in (
        load, lw.report_from_folders, lambda f: lw.compare([f, f.parent]),
        other.save, lambda f: RunFolder.open(f, {}),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            refused(folder)
    outcome = commands.run("report", folder)
    assert (outcome.code, outcome.out) == (2, "")
    assert "no run.json" in outcome.err
    assert not (folder / "report.html").exists()
    with pytest.warns(DamagedFileWarning, match=r"no run\.json in .* AblationResult are read unch"):
        assert AblationResult.load(folder).facts == ablation.facts
    ablation.save(folder)  # all that is there is its own, and is written anew
    assert lw.verify(folder).ok


def test_verify_tells_a_deleted_run_json_and_what_else_is_wrong(folder):
    (folder / "run.json").unlink()
    truncate(folder / "estimates.parquet")
    outcome = commands.run("verify", folder)
    assert outcome.code == 2
    assert outcome.out.startswith("run.json: missing\nrecords.parquet: readable\n")
    assert "estimates.parquet: changed\n" in outcome.out
    assert "(run.json is missing: the checksums of the files and the facts" in outcome.err
    assert "estimates.parquet is missing, damaged" in outcome.err
    assert "delete the folder and give the command that made it again." in outcome.err


def test_verify_tells_a_deleted_list_beside_a_pruned_model_and_of_a_comparison(ablation, tmp_path):
    ablation.save(tmp_path / "pruned" / "compared")
    (tmp_path / "pruned" / "compared" / "run.json").unlink()
    assert states(tmp_path / "pruned")["run.json"] == "missing"
    frame("comparison_layers", []).to_parquet(tmp_path / "comparison.parquet")
    assert states(tmp_path)["comparison.json"] == "missing"
    assert "comparison.json is missing" in lw.verify(tmp_path).sentence


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("seed", -1, r"seed: Input should be greater than or equal to 0"),
        ("model", {"n_layers": 0}, r"0 layers, 0 of an encoder"),
        ("model", {"n_layers": 10**9}, r"1000000000 layers, 0 of an encoder"),
        ("tasks", [{"chance": {"letter": 3}}], r"chance \{'letter': 3"),
    ],
)
def test_impossible_facts_are_refused(folder, field, value, told):
    said = json.loads((folder / "run.json").read_text())
    if isinstance(value, dict):
        value = said[field] | value
    elif isinstance(value, list):
        value = [said[field][0] | value[0]]
    synthetic.list_anew(folder, **{field: value})
    with pytest.raises(UserError, match=told):
        load(folder)


def test_a_folder_without_a_list_of_files_is_refused(folder):
    path = folder / "run.json"
    said = json.loads(path.read_text())
    del said["files"]
    path.write_text(json.dumps(said))
    for refused in (load, AblationResult.load):
        with pytest.raises(DamagedResultsError, match=r"run\.json has no list of files with their"):
            refused(folder)
    assert states(folder) == {"run.json": "changed"}
    assert "run.json has no list of files" in commands.run("verify", folder).err


def test_tables_that_disagree_with_run_json_are_told(folder, ablation):
    said = json.loads((folder / "run.json").read_text())
    model = said["model"] | {"hash": "cd" * 32, "n_layers": 1}
    synthetic.list_anew(folder, model=model, tasks=said["tasks"][:1])
    told = " ".join(lw.verify(folder).problems)
    for problem in ("of different models", "of different items", "tasks that run.json does not",
                    "layers that the model in run.json does not"):  # fmt: skip
        assert f"records.parquet has {problem}" in told or (
            f"records.parquet and run.json are {problem}" in told
        )


def test_results_that_share_a_folder_are_all_listed(folder):
    values = np.linspace(-9, -1, 9) + np.zeros((5, 9))
    lens = synthetic.lens(values, "keys", "retrieval")
    lens.save(folder)
    assert states(folder)["lens.parquet"] == "ok"
    lens.save(folder)
    assert lw.verify(folder).ok
    assert len(load(folder)) == 2


@contextlib.contextmanager
def interrupt_after(writes: int, monkeypatch) -> Iterator[None]:
    """Interrupt what would put one file more than so many in its place."""
    real, done = os.replace, []

    def replace(*paths):
        done.append(paths)
        if len(done) > writes:
            raise KeyboardInterrupt
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield


@pytest.mark.parametrize("writes", [1, 3, *in_long_runs((0,), (4,))])
def test_a_save_that_is_killed_leaves_no_table_that_differs_from_the_list(
    folder, ablation, monkeypatch, writes
):
    other = AblationResult(ablation.records.assign(margin=0.25), ablation.facts)
    with interrupt_after(writes, monkeypatch):
        try:
            other.save(folder)
        except KeyboardInterrupt:
            assert "changed" not in states(folder).values()
    if 0 < writes < 4:
        with pytest.raises(UserError, match=r"is not in the list of run\.json"):
            load(folder)
    else:
        (found,) = load(folder)
        expected = (other if writes else ablation).records["margin"]
        assert found.to_pandas()["margin"].equals(expected)
    other.save(folder)
    assert lw.verify(folder).ok


def test_what_is_not_listed_is_told_and_refused_if_it_is_a_table(folder, ablation):
    (folder / "notes.txt").write_text("mine")
    assert states(folder)["notes.txt"] == "not listed"
    assert lw.verify(folder).ok
    load(folder)
    ablation.records.to_parquet(folder / "lens.parquet")
    with pytest.raises(UserError, match=r"lens\.parquet in .* is not in the list of run\.json"):
        load(folder)
    with pytest.raises(UserError, match=r"lens\.parquet is not in the list of run\.json"):
        LensResult.load(folder)
    assert "lens.parquet is not listed" in commands.run("verify", folder).err


def test_what_cannot_be_verified_is_told(tmp_path):
    for path, told in [
        (tmp_path / "nowhere", "No folder"),
        (tmp_path / ("x" * 300), "at most 255 bytes"),
        (tmp_path, r"No run\.json or comparison\.json"),
    ]:
        with pytest.raises(UserError, match=told) as refusal:
            lw.verify(path)
        assert str(refusal.value).count("expected") == 1
    with RunFolder.open(tmp_path, {}), pytest.raises(UserError, match="is not finished"):
        lw.verify(tmp_path)


@pytest.fixture
def comparison(monkeypatch) -> Comparison:
    """One of no runs, with an empty page."""
    monkeypatch.setattr(Comparison, "report", lambda self: Report((), lambda: (PAGE_MARK, {})))
    tables = {name: frame(f"comparison_{name}", []) for name in Comparison.tables}
    return Comparison(**tables, facts=ComparisonFacts(seed=0, n_resamples=100, runs=()))


def test_a_comparison_lists_its_tables(comparison, tmp_path):
    comparison.save(tmp_path)
    assert lw.verify(tmp_path).ok
    assert Comparison.load(tmp_path).facts == comparison.facts
    comparison.layers.to_parquet(tmp_path / "comparison.parquet")
    with pytest.raises(UserError, match=r"comparison\.parquet was changed after it was"):
        Comparison.load(tmp_path)
    assert states(tmp_path)["comparison.parquet"] == "changed"
    comparison.save(tmp_path)
    path = tmp_path / "comparison.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"comparison\.json was changed after it was written"):
        Comparison.load(tmp_path)
    assert commands.run("verify", tmp_path).code == 2


def test_all_lists_in_a_folder_are_verified(comparison, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("comparison")
    comparison.save(elsewhere)
    for path in elsewhere.iterdir():
        path.rename(folder / path.name)
    both = lw.verify(folder)
    assert both.ok
    assert set(both.files.values()) == {"ok"}
    assert {"run.json", "comparison.json", "comparison.parquet"} <= set(both.files)
    load(folder)
    edit_value(folder / "records.parquet")
    assert states(folder)["records.parquet"] == "changed"
    assert commands.run("verify", folder).code == 2
    truncate(folder / "comparison.parquet")
    assert len(lw.verify(folder).problems) > 1


def test_a_record_of_training_beside_a_model_is_no_series(ablation, tmp_path):
    ablation.save(tmp_path / "compared")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training.json").write_text('{"steps": 100}')
    assert lw.verify(tmp_path).ok
    (tmp_path / "compared").rename(tmp_path.with_name(f"{tmp_path.name}-else"))
    with pytest.raises(UserError, match=r"No run\.json or comparison\.json"):
        lw.verify(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["run.json", "requests.jsonl", "config.json", "compared/run.json", "training.parquet"],
)
def test_a_comparison_is_not_written_into_another_kind_of_folder(comparison, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"holds something else .{name}.: expected an empty"):
        comparison.save(tmp_path)
    says = f"{tmp_path} holds something else ({name}): expected an empty folder, or one with"
    for series in ((), ("--series",)):
        given = ["a", "b", *series, "--out", tmp_path]
        if not (series and name.startswith("training")):
            commands.assert_command_refused("compare", *given, says=says, unchanged=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name.partition("/")[0]]


def test_results_are_not_written_into_the_folder_of_a_comparison(comparison, ablation, tmp_path):
    comparison.save(tmp_path)
    before = commands.contents(tmp_path)
    with pytest.raises(UserError, match=r"something else .comparison_verdicts\.parquet, \.\.\."):
        ablation.save(tmp_path)
    with pytest.raises(UserError, match=r"and no run\.json: expected an empty folder or that of"):
        RunFolder.open(tmp_path, {})
    with pytest.raises(UserError, match="is not empty: expected a new or empty folder"):
        refuse_occupied_folder(tmp_path)
    assert commands.contents(tmp_path) == before


@pytest.mark.parametrize("writes", [0, 1])
def test_a_comparison_that_was_killed_is_made_whole_by_the_next(
    comparison, tmp_path, monkeypatch, writes
):
    comparison.save(tmp_path)
    with interrupt_after(writes, monkeypatch), pytest.raises(KeyboardInterrupt):
        comparison.save(tmp_path)
    with pytest.raises(UserError, match="compare the runs again"):
        Comparison.load(tmp_path)
    (tmp_path / ".comparison.parquet.999999999.tmp").write_text("half")
    comparison.save(tmp_path)
    assert lw.verify(tmp_path).ok
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def make_tiny_run():
    """A run of a tiny model, to be made in a folder as often as it is given."""
    model, task = tiny_model("llama"), word_task(4)
    return lambda folder: ablate(model, task, "letter", out=folder, progress=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "damage"),
    [("records.parquet", truncate), ("estimates.parquet", truncate), (REQUESTS, Path.unlink)],
)
def test_the_same_run_makes_what_is_lost_again(make_tiny_run, tmp_path, name, damage):
    whole = make_tiny_run(tmp_path).records
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damage(tmp_path / name)
    if name == "requests.jsonl":
        again = make_tiny_run(tmp_path)
    else:
        with pytest.warns(MadeAgainWarning, match=name):
            again = make_tiny_run(tmp_path)
    pd.testing.assert_frame_equal(again.records, whole)
    assert lw.verify(tmp_path).ok
    assert (tmp_path / "requests.jsonl").read_bytes() == before["requests.jsonl"]
    assert {path.name for path in tmp_path.iterdir()} == before.keys()


def test_missing_requests_are_told_when_the_results_are_read(make_tiny_run, tmp_path):
    whole = make_tiny_run(tmp_path).records
    (tmp_path / "requests.jsonl").unlink()
    with pytest.warns(DamagedFileWarning, match=r"requests\.jsonl is missing"):
        (read,) = lw.load(tmp_path)
    pd.testing.assert_frame_equal(read.records, whole)
    assert not lw.verify(tmp_path).ok


def test_changed_requests_are_refused_and_their_texts_never_shown(make_tiny_run, tmp_path):
    make_tiny_run(tmp_path)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"context": "', b'"context": "No. '))
    says = "requests.jsonl was changed after it was written (its SHA-256 differs): restore"
    for command in ("report", "show"):
        commands.assert_command_refused(command, tmp_path, says=says, unchanged=tmp_path)
    read = AblationResult.load(tmp_path)
    assert read.questions is not None
    assert read.questions().empty


@pytest.mark.long
def test_a_run_that_is_made_again_can_be_killed_too(make_tiny_run, tmp_path):
    whole = make_tiny_run(tmp_path).records
    (tmp_path / "records.parquet").unlink()

    with pytest.warns(MadeAgainWarning), stop_after(0):
        make_tiny_run(tmp_path)
    with pytest.raises(UserError, match="is not finished"):
        load(tmp_path)
    pd.testing.assert_frame_equal(make_tiny_run(tmp_path).records, whole)


@pytest.mark.long
def test_records_that_were_damaged_before_they_were_listed_are_made_again(make_tiny_run, tmp_path):
    whole = make_tiny_run(tmp_path).records
    truncate(tmp_path / "records.parquet")
    synthetic.list_anew(tmp_path)
    with pytest.warns(MadeAgainWarning, match="missing, damaged or not a Parquet file: the run is"):
        again = make_tiny_run(tmp_path)
    pd.testing.assert_frame_equal(again.records, whole)


def test_parts_of_another_run_or_name_count_as_missing(tmp_path):
    table = frame("lens", [])
    with RunFolder.open(tmp_path / "one", {"seed": 1}) as one:
        one.write_part("a", table)
        (written,) = (tmp_path / "one" / "parts").iterdir()
        with RunFolder.open(tmp_path / "two", {"seed": 2}) as two:
            two.write_part("a", table)
            (theirs,) = (tmp_path / "two" / "parts").iterdir()
            theirs.write_bytes(written.read_bytes())
            assert not two.has_part("a")
        written.with_name(written.name.replace("a", "b")).write_bytes(written.read_bytes())
        assert one.has_part("a")
        assert not one.has_part("b")
        assert not one.has_part("a", "b")
        table.assign(foreign=1).to_parquet(written)
        assert not one.has_part("a")


def test_every_flipped_byte_of_a_part_makes_it_count_as_missing(tmp_path):
    with RunFolder.open(tmp_path, {}) as run:
        run.write_part("a", pd.DataFrame({"correct": [True, False]}))
        (path,) = (tmp_path / "parts").iterdir()
        whole = path.read_bytes()
        for place in range(0, len(whole), 5):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            assert not run.has_part("a")


@pytest.mark.parametrize("lost", ["records", "work"])
def test_a_piece_of_which_one_part_is_damaged_is_made_again(
    make_tiny_run, tmp_path, monkeypatch, lost
):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_tiny_run(tmp_path)
    (path,) = tmp_path.glob(f"parts/{lost}*")
    truncate(path)
    make_tiny_run(tmp_path)
    assert lw.verify(tmp_path).ok


@pytest.mark.parametrize(
    ("owner", "write", "nth"),
    [
        (RunFolder, "write_part", 2),
        (runs_folder, "write_run_file", 2),
        *in_long_runs((base, "write_table", 1), (records, "write_atomically", 1)),
    ],
)
def test_a_run_whose_folder_is_deleted_ends_in_a_sentence_and_begins_again(
    make_tiny_run, tmp_path, monkeypatch, owner, write, nth
):
    real, calls = getattr(owner, write), []

    def deleting(*given: Any) -> None:
        calls.append(given)
        if len(calls) == nth:
            shutil.rmtree(tmp_path / "run")
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, write, deleting)
        with pytest.raises(UserError, match="was deleted or moved while the run wrote to it"):
            make_tiny_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    make_tiny_run(tmp_path / "run")
    assert lw.verify(tmp_path / "run").ok


ANALYSES = Path(__file__).parents[1] / "analyses"
LISTS = [*ANALYSES.glob("*/results/**/run.json"), *ANALYSES.glob("*/results/comparison.json")]


@pytest.fixture
def run_without_requests(tmp_path: Path) -> Path:
    """Of a run whose requests are not there, and which says so."""
    lw.ablate(tiny_model("llama"), word_task(4), "letter", out=tmp_path, progress=False)
    (tmp_path / REQUESTS).unlink()
    (tmp_path / NOT_KEPT_FILE).write_text(f"{REQUESTS}\n")
    return tmp_path


def test_what_is_not_kept_is_named_and_is_no_problem(run_without_requests: Path):
    found = lw.verify(run_without_requests)
    assert found.ok
    assert found.files[REQUESTS] == "not kept"
    assert NOT_KEPT_FILE not in found.files
    n = sum(state == "ok" for state in found.files.values())
    assert found.sentence == (
        f"{run_without_requests} is as it was written: {n} files have their SHA-256; left "
        f"out on purpose, as "
        f"not_kept.txt says, and not checked: {REQUESTS}."
    )
    said = commands.run_cleanly("verify", run_without_requests)
    assert f"{REQUESTS}: not kept\n" in said
    assert said.endswith(f"and not checked: {REQUESTS}.\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (read,) = lw.load(run_without_requests)
    assert len(read.records)
    lw.ablate(tiny_model("llama"), word_task(4), "letter", out=run_without_requests, progress=False)
    assert lw.verify(run_without_requests).files[REQUESTS] == "ok"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / NOT_KEPT_FILE).unlink(), f"{REQUESTS} is missing"),
        (lambda folder: (folder / "estimates.parquet").unlink(), "estimates.parquet is missing"),
        (lambda folder: (folder / REQUESTS).write_text("else"), f"{REQUESTS} is changed"),
        (
            lambda folder: (folder / NOT_KEPT_FILE).write_text(f"{REQUESTS}\nnotes.txt\n"),
            "not_kept.txt names notes.txt, which run.json does not list",
        ),
    ],
)
def test_what_differs_beside_it_is_a_problem(run_without_requests: Path, change, problem: str):
    change(run_without_requests)
    assert lw.verify(run_without_requests).problems == (problem,)


def test_measurements_that_are_not_kept_can_be_verified_and_not_read(tmp_path: Path):
    synthetic.small_ablation().save(tmp_path)
    (tmp_path / "records.parquet").unlink()
    (tmp_path / NOT_KEPT_FILE).write_text("records.parquet\n")
    assert lw.verify(tmp_path).ok
    with pytest.raises(DamagedResultsError, match=r"not kept here, as not_kept\.txt says"):
        lw.load(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("own", LISTS, ids=lambda path: str(path.parent.relative_to(ANALYSES)))
def test_saved_studies_are_as_they_were_written(own: Path):
    found = lw.verify(own.parent)
    assert found.ok, found.sentence
